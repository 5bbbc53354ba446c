"""Lesion, saliency and patching of a map, in its folder: done part by part, and gone on with where it was stopped.

    pairs.json                    the pairs of each domain, language and frame, and what is left out
    causal/PART.safetensors       what a method gave, of all blocks

A part is one method in all blocks on the pairs of one domain, language and frame, of one model (`model`, `random-1`,
...): seconds for a small model. Of random models patching needs the medical pairs with their own donors alone; lesion
and saliency are relative to plain statements there, too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from sae_lens_med.knowledge_map.causal_rows import Frames, lesion_rows, patching_rows, saliency_rows
from sae_lens_med.knowledge_map.lists import FRAMES, Frame, LanguageCode, Place
from sae_lens_med.knowledge_map.measure import MapRow
from sae_lens_med.knowledge_map.pairs import FramedPlace, Pairs, Statements, made_pairs
from sae_lens_med.knowledge_map.patching import Patched
from sae_lens_med.records import FloatArray
from sae_lens_med.runs.files import atomic_path, write_json
from sae_lens_med.runs.folder import RunFolder

if TYPE_CHECKING:
    from sae_lens_med.knowledge_map.block_runs import BlockRuns
    from sae_lens_med.models.bridge import MedBridge

CAUSAL = ("saliency", "lesion", "patching")


@dataclass(frozen=True, slots=True)
class CausalJob:
    """One part."""

    method: str
    domain: str
    language: LanguageCode
    frame: Frame
    which: str

    @property
    def part(self) -> str:
        """Its name."""
        return "-".join((self.method, self.domain, self.language, self.frame, self.which))


class CausalRun:
    """The causal part of a map.

    Args:
        run: the folder.
        statements: the table.
        places: domains and languages that are asked about; those without statements are passed over.
        methods: of `CAUSAL`.
        most_pairs: of a domain, language and frame.
        tokenizer: of the model.
    """

    def __init__(
        self,
        run: RunFolder,
        statements: Statements,
        places: Sequence[Place],
        methods: Sequence[str],
        most_pairs: int,
        tokenizer: object,
    ) -> None:
        self.run = run
        self.methods = [method for method in CAUSAL if method in methods]
        self.places = [place for place in places if place in statements.places] if self.methods else []
        self.pairs: dict[FramedPlace, Pairs] = {
            (*place, frame): made_pairs(statements, (*place, frame), tokenizer, most_pairs)  # type: ignore[arg-type]  # a fast tokenizer, which text_prompt requires
            for place in self.places
            for frame in FRAMES
        }

    def jobs(self, which: str) -> list[CausalJob]:
        """The parts of one model."""
        return [
            CausalJob(method, *place, frame, which)
            for method in self.methods
            for place in self.places
            for frame in FRAMES
            if self.pairs[(*place, frame)].pairs
            and not (method == "patching" and frame == "plain" and which != "model")
        ]

    def size(self, job: CausalJob) -> int:
        """Pairs of a part."""
        return len(self._pairs(job).pairs)

    def do(
        self, model: "MedBridge", jobs: Sequence[CausalJob], batch_tokens: int, advance: Callable[[int], None]
    ) -> None:
        """What of `jobs` is not done yet; `advance` is called with the pairs that are."""
        missing = [job for job in jobs if job.part not in self.run.parts]
        advance(sum(self.size(job) for job in jobs) - sum(self.size(job) for job in missing))
        if not missing:
            return
        from sae_lens_med.knowledge_map.block_runs import BlockRuns

        self._tell()
        runs = BlockRuns(model)
        for job in missing:
            began = time.monotonic()
            arrays = _done(runs, job, self._pairs(job), batch_tokens, advance)
            (self.run.path / "causal").mkdir(exist_ok=True)
            with atomic_path(_file(self.run.path, job.part)) as path:
                save_file(arrays, path)
            self.run.finish(job.part, time.monotonic() - began, pairs=self.size(job))

    def rows(self, random_models: int, permutations: int, rng: np.random.Generator) -> list[MapRow]:
        """The rows of all places, without q."""
        found: list[MapRow] = []
        random = [f"random-{k}" for k in range(1, random_models + 1)]
        for place in self.places:
            if not all(self.pairs[(*place, frame)].pairs for frame in FRAMES):
                continue
            for method, make in (("saliency", saliency_rows), ("lesion", lesion_rows)):
                if method in self.methods:
                    model, *others = (self._frames(method, place, which) for which in ("model", *random))
                    found += make(*place, model, others, permutations, rng)
            if "patching" in self.methods:
                asked: list[tuple[Frame, str]] = [("plain", "model")]
                for which in ("model", *random):
                    asked.append(("medical", which))
                patched = {
                    (frame, which): Patched(**self._arrays(CausalJob("patching", *place, frame, which)))
                    for frame, which in asked
                }
                others = [patched["medical", which] for which in random]
                found += patching_rows(
                    *place, patched["medical", "model"], patched["plain", "model"], others, permutations, rng
                )
        return found

    def _pairs(self, job: CausalJob) -> Pairs:
        return self.pairs[job.domain, job.language, job.frame]

    def _frames(self, method: str, place: Place, which: str) -> Frames:
        values = [self._arrays(CausalJob(method, *place, frame, which))["values"] for frame in FRAMES]
        texts = [pair.text for frame in FRAMES for pair in self.pairs[(*place, frame)].pairs]
        medical = np.repeat([frame == "medical" for frame in FRAMES], [len(each) for each in values])
        return Frames(np.concatenate(values), medical, tuple(texts))

    def _arrays(self, job: CausalJob) -> dict[str, FloatArray]:
        return load_file(_file(self.run.path, job.part))

    def _tell(self) -> None:
        told = [
            {
                "domain": domain,
                "language": language,
                "frame": frame,
                "pairs": [[pair.text, *pair.concepts] for pair in found.pairs],
                "left_out": found.left_out,
            }
            for (domain, language, frame), found in self.pairs.items()
        ]
        write_json(self.run.path / "pairs.json", told)


def _done(
    runs: "BlockRuns", job: CausalJob, pairs: Pairs, batch_tokens: int, advance: Callable[[int], None]
) -> dict[str, FloatArray]:
    from sae_lens_med.knowledge_map.lesion import lesions
    from sae_lens_med.knowledge_map.patching import patch
    from sae_lens_med.knowledge_map.saliency import saliencies

    if job.method == "patching":
        donors = job.frame == "medical" and job.which == "model"
        patched = patch(runs, pairs.pairs, donors=donors, batch_tokens=batch_tokens, on_batch=advance)
        return {"ends": patched.ends, "patched": patched.patched}
    method = lesions if job.method == "lesion" else saliencies
    return {"values": method(runs, pairs.pairs, batch_tokens=batch_tokens, on_batch=advance)}


def _file(folder: Path, part: str) -> Path:
    return folder / "causal" / f"{part}.safetensors"
