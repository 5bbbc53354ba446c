"""A model and lists -> a folder with its knowledge map: read, measured, written, and gone on with where it stopped.

    manifest.json                     what the map depends on, which parts are done
    read/DOMAIN-LANGUAGE-WHICH.safetensors    activations of concepts (`reading`), one file for each model and frame
    pairs.json  causal/               what was done to the model (`causal_run`)
    map.json  map.csv                 the rows (`measure.MapRow`), all scales and positions
    map.svg                           the map
    combined.json  combined.svg       where several methods agree (`combined`)

The folder of a map takes further methods later: it then holds the rows of all that were ever asked of it.

Models with permuted weights are made of the model itself, opened once more: seed k permutes what seed k - 1 left.

Out of scope: several processes.
"""

import csv
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from sae_lens_med.errors import ConfigError, DataError, nearest
from sae_lens_med.knowledge_map.causal_run import CausalRun
from sae_lens_med.knowledge_map.combined import Agreement, agreements
from sae_lens_med.knowledge_map.lists import LanguageCode, Lists, Place
from sae_lens_med.knowledge_map.measure import METHODS, MapRow, Read, across, corrected, measured, require_readable
from sae_lens_med.knowledge_map.pairs import Statements, packaged_statements
from sae_lens_med.knowledge_map.reading import Float32Array, read_concepts, slot_texts
from sae_lens_med.runs.files import atomic_path, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge

KIND = Kind("knowledge map", format=1, identity=lambda values: values["identity"])
LEAST_PAIRS = 10
"""Concepts with a name in both languages that `retrieval` needs."""
_ARRAY = "means"


@dataclass(frozen=True, slots=True)
class MapSettings:
    """What the user chooses."""

    languages: tuple[LanguageCode, ...] = ("ko", "en")
    permutations: int = 1000
    random_models: int = 3
    """Models with permuted weights beside it."""
    methods: tuple[str, ...] = METHODS
    pairs: int = 8
    """Most pairs of statements of a domain, language and frame, for the methods that do something to the model."""
    seed: int = 0
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("permutations", 19, 10**6), ("random_models", 0, 100), ("pairs", 3, 10**6)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from {least} to {most}, got {getattr(self, name)}.")
        if not self.languages:
            raise ConfigError("name at least one language: ko, en.")
        for name in self.methods:
            if name not in METHODS:
                raise ConfigError(
                    f"there is no method {name!r}{nearest(name, METHODS) or '.'} There are: {', '.join(METHODS)}."
                )
        if not self.methods:
            raise ConfigError(f"name at least one method: {', '.join(METHODS)}.")


@dataclass(frozen=True, slots=True)
class _Job:
    """One file of activations."""

    domain: str
    language: LanguageCode
    which: str
    """`model`, `plain`, `random-1` ..."""

    @property
    def part(self) -> str:
        return f"{self.domain}-{self.language}-{self.which}"


def make_map(
    open_model: Callable[[], "MedBridge"],
    lists: Lists,
    output: Path,
    settings: MapSettings | None = None,
    *,
    statements: Statements | None = None,
    progress: bool = True,
) -> list[MapRow]:
    """The map of a model, in the folder `output`.

    Args:
        open_model: gives the model, anew at each call.
        lists: what it is asked about; a domain without concepts or templates in a language is left out there.
        output: new, empty, or that of the same map.
        settings: see `MapSettings`.
        statements: for saliency, lesion and patching, of the domains of `lists`; None: the packaged ones. A domain
            without statements in a language is left out of these.
        progress: show a bar on stderr.

    Raises `StudyError` for a folder of something else, `DataError` for lists of which nothing can be read off.
    """
    settings, statements = settings or MapSettings(), statements or packaged_statements()
    places = lists.places(settings.languages)
    for place in places if "geometry" in settings.methods else []:
        require_readable(lists.of(*place))
    model = open_model()
    chosen = {
        "languages": list(settings.languages),
        "permutations": settings.permutations,
        "random_models": settings.random_models,
        "pairs": settings.pairs,
        "seed": settings.seed,
    }
    identity = {
        "model": dict(model.provenance),
        "lists": {"source": lists.source, "sha256": lists.sha256},
        "statements": {"source": statements.source, "sha256": statements.sha256},
    }
    values = {"identity": {**identity, "settings": chosen}, "versions": versions(), "methods": [], "parts": {}}
    run = RunFolder(output, KIND, values)
    run.begin()
    methods = [each for each in METHODS if each in (*settings.methods, *run.values["methods"])]
    run.values["methods"] = methods
    run.write()
    causal = CausalRun(run, statements, places, methods, settings.pairs, model.text_tokenizer)
    _do(open_model, model, lists, places if "geometry" in methods else [], causal, run, settings, progress)
    rows = _measured(lists, places if "geometry" in methods else [], output, settings, progress)
    rng = np.random.default_rng(settings.seed)
    rows = corrected([*rows, *causal.rows(settings.random_models, settings.permutations, rng)])
    if not rows:
        raise DataError(
            f"{lists.source} and {statements.source} give nothing to {', '.join(methods)}: no domain has statements of "
            "both frames that pair with this tokenizer; add some, or add the method geometry."
        )
    write_map(rows, output)
    if len({row.method for row in rows}) > 1:
        write_combined(agreements(rows, settings.permutations, rng), output)
    return rows


