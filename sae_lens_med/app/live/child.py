"""What the model's process does: reads a request, opens the study's model where it is not open, runs, and tells.

    steer      a case: logits of its option letters unedited, edited, and for each random set; then written text
    compare    a case and an edited one: logits, and the features of their stems by maximum over the counted tokens
    open       nothing but opening the model

Which tokens of an edited question count is decided as when features are collected: special tokens and activation sinks
do not, by the threshold that the study recorded. Logits that an edit moves by less than rounding are unmoved
(`AboveHook.resolution`).

One model is open at a time. A request is let go between two passes when it is cancelled. When the input ends, the
process does, whatever it is doing.

Out of scope: what the numbers mean (`steering`, `edited`).
"""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.alignment.causal_items import answer_texts
from sae_lens_med.errors import SaeLensMedError
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.features.vectors import STEM_PARTS
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import PARTS, McqItem, Provenance
from sae_lens_med.runs.files import json_line
from sae_lens_med.runs.parsing import ParseError, parse_json
from sae_lens_med.study.folder import read_about, read_questions
from sae_lens_med.study.opened import OpenedModel

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook

_AT_ONCE = 5
"""Random sets between two looks at whether the run is still wanted."""
Opener = Callable[[Provenance, str | None, str | None], ModelSide]
"""Provenance of a study, and where its model and SAE are now if elsewhere -> both, opened."""
Tell = Callable[..., None]
"""`tell(event, **data)`; raises `_Cancelled` where the run is not wanted any more."""


class _Cancelled(Exception):
    """The run is not wanted any more."""


class _Failed(Exception):
    """The question cannot be run; `problem` is the key of the sentence that says why."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A study with its model, open."""

    items: tuple[McqItem, ...]
    part: FeaturePart
    side: ModelSide
    above: "AboveHook"


