"""Several conditions on the same items in one run: plain, interventions, and matched random features beside them.

    output/
      manifest.json                       identity of the run, and the random feature sets of each condition
      statistics.safetensors              feature statistics (`-2`, ... of further SAEs)
      conditions/NAME/items.jsonl         one `ItemResult` a line
      conditions/NAME/random-03.jsonl     the same of the 4th random set
      comparison.json, .csv, .md          `conditions.compare`, `conditions.tables`
      flips.csv                           items whose answer changed, item by item
      steering.svg                        `conditions.plot`, where a condition has strengths

Results are written batch by batch; the same call on the same folder goes on where the last one stopped.

Random sets are matched on feature statistics over the same questions without shots (or over other items that the
caller gives). They depend on the seed and on the condition's features alone, so that all strengths of an entry, and all
entries on the same features, share them.

Out of scope: methods that generate text, which give no log-probability of the gold option.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from sae_lens_med import distributed
from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import ConfigError, SaeLensMedError, StudyError
from sae_lens_med.evaluation.conditions.compare import (
    Comparison,
    ConditionRun,
    compare,
)
from sae_lens_med.evaluation.conditions.plot import steering_svg
from sae_lens_med.evaluation.conditions.spec import Condition, Conditions, Feature
from sae_lens_med.evaluation.conditions.tables import comparison_csv, comparison_md, flips_csv
from sae_lens_med.evaluation.methods import Method, as_method, ask, run_method
from sae_lens_med.features.matched import matched_sets
from sae_lens_med.features.statistics import FeatureStatistics, feature_statistics, texts_sha256
from sae_lens_med.interventions import intervention_pairs
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.records import ItemResult, McqItem
from sae_lens_med.runs.files import json_sha256, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.partial import PartialResults, read_results, write_results
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import identity, make_provenance
from sae_lens_med.runs.written import hashes, not_as_written
from sae_lens_med.saes.releases import LoadedSae

FORMAT = 1
COMPARISON = "comparison.json"
PLOT = "steering.svg"
WRITES = (COMPARISON, "comparison.*", "flips.csv", PLOT, "conditions/*/*.jsonl")
"""What a finished run leaves."""
KIND = Kind(
    "comparison",
    format=1,
    identity=itemgetter("identity"),
    bound=lambda folder, _: any(folder.glob("conditions/*/items.jsonl")),
    # Statistics alone are left by a run of which a condition was refused.
    leftovers=lambda names: all(re.fullmatch(r"statistics(-\d+)?\.safetensors", name) for name in names),
)
SCORING = ("letter", "option-text")
"""Methods that give a log-probability of each option."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """One run over the items."""

    condition: Condition
    path: Path
    """Its results."""


def run_conditions(
    model: MedBridge,
    data: LoadedItems,
    conditions: Conditions,
    output: Path,
    *,
    saes: LoadedSae | Mapping[str, LoadedSae] | None = None,
    method: Method | str = "letter",
    shots: Sequence[McqItem] = (),
    statistics_items: Sequence[McqItem] | None = None,
    batch_tokens: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Run all conditions on `data` and write the comparison to the folder `output`.

    Args:
        model: from `load_model`.
        data: the items; must not hold the shots (`shots.choose_shots`).
        conditions: from `load_conditions`.
        output: new, empty, or the folder of the same run, which then goes on.
        saes: the SAE of the interventions, or several by the name that entries give under `sae`.
        method: `letter` or `option-text`.
        shots: solved examples before every question.
        statistics_items: whose questions the feature statistics are over; those of `data` when not given.
        batch_tokens: most tokens of a forward pass; does not change the results.
        resamples: of the bootstrap.
        seed: of random sets and bootstrap.
        progress: show a bar on stderr.

    Raises `StudyError` when the folder holds something else or a run with other settings; `ConfigError` for a condition
    that cannot be run (no SAE, a feature that does not exist or never fires, an unknown unit), before anything runs;
    `DataError` when random sets cannot be matched; what `run_method` raises.
    """
    method = as_method(method)
    if method.name not in SCORING:
        raise ConfigError(
            f"conditions are compared by the gold option's log-probability, which the method {method.name!r} does not "
            f"give; use {' or '.join(SCORING)}."
        )
    with_features = any(condition.features for condition in conditions.conditions)
    if saes is None and any(condition.interventions for condition in conditions.conditions):
        raise ConfigError("interventions need an SAE; pass the one whose features they change.")
    named = _named(saes, conditions)
    engine = bind(Engine, model, batch_tokens=batch_tokens)
    ask(model, data.items, method, shots)  # what does not fit is said before anything runs
    texts = []
    if with_features:
        items = data.items if statistics_items is None else statistics_items
        texts = [asked.prompt for asked in ask(model, items, method)]
    settings = {
        **method.settings([item.language for item in data.items]),
        "shots": [shot.id for shot in shots],
        "conditions": [condition.to_dict() for condition in conditions.conditions],
        "matched_random": conditions.matched_random,
        "saes": {str(name or ""): _about(sae) for name, sae in named.items()},
        "statistics_texts": texts_sha256(texts) if with_features else None,
        "resamples": resamples,
        "batch_tokens": batch_tokens,
        "device": str(model.cfg.device),
    }
    only = next(iter(named.values())) if len(named) == 1 else None
    provenance = make_provenance(model.provenance, only, data, settings, seed)
    output = Path(output)
    with distributed.initialised() as me:
        run = RunFolder(output, KIND, {"identity": identity(provenance)})
        if distributed.broadcast_object(_is_whole(run) if me.first else None):
            return read_comparison(output)
        run.hold()
        found: dict[str | None, FeatureStatistics] = {}
        if with_features:
            with distributed.first_before_the_others():
                found = _statistics(model, named, texts, output, progress and me.first)
        hooks = bind(_hooks, saes=saes, statistics=found, special_ids=model.text_tokenizer.all_special_ids)
        for condition in conditions.conditions:
            hooks(condition)  # what cannot be run is said before anything is
        sets = {} if not conditions.matched_random else _random_sets(conditions, found, seed)
        if run.replaces is not None and me.first:
            shutil.rmtree(output / "conditions", ignore_errors=True)
        run.begin()
        distributed.barrier()
        units = _units(conditions, sets, output)
        with progress_bar(progress and me.first) as bar:
            # Those of the file first, so that they can be looked at while the random ones run.
            for unit in sorted(units, key=lambda u: u.path.name != "items.jsonl"):
                _run(unit, engine, hooks, data.items, method, shots, identity(provenance), seed, bar)
        if me.first:
            ran = [_condition_run(condition, sets, found, output) for condition in conditions.conditions]
            about = {str(name or ""): _about_statistics(each) for name, each in found.items()}
            _write(output, compare(ran, provenance, statistics=about, resamples=resamples, seed=seed))
            run.values["files"] = hashes(output, WRITES)
            run.write()
        distributed.barrier()
    return read_comparison(output)