def _do(
    open_model: Callable[[], "MedBridge"],
    model: "MedBridge",
    lists: Lists,
    places: list[Place],
    causal: CausalRun,
    run: RunFolder,
    settings: MapSettings,
    progress: bool,
) -> None:
    """Everything that runs a model: the model itself, then those with permuted weights, one opening for all."""
    from sae_lens_med.models.bridge import default_batch_tokens

    (run.path / "read").mkdir(exist_ok=True)
    batch_tokens = settings.batch_tokens or default_batch_tokens(model)
    whole = [_Job(*place, which) for place in places for which in ("model", "plain")]
    read = {"model": [job for job in whole if _templates(lists, job)]}
    read |= {
        f"random-{k}": [_Job(*each, f"random-{k}") for each in places] for k in range(1, settings.random_models + 1)
    }
    done = {which: causal.jobs(which) for which in read}
    with progress_bar(progress) as bar:
        reading = bar.add_task("reading", total=sum(_n_texts(lists, job) for jobs in read.values() for job in jobs))
        doing = bar.add_task("skipping and patching blocks", total=sum(map(causal.size, sum(done.values(), []))))
        for number, which in enumerate(read):
            if number > 0 and any(job.part not in run.parts for name in read for job in (*read[name], *done[name])):
                from sae_lens_med.controls.untrained import permute_weights

                model = open_model() if number == 1 else model
                permute_weights(model, settings.seed + number)
            _read_all(model, lists, read[which], run, settings, lambda n: bar.advance(reading, n))
            causal.do(model, done[which], batch_tokens, lambda n: bar.advance(doing, n))


def _measured(lists: Lists, places: list[Place], output: Path, settings: MapSettings, progress: bool) -> list[MapRow]:
    """The rows of the geometry, without q."""
    rng = np.random.default_rng(settings.seed)
    rows: list[MapRow] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("measuring", total=len(places))
        for domain in dict.fromkeys(domain for domain, _ in places):
            read = [_gathered(lists, output, *place, settings) for place in places if place[0] == domain]
            for each in read:
                rows += measured(each, settings.permutations, rng)
                bar.advance(task)
            if len(read) == 2 and len((both := across(*read)).concepts) >= LEAST_PAIRS:
                rows += measured(both, settings.permutations, rng)
    return rows


def write_combined(found: list[Agreement], output: Path) -> None:
    """`combined.json` and `combined.svg`; the picture only where there is something to draw."""
    from sae_lens_med.plots.maps import agreement_map, describe_agreement
    from sae_lens_med.plots.markup import svg

    write_json(output / "combined.json", [each.to_dict() for each in found])
    if found:
        drawn = svg(agreement_map(found), title="Agreement of methods", description=describe_agreement(found))
        write_text(output / "combined.svg", drawn)


def write_map(rows: list[MapRow], output: Path) -> None:
    """`map.json`, `map.csv` and `map.svg`."""
    from sae_lens_med.plots.maps import describe_map, layer_map
    from sae_lens_med.plots.markup import svg

    write_json(output / "map.json", [row.to_dict() for row in rows])
    write_text(output / "map.csv", to_csv(rows))
    if drawn := [row for row in rows if row.q]:
        write_text(output / "map.svg", svg(layer_map(drawn), title="Knowledge map", description=describe_map(drawn)))


def to_csv(rows: list[MapRow]) -> str:
    """A line for each row and depth."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = ("domain", "language", "read_out", "labels", "scale", "position", "n", "left_out")
    table.writerow(
        [*names, "depth", "value", "low", "high", "null_mean", "null_high", "p", "q", "p_best", "characters"]
        + ["embedding", "random_most", "plain", "stands_out"]
    )
    for row in rows:
        for depth, value in enumerate(row.values):
            low, high = row.intervals[depth] or ("", "")
            table.writerow(
                [*(getattr(row, name) for name in names), depth, value, low, high]
                + [row.null_mean[depth], row.null_high[depth], row.p[depth], row.q[depth] if row.q else "", row.p_best]
                + [
                    "" if row.characters is None else row.characters,
                    row.embedding,
                    max((each[depth] for each in row.random), default=""),
                ]
                + [row.plain[depth] if row.plain else "", row.stands_out[depth] if row.stands_out else ""]
            )
    return text.getvalue()


def _templates(lists: Lists, job: _Job) -> tuple[str, ...]:
    return lists.templates_of(job.domain, job.language, "plain" if job.which == "plain" else "medical")


def _n_texts(lists: Lists, job: _Job) -> int:
    return len(lists.of(job.domain, job.language)) * len(_templates(lists, job))


def _read_all(
    model: "MedBridge",
    lists: Lists,
    jobs: list[_Job],
    run: RunFolder,
    settings: MapSettings,
    advance: Callable[[int], None],
) -> None:
    for job in jobs:
        if job.part in run.parts:
            advance(_n_texts(lists, job))
            continue
        began = time.monotonic()
        concepts = lists.of(job.domain, job.language)
        texts = slot_texts(concepts, _templates(lists, job), job.language, model.text_tokenizer)
        means = read_concepts(model, texts, len(concepts), batch_tokens=settings.batch_tokens, on_batch=advance)
        with atomic_path(_file(run.path, job)) as path:
            save_file({_ARRAY: means}, path)
        run.finish(job.part, time.monotonic() - began, texts=len(texts))


def _gathered(lists: Lists, output: Path, domain: str, language: LanguageCode, settings: MapSettings) -> Read:
    def means(which: str) -> Float32Array:
        return load_file(_file(output, _Job(domain, language, which)))[_ARRAY]

    random = tuple(means(f"random-{k}") for k in range(1, settings.random_models + 1))
    read = Read(lists.of(domain, language), (language,), means("model"), random)
    return replace(read, plain=means("plain")) if lists.templates_of(domain, language, "plain") else read


def _file(output: Path, job: _Job) -> Path:
    return output / "read" / f"{job.part}.safetensors"