def serve(requests: IO[bytes], answers: IO[str], opener: Opener) -> None:
    """Answer until `requests` end, then end the process."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    cancelled: set[str] = set()

    def read() -> None:
        try:
            for line in requests:
                try:
                    message = parse_json(line)
                except ParseError:  # half a line of a server that was killed
                    continue
                if "cancel" in message:
                    cancelled.add(message["cancel"])
                else:
                    waiting.put(message)
        finally:
            os._exit(0)  # whoever asked is gone, or what is asked cannot be read any more

    threading.Thread(target=read, daemon=True).start()
    open_now: dict[str, Study] = {}
    while True:
        request = waiting.get()
        run = request["run"]

        def say(event: str, data: dict[str, Any], run: str = run) -> None:
            answers.write(json_line({"run": run, "event": event, "data": data}))
            answers.flush()

        def tell(event: str, run: str = run, **data: Any) -> None:
            if run in cancelled:
                raise _Cancelled
            say(event, data, run)

        try:
            _answer(request, open_now, opener, tell)
        except _Cancelled:
            cancelled.discard(run)
            say("cancelled", {})
        except _Failed as failed:
            say("failed", {"problem": failed.problem, "sentence": ""})
        except SaeLensMedError as error:
            say("failed", {"problem": "steer.problem.model", "sentence": str(error)})
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            open_now.clear()
            memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
            problem = "steer.problem.memory" if memory else "steer.problem.unexpected"
            say("failed", {"problem": problem, "sentence": "" if memory else type(error).__name__})


def _answer(request: dict[str, Any], open_now: dict[str, Study], opener: Opener, tell: Tell) -> None:
    key = json.dumps([request["folder"], request["model"], request["sae"]])
    if key not in open_now:
        tell("loading")
        open_now.clear()
        open_now[key] = _opened(request, opener)
    study = open_now[key]
    tell("opened")
    if request["do"] == "steer":
        _steer(study, request, tell)
    elif request["do"] == "compare":
        _compare(study, request, tell)
    tell("done")


def _opened(request: dict[str, Any], opener: Opener) -> Study:
    folder = Path(request["folder"])
    provenance, _, _ = read_about(folder)
    items = tuple(read_questions(folder).values())
    part = FeaturePart(folder / "features")
    import torch  # takes seconds, which a study that cannot be read saves

    from sae_lens_med.interventions.edits import AboveHook

    # A core is left to the server, which goes on being read.
    torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) - 1)))
    side = OpenedModel(lambda known: opener(known, request["model"], request["sae"]), provenance).get()
    return Study(items, part, side, AboveHook(side.model, side.loaded_sae, batch_tokens=side.batch_tokens))


def _steer(study: Study, request: dict[str, Any], tell: Tell) -> None:
    from sae_lens_med.interventions.edits import Change

    number, above, model = request["case"], study.above, study.side.model
    texts = answer_texts([study.items[number]], study.part.item(number), model.text_tokenizer, shots=study.side.shots)
    if not texts:
        raise _Failed("steer.problem.uncounted")
    text = texts[0]
    edits = [
        Change(*(tuple((int(f), float(v)) for f, v in each[name]) for name in ("put", "add")))
        for each in request["edits"]
    ]
    hooked = above.read(text.token_ids, text.chosen)
    whole, _, _ = above.logits(hooked, [], text.letters)
    tell("baseline", logits=whole.tolist())
    _, found, size = above.logits(hooked, edits[:1], text.letters)
    tell("edited", logits=_settled(found, whole, above)[0].tolist(), size=float(size[0]))
    for first in range(1, len(edits), _AT_ONCE):
        _, found, _ = above.logits(hooked, edits[first : first + _AT_ONCE], text.letters)
        tell("band", logits=_settled(found, whole, above).tolist())
    if request["new_tokens"]:
        for side, edit in (("before", None), ("after", edits[0])):
            for written in _written(study, hooked, edit, request["new_tokens"]):
                tell("token", side=side, text=written)


def _written(study: Study, hooked: Any, edit: Any, most: int) -> Iterator[str]:
    """The text so far, after each token; whole characters."""
    from sae_lens_med.models.engine import end_tokens

    model, ids = study.side.model, []
    for token in study.above.continued(hooked, edit, end_tokens(model), most):
        ids.append(token)
        text = model.text_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        yield text.rstrip("\ufffd")


def _settled(logits: Any, whole: Any, above: "AboveHook") -> Any:
    return np.where(np.abs(logits - whole) < above.resolution, whole, logits)


def _compare(study: Study, request: dict[str, Any], tell: Tell) -> None:
    item = study.items[request["case"]]
    edited = replace(
        item, question=request["question"], options=tuple(request["options"]), question_spans=(), explanation_spans=()
    )
    for event, each in (("baseline", item), ("edited", edited)):
        tell(event, **_read(study, each))


def _read(study: Study, item: McqItem) -> dict[str, Any]:
    """Logits of the option letters, and the maxima of the features over the counted stem tokens."""
    from sae_lens_med.features.rules import special_ids

    above, model = study.above, study.side.model
    prompt = question_prompt(item, model.text_tokenizer, shots=study.side.shots)
    stem = np.isin(prompt.token_parts, [PARTS.index(part) for part in STEM_PARTS])
    stem &= ~np.isin(prompt.token_ids, special_ids(model))
    if not stem.any():
        raise _Failed("steer.problem.short")
    hooked = above.read(prompt.token_ids, stem)
    norms = hooked.x.flatten(1).float().norm(dim=1)[hooked.at].cpu().numpy()
    counted = norms <= study.part.manifest["exclusion"]["sink_threshold"]
    logits, _, _ = above.logits(hooked, [], prompt.letter_token_ids)
    maxima = hooked.active[np.flatnonzero(counted)].max(axis=0).toarray().ravel() if counted.any() else np.zeros(0)
    features = np.flatnonzero(maxima)
    return {
        "logits": logits.tolist(),
        "features": features.tolist(),
        "values": maxima[features].astype(np.float32).tolist(),
    }