def _is_whole(run: RunFolder) -> bool:
    """Whether the run is finished, with every file as it was written. Results of conditions that are not are deleted,
    so that they are made again."""
    if not (run.path / COMPARISON).is_file():
        return False
    broken = not_as_written(run.path, run.values.get("files", {}))
    for name, state in broken.items():
        warnings.warn(f"{run.path / name} {state}; it is made again.", stacklevel=2)
        if name.startswith("conditions/"):
            (run.path / name).unlink(missing_ok=True)
    return not broken


def _named(saes: LoadedSae | Mapping[str, LoadedSae] | None, conditions: Conditions) -> dict[str | None, LoadedSae]:
    """The SAEs by the names that entries give; None for one that needs no name."""
    if saes is None:
        return {}
    if isinstance(saes, Mapping):
        return {**saes}
    for condition in conditions.conditions:
        for each in condition.parsed:
            if each.sae not in (None, saes.source):
                raise ConfigError(
                    f"condition {condition.name!r} names the SAE {each.sae!r}, but {saes.source!r} is the one given."
                )
    return {None: saes}


def read_comparison(folder: Path) -> Comparison:
    """The comparison that a finished run wrote. Raises `StudyError` when it is not there or damaged."""
    path = Path(folder) / COMPARISON
    try:
        values = read_json(path)
        if values.pop("format") != FORMAT:
            raise StudyError(f"{path} does not have the format that this version reads ({FORMAT}).")
        return Comparison.from_dict(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path} is not a finished comparison ({error}); run it again.") from error


