"""Two studies, or two variants of one, side by side: whose features are more like those of the explanations?

Paired over the items that both have, with the same question, gold answer and explanation. On these items alone, each
side is measured as `align` measures it (cosines adjusted for text length and script, strata of language, subject and
gold letter), and per item three numbers are compared, always A - B:

- `compare/matched_minus_mismatched`: d_i; only between sides whose similarities are on one scale (the same variant);
- `compare/reciprocal_rank`: of an item's own explanation among all shared items;
- `compare/stratum_percentile`: share of the other explanations of its stratum that are less similar than its own (equal
  ones half), in [0, 1], 0.5 by chance.

Null: the two sides are exchanged item by item (sign flips); p is two-sided. Interval: bootstrap over items. Items of a
stratum share explanations, so they are not quite independent, and p is an approximation.

`write_comparison` keeps it in a folder: `comparison.md` to read, `comparison.json` with where it comes from.

Out of scope: accuracy (`evaluate` and `intervene` compare that), and more than two sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from sae_lens_med.alignment.difference import matched_minus_mismatched
from sae_lens_med.alignment.retrieval import ranked
from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.alignment.similarity import MIN_ADJUSTED, adjust_for_nuisance
from sae_lens_med.controls.collect import CONTROLS
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.escaping import markdown, markdown_head, markdown_row
from sae_lens_med.features.store import load_features
from sae_lens_med.metrics.inputs import Inputs, stratum_labels
from sae_lens_med.metrics.metric import Sentence
from sae_lens_med.records import FloatArray, IntArray, McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO, json_sha256, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.provenance import NAMES, identity
from sae_lens_med.statistics import (
    ALPHA,
    SMALL_N,
    Strata,
    benjamini_hochberg,
    bootstrap_interval,
    coarsen_strata,
    cohen_dz,
    quantile_interval,
    two_sided_p,
)
from sae_lens_med.study.folder import read_study
from sae_lens_med.study.measured import FOLDER
from sae_lens_med.study.verdict import number

_RANGES = {"matched_minus_mismatched": (-4.0, 4.0), "reciprocal_rank": (-1.0, 1.0), "stratum_percentile": (-1.0, 1.0)}
_KO = {
    "matched_minus_mismatched": "자기 해설과 다른 해설의 유사도 차이",
    "reciprocal_rank": "자기 해설의 역순위",
    "stratum_percentile": "같은 층에서 자기 해설의 백분위",
}
_BLOCK = 4_000_000
REPORT = "comparison.md"
KIND = Kind(
    "comparison of studies",
    format=1,
    manifest="comparison.json",
    identity=itemgetter("identity"),
    leftovers=lambda names: set(names) <= {REPORT},
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_studies` returns."""

    name_a: str
    name_b: str
    n_items: int
    """Items that both sides have, with an explanation."""
    metrics: tuple[MetricValue, ...]
    """Differences A - B; `extra` holds `a` and `b`, the two means."""
    notes: tuple[str, ...]
    summary: Sentence
    identity: dict[str, Any] = field(default_factory=dict)
    """What decided the numbers: both studies, the variants, the settings."""

    @property
    def q(self) -> tuple[float, ...]:
        """Per metric, p after correction over them (Benjamini-Hochberg)."""
        return _corrected(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """For `compare --json`."""
        return {
            "a": self.name_a,
            "b": self.name_b,
            "n_items": self.n_items,
            "metrics": [metric.to_dict() for metric in self.metrics],
            "notes": list(self.notes),
            "summary": {"en": self.summary.en, "ko": self.summary.ko},
        }


def compare_studies(
    study_a: Path,
    study_b: Path | None = None,
    *,
    variants: Sequence[str] = (),
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two studies, or two variants of one; see the module.

    Args:
        study_a: a finished study.
        study_b: another; None: the same one, then `variants` are two.
        variants: of A and of B; one for both; `sae` when none is given.
        permutations: sign flips.
        seed: of flips and bootstrap.

    Raises `ConfigError` for variants that cannot be compared, `StudyError` where fewer than two items with an
    explanation are shared.
    """
    pair = _variants(variants, same_study=study_b is None)
    if permutations < 1:
        raise ConfigError(f"a null needs at least one permutation, got {permutations}.")
    inputs_a, about_a = _inputs(study_a, pair)
    inputs_b, about_b = (inputs_a, about_a) if study_b is None else _inputs(study_b, pair)
    rows_a, rows_b, notes = _shared(inputs_a, inputs_b)
    if len(rows_a) < 2:
        raise StudyError(
            f"{study_a} and {study_b or study_a} share {len(rows_a)} items with an explanation; two or more are needed "
            "to compare them."
        )
    items = [inputs_a.items[i] for i in inputs_a.pooled.explained[rows_a]]
    strata = coarsen_strata([stratum_labels(item) for item in items])
    sides = [
        _per_item(inputs, rows, variant, strata)
        for inputs, rows, variant in ((inputs_a, rows_a, pair[0]), (inputs_b, rows_b, pair[1]))
    ]
    same_scale = pair[0] == pair[1]
    if not same_scale:
        notes.append(
            f"Similarities of {pair[0]} and {pair[1]} are on different scales, so their differences are not compared; "
            "ranks are."
        )
    if not strata.exchangeable.any():
        notes.append("No two shared items have a subject in common: only ranks among all items are compared.")
    metrics = [
        _difference(name, sides[0][name], sides[1][name], pair, permutations, seed)
        for name in sides[0]
        if same_scale or name != "matched_minus_mismatched"
    ]
    name_a, name_b = (
        f"{path.name} ({variant})" for path, variant in zip((study_a, study_b or study_a), pair, strict=True)
    )
    about = {"a": about_a, "b": about_b, "variants": list(pair), "permutations": permutations, "seed": seed}
    summary = _summary(name_a, name_b, metrics)
    return Comparison(name_a, name_b, len(items), tuple(metrics), tuple(notes), summary, about)


def write_comparison(found: Comparison, output: Path) -> Path:
    """Write `comparison.md` and `comparison.json` to the folder `output`, and return the former's path.

    Raises `StudyError` when the folder holds something else, or another comparison.
    """
    run = RunFolder(output, KIND, {"identity": found.identity})
    run.hold()
    path = run.path / REPORT
    write_text(path, comparison_page(found))
    run.values |= found.to_dict()
    run.write()
    return path


def comparison_page(found: Comparison) -> str:
    """The comparison as Markdown."""
    head = ("A - B of", "A", "B", "A - B", "95 % interval", "null, 95 %", "p", "q", "n")
    lines = [
        f"# A: {markdown(found.name_a)}, B: {markdown(found.name_b)}",
        "",
        f"> **{DISCLAIMER}**",
        ">",
        f"> **{DISCLAIMER_KO}**",
        "",
        markdown(found.summary.en),
        "",
        markdown(found.summary.ko),
        "",
        f"{found.n_items} items. p is two-sided, by exchanging the sides of each item; q is p after correction "
        "over the rows.",
        "",
        *markdown_head(head, ["---", *["---:"] * (len(head) - 1)]),
    ]
    for metric, q in zip(found.metrics, found.q, strict=True):
        spans = (metric.interval, metric.null_interval)
        lines.append(
            markdown_row(
                [
                    metric.name.removeprefix("compare/").replace("_", " "),
                    *(number(metric.extra[side]) for side in ("a", "b")),
                    number(metric.value),
                    *("" if span is None else f"{number(span[0])} to {number(span[1])}" for span in spans),
                    "" if metric.p is None else number(metric.p),
                    number(q),
                    metric.n,
                ]
            )
        )
    notes = dict.fromkeys([*found.notes, *(metric.notes for metric in found.metrics)])
    return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in notes)]) + "\n"


def _variants(given: Sequence[str], *, same_study: bool) -> tuple[str, str]:
    if len(given) > 2:
        raise ConfigError(f"two variants are compared, but {len(given)} were named: {', '.join(given)}.")
    pair = (given[0], given[-1]) if given else ("sae", "sae")
    if same_study and pair[0] == pair[1]:
        raise ConfigError(
            "one study is compared with itself; name another study, or two variants, for example --variants sae,raw."
        )
    return pair


def _inputs(study: Path, pair: tuple[str, str]) -> tuple[Inputs, dict[str, Any]]:
    """What is compared, and what it depends on."""
    records = read_study(study)
    controls = {}
    for name in CONTROLS:
        folder = study / FOLDER / "controls" / name
        if name in pair and (folder / "manifest.json").is_file():
            controls[name] = load_features(folder)
    items, features = tuple(records.items.values()), load_features(study / "features")
    inputs = Inputs(
        items=items,
        features=features,
        results=tuple(records.results[item.id] for item in items),
        controls=controls,
    )
    return inputs, _about(records.provenance) | {"features": json_sha256(features.manifest["shards"])}


def _about(provenance: Provenance) -> dict[str, Any]:
    """Without names under which the same thing was given."""
    return {key: value for key, value in identity(provenance).items() if key not in NAMES}


def _shared(a: Inputs, b: Inputs) -> tuple[IntArray, IntArray, list[str]]:
    """Rows of the explained items of A and of B that are the same item, in A's order."""
    of_b = {b.items[i].id: row for row, i in enumerate(b.pooled.explained)}
    rows: list[tuple[int, int]] = []
    other = 0
    for row, i in enumerate(a.pooled.explained):
        item = a.items[i]
        if (match := of_b.get(item.id)) is None:
            continue
        if _content(item) == _content(b.items[b.pooled.explained[match]]):
            rows.append((row, match))
        else:
            other += 1
    notes = [f"{other} items have the same id but another question, answer or explanation; left out."] if other else []
    left = len(a.pooled.explained) + len(b.pooled.explained) - 2 * len(rows) - 2 * other
    if left:
        notes.append(f"{left} items with an explanation are in one of the two only; left out.")
    pairs = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], notes


def _content(item: McqItem) -> tuple[Any, ...]:
    return item.question, item.options, item.answer, item.explanation


def _per_item(inputs: Inputs, rows: IntArray, variant: str, strata: Strata) -> dict[str, FloatArray]:
    """Per name, one number for each item that has it; the same items for both sides."""
    table = inputs.view(Similarities).matrix(variant)[np.ix_(rows, rows)]
    if len(rows) >= MIN_ADJUSTED:
        table = adjust_for_nuisance(table, *(side[rows] for side in inputs.properties))
    none = np.zeros((0, len(rows)), dtype=np.int64)
    found = {"reciprocal_rank": ranked(table, none).reciprocal_rank}
    if strata.exchangeable.any():
        found = {
            "matched_minus_mismatched": matched_minus_mismatched(table, strata, none).differences,
            **found,
            "stratum_percentile": _percentiles(table, strata),
        }
    return found


def _percentiles(table: FloatArray, strata: Strata) -> FloatArray:
    """Of the exchangeable items, in order: see the module."""
    found = np.zeros(len(table))
    for group in strata.members():
        block = np.round(table[np.ix_(group, group)], 12)
        own = np.diagonal(block)[:, None]
        # The own explanation ties with itself: half a count, taken away again.
        found[group] = ((block < own).sum(axis=1) + ((block == own).sum(axis=1) - 1) / 2) / (len(group) - 1)
    return found[strata.exchangeable]


def _difference(
    name: str, a: FloatArray, b: FloatArray, pair: tuple[str, str], permutations: int, seed: int
) -> MetricValue:
    difference = a - b
    value = float(difference.mean())
    null = _flipped_means(difference, permutations, np.random.default_rng([seed, *name.encode()]))
    d_z = cohen_dz(difference)
    return MetricValue(
        name=f"compare/{name}",
        value=value,
        range=_RANGES[name],
        n=len(difference),
        interval=bootstrap_interval(difference, seed=seed),
        null_mean=float(null.mean()),
        null_interval=quantile_interval(null),
        p=two_sided_p(value, null),
        group="shared",
        variant=pair[0] if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}",
        extra={"a": float(a.mean()), "b": float(b.mean()), "permutations": float(permutations)}
        | ({} if d_z is None else {"d_z": d_z}),
        notes="A - B, paired over items; p two-sided, by exchanging the sides of each item; interval: percentile "
        "bootstrap over items"
        + (f"; n = {len(difference)} is small, so this cannot carry a claim." if len(difference) < SMALL_N else "."),
    )