def _statistics(
    model: MedBridge, saes: Mapping[str | None, LoadedSae], texts: Sequence[Any], output: Path, progress: bool
) -> dict[str | None, FeatureStatistics]:
    """Of each SAE; from the folder, where those of this model, SAE and texts are there."""
    found = {}
    for number, (name, sae) in enumerate(saes.items(), 1):
        path = output / ("statistics.safetensors" if number == 1 else f"statistics-{number}.safetensors")
        if path.exists():
            there = FeatureStatistics.load(path)
            about = (there.data_sha256, there.model)
            if sae.is_that_of(there.sae) and about == (texts_sha256(texts), json.loads(json.dumps(model.provenance))):
                found[name] = there
                continue
        found[name] = feature_statistics(model, sae, texts, progress=progress)
        found[name].save(path)
    return found


def _hooks(
    condition: Condition,
    *,
    saes: LoadedSae | Mapping[str, LoadedSae] | None,
    statistics: Mapping[str | None, FeatureStatistics],
    special_ids: Sequence[int],
) -> list[tuple[str, Callable[..., Any]]]:
    if saes is None:
        return []
    given: Any = statistics if isinstance(saes, Mapping) and statistics else statistics.get(None)
    try:
        pairs = intervention_pairs(condition.parsed, saes, statistics=given, special_ids=special_ids)
    except SaeLensMedError as error:
        raise type(error)(f"condition {condition.name!r}: {error}") from error
    for each in condition.parsed:
        for feature, _ in each.features:
            measured = _of(each.sae, statistics)
            if each.unit == "max" and not measured.maximum[feature]:
                raise ConfigError(
                    f"condition {condition.name!r}: feature {feature} never fires on the {measured.n_tokens} tokens of "
                    "the feature statistics, so its maximum cannot be a unit; use unit raw or norm, or statistics "
                    "over other data."
                )
    return pairs


def _of(name: str | None, statistics: Mapping[str | None, FeatureStatistics]) -> FeatureStatistics:
    """Where there is one SAE, an entry need not name it."""
    return statistics[name] if name in statistics else next(iter(statistics.values()))


def _random_sets(
    conditions: Conditions, statistics: Mapping[str | None, FeatureStatistics], seed: int
) -> dict[str, tuple[tuple[dict[Feature, int], ...], tuple[float, ...]]]:
    """Per condition on features: what takes the place of each feature, per set; and how far each is from its own."""
    found = {}
    for condition in conditions.conditions:
        if not condition.features:
            continue
        # By the features alone, so that all strengths and interventions on them meet the same sets.
        digest = int(json_sha256(sorted(str(f) for f in condition.features))[:16], 16)
        maps: list[dict[Feature, int]] = [{} for _ in range(conditions.matched_random)]
        folds: list[float] = []
        for sae in dict.fromkeys(name for name, _ in condition.features):
            own = sorted(index for name, index in condition.features if name == sae)
            rng = np.random.default_rng([seed, digest])
            matched = matched_sets(_of(sae, statistics), own, conditions.matched_random, rng)
            folds += matched.fold.ravel().tolist()
            for mapping, row in zip(maps, matched.sets.tolist(), strict=True):
                mapping.update({(sae, index): other for index, other in zip(own, row, strict=True)})
        found[condition.name] = (tuple(maps), tuple(folds))
    return found


def _units(conditions: Conditions, sets: Mapping[str, Any], output: Path) -> list[_Unit]:
    units = []
    for condition in conditions.conditions:
        folder = output / "conditions" / condition.name
        units.append(_Unit(condition, folder / "items.jsonl"))
        for k, mapping in enumerate(sets[condition.name][0] if condition.name in sets else ()):
            units.append(_Unit(condition.on(mapping), folder / f"random-{k:02d}.jsonl"))
    return units


def _run(
    unit: _Unit,
    engine: Callable[..., Engine],
    hooks: Callable[[Condition], list[Any]],
    items: Sequence[McqItem],
    method: Method,
    shots: Sequence[McqItem],
    own_identity: Mapping[str, Any],
    seed: int,
    bar: Progress,
) -> None:
    """Results of one unit, in its file; nothing where the file is there."""
    me = distributed.ranks()
    if distributed.broadcast_object(unit.path.is_file() if me.first else None):
        return
    partial = PartialResults(unit.path.with_suffix(".partial.jsonl"), own_identity)
    if any(each.mode == "resample" and each.values is None for each in unit.condition.parsed):
        # Its draws follow from all passes before: started afresh, the result is that of a run without interruption.
        partial.remove()
        distributed.barrier()
        partial = PartialResults(unit.path.with_suffix(".partial.jsonl"), own_identity)
    what = unit.condition.name + ("" if unit.path.stem == "items" else f" {unit.path.stem}")
    task = bar.add_task(what, total=len(items), completed=len(partial.done))

    def written(results: list[ItemResult]) -> None:
        partial.append(results)
        bar.advance(task, len(results))

    results = run_method(
        engine(hooks(unit.condition)),
        items,
        method,
        shots=shots,
        seed=seed,
        progress=False,
        done=partial.records(ItemResult),
        on_results=written,
    )
    if me.first:
        write_results(unit.path, results)
        partial.remove()
    distributed.barrier()
    bar.remove_task(task)


def _condition_run(
    condition: Condition, sets: Mapping[str, Any], statistics: Mapping[str | None, FeatureStatistics], output: Path
) -> ConditionRun:
    folder = output / "conditions" / condition.name
    maps, folds = sets.get(condition.name, ((), ()))
    return ConditionRun(
        condition=condition,
        results=read_results(folder / "items.jsonl"),
        random_sets=tuple(tuple(mapping[feature] for feature in condition.features) for mapping in maps),
        random_results=[read_results(folder / f"random-{k:02d}.jsonl") for k in range(len(maps))],
        fold=folds,
        firing_rates=tuple(float(_of(sae, statistics).firing_rate[index]) for sae, index in condition.features),
    )


def _write(output: Path, comparison: Comparison) -> None:
    """The comparison itself last: where it is, the rest is."""
    plot = steering_svg(comparison)
    if plot is not None:
        write_text(output / PLOT, plot)
    write_text(output / "comparison.csv", comparison_csv(comparison))
    write_text(output / "flips.csv", flips_csv(comparison))
    write_text(output / "comparison.md", comparison_md(comparison, plot=None if plot is None else PLOT))
    write_json(output / COMPARISON, {"format": FORMAT, **comparison.to_dict()})


def _about(sae: LoadedSae) -> dict[str, Any]:
    return {key: value for key, value in sae.identity.items() if key != "source"}


def _about_statistics(statistics: FeatureStatistics) -> dict[str, Any]:
    return {
        "sae": statistics.sae,
        "n_tokens": statistics.n_tokens,
        "texts_sha256": statistics.data_sha256,
        "exclusion": statistics.exclusion,
        "features_that_fire": int((statistics.firing_rate > 0).sum()),
    }