def _flipped_means(difference: FloatArray, permutations: int, rng: np.random.Generator) -> FloatArray:
    """`[B]`: the mean of the differences, each with a sign of its own drawn at random."""
    step = max(1, _BLOCK // len(difference))
    means = [
        (2.0 * rng.integers(0, 2, size=(min(step, permutations - start), len(difference))) - 1.0) @ difference
        for start in range(0, permutations, step)
    ]
    return np.concatenate(means) / len(difference)


def _corrected(metrics: Sequence[MetricValue]) -> tuple[float, ...]:
    return tuple(benjamini_hochberg([1.0 if metric.p is None else metric.p for metric in metrics]).tolist())


def _summary(name_a: str, name_b: str, metrics: Sequence[MetricValue]) -> Sentence:
    """One sentence: which of the numbers differ, after correction over them, and which of them may be concluded."""
    en, ko = [], []
    for metric, corrected in zip(metrics, _corrected(metrics), strict=True):
        plain = metric.name.removeprefix("compare/")
        p = "" if metric.p is None else f"p = {number(metric.p)}, "
        facts = f"{number(metric.value)} ({p}q = {number(corrected)})"
        said, said_ko = _said(metric, corrected)
        en.append(f"{plain.replace('_', ' ')} {facts}: {said}")
        ko.append(f"{_KO[plain]} {facts}: {said_ko}")
    few = any(metric.n < SMALL_N for metric in metrics)
    tail_en = f"; fewer than {SMALL_N} items carry no claim" if few else ""
    tail_ko = f"; {SMALL_N}문항 미만은 결론의 근거가 되지 못함" if few else ""
    return Sentence(
        f"A ({name_a}) less B ({name_b}): {'; '.join(en)}{tail_en}. A higher similarity is no proof that the model "
        "uses it.",
        f"A({name_a})에서 B({name_b})를 뺀 값: {'; '.join(ko)}{tail_ko}. 유사도가 더 높다고 해서 모델이 그것을 "
        "사용한다는 뜻은 아닙니다.",
    )


def _said(metric: MetricValue, q: float) -> tuple[str, str]:
    if q >= ALPHA:
        return "no difference shown", "차이가 확인되지 않음"
    side = "A" if metric.value > 0 else "B"
    if metric.n < SMALL_N:
        return (
            f"{side} is higher on these {metric.n} items, too few to conclude from",
            f"이 {metric.n}문항에서는 {side}가 더 높지만, 결론을 내리기에는 문항이 너무 적음",
        )
    return f"{side} is higher", f"{side}가 더 높음"
