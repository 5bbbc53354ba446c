"""What a whole study says, for its page: accuracy, every number that counts with its null and sentence, the gate before
the causal ones, the verdicts on features, what is known of the instrument, and what was run. And two studies side by
side.

All sentences and numbers are those of `study`; none is made here. What the folder does not hold is left out of the
page, which then says so (`OpenStudy.missing`).

Out of scope: HTML (`render`), the paired comparison of two studies (`study.compare`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from sae_lens_med import plots
from sae_lens_med.alignment import METRICS
from sae_lens_med.alignment.comprehensiveness import COMPREHENSIVENESS
from sae_lens_med.app.figures import inline, one_at_a_time, png, png_language, table
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import NotFoundError, StudyError
from sae_lens_med.evaluation.accuracy import ACCURACY
from sae_lens_med.evaluation.sentences import accuracy_sentence, chance_level, find
from sae_lens_med.languages import Language
from sae_lens_med.metrics.metric import FAMILIES, Family
from sae_lens_med.plots.rows import IntervalRow
from sae_lens_med.records import MetricValue
from sae_lens_med.runs.files import told_apart
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.study import verdict
from sae_lens_med.study.alignment_report import forest, forest_rows, verdict_counts
from sae_lens_med.study.beside import Side, beside
from sae_lens_med.study.claims import limits_of, sentence_of, warnings
from sae_lens_med.study.counted import Confirmatory, by_family, confirmatory
from sae_lens_med.study.measured import AlignmentFolder

TO_CASES = {
    verdict.DIFFERENCE: ("difference", "-difference"),
    verdict.MRR: ("difference", "-difference"),
    COMPREHENSIVENESS.confirmatory[0]: ("comprehensiveness", "-comprehensiveness"),
}
"""Numbers that are made case by case -> the orders of the list that put first the cases that lower it and raise it."""
_SUBJECT = "subject="
FIGURES = ("metrics.svg", "metrics.png", "metrics.csv")
COMPARED = ("pairs.svg", "pairs.png", "pairs.csv")


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured of one study; empty where its records cannot be read."""

    study: OpenStudy
    metrics: tuple[MetricValue, ...] = ()
    aligned: tuple[MetricValue, ...] = ()
    """Those of `align`."""
    entries: tuple[Confirmatory, ...] = ()
    verdicts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, study: OpenStudy) -> "Numbers":
        """The numbers of a study; those of a damaged `alignment/` are left out, which `study.missing` says."""
        if study.records is None:
            return cls(study)
        metrics = study.records.metrics
        try:
            folder = AlignmentFolder(study.folder)
        except StudyError:
            return cls(study, metrics, metrics, confirmatory(metrics))
        aligned = tuple(folder.metrics) or metrics
        return cls(study, metrics, aligned, confirmatory(aligned), verdict_counts(folder.path / "verdicts.csv"))

    @property
    def side(self) -> Side | None:
        """For the comparison; None without an accuracy."""
        accuracy = find(self.metrics, ACCURACY, "all", None)
        if accuracy is None:
            return None
        return Side(accuracy, tuple(self.study.items.values()), self.entries, None)


def overview(numbers: Numbers, language: Language) -> dict[str, Any]:
    """What the page of a study shows, in `language`."""
    study, metrics, entries = numbers.study, numbers.metrics, numbers.entries
    items, results = list(study.items.values()), list(study.results.values())
    has_sae = study.provenance.sae is not None
    model = study.provenance.model["name"]
    measured = find(metrics, ACCURACY, "all", None) is not None
    limits = limits_of(metrics, items)
    drawn = one_at_a_time(lambda: forest(_drawn(entries), language))
    return {
        "conclusion": verdict.conclusion(metrics, items, has_sae=has_sae) if metrics else None,
        "accuracy": accuracy_sentence(model, metrics, items, results) if measured else None,
        "subjects": _subjects(numbers),
        "warnings": warnings(numbers.aligned, limits),
        "entries": entries,
        "families": [{"title": FAMILIES[family], "entries": own} for family, own in by_family(entries)],
        "sentences": [sentence_of(entry, numbers.aligned, limits) for entry in entries],
        "drawn": None if drawn is None else inline(drawn),
        "png_english": drawn is not None and png_language(language) is not language,
        "to_cases": {name: orders for name, orders in TO_CASES.items() if orders[0] in study.case_orders},
        "gate": _gate(entries),
        "square": numbers.verdicts,
        "instrument": _instrument(),
        "about": _about(study),
    }


def figure(numbers: Numbers, name: str, language: Language) -> bytes:
    """A file of `FIGURES`; a PNG is in English where no font has the letters. Raises `NotFoundError` where there is
    nothing to draw."""
    if name == "metrics.csv":
        return _csv(numbers).encode()
    rows = forest_rows(_drawn(numbers.entries), language)
    if not rows or name not in FIGURES:
        raise refusal(NotFoundError, "refused.figure", study=numbers.study.name, name=name)
    if name == "metrics.svg":
        return str(one_at_a_time(lambda: forest(_drawn(numbers.entries), language))).encode()
    drawn = _drawn(numbers.entries)
    return one_at_a_time(lambda: png(lambda own: plots.forest(forest_rows(drawn, own), language=own), language))


def comparison(first: Numbers, second: Numbers, language: Language) -> dict[str, Any]:
    """What the page of two studies shows, in `language`."""
    rows, names = _pair_rows(first, second, language), _names(first, second)
    verdicts = [
        (name, [each.verdicts.get(name, 0) if each.verdicts else None for each in (first, second)])
        for name in ("shared_reasoning", "hidden_driver", "present_unused", "neither")
        if first.verdicts or second.verdicts
    ]
    drawn = one_at_a_time(lambda: _pairs_svg(rows, names, language)) if rows else None
    return {
        "rows": rows,
        "names": names,
        "verdicts": verdicts,
        "drawn": None if drawn is None else inline(drawn),
        "png_english": drawn is not None and png_language(language) is not language,
    }


def compared_file(first: Numbers, second: Numbers, name: str, language: Language) -> bytes:
    """A file of `COMPARED`; a PNG is in English where no font has the letters. Raises `NotFoundError` where there is
    nothing to show."""
    rows, names = _pair_rows(first, second, language), _names(first, second)
    if not rows or name not in COMPARED:
        raise refusal(NotFoundError, "refused.pairs", name=name)
    if name == "pairs.svg":
        return one_at_a_time(lambda: _pairs_svg(rows, names, language)).encode()
    if name == "pairs.png":
        return one_at_a_time(
            lambda: png(lambda own: plots.pairs(_pair_rows(first, second, own), names, language=own), language)
        )
    head = ["metric"]
    for given in names:
        head += [f"{given}: {each}" for each in ("value", "null mean", "null low", "null high", "stands out")]
    return table(head, ([row.label, *_side_cells(row.first), *_side_cells(row.second)] for row in rows)).encode()


def _names(first: Numbers, second: Numbers) -> tuple[str, str]:
    one, other = told_apart((first.study.folder, second.study.folder))
    return one, other


def _pair_rows(first: Numbers, second: Numbers, language: Language) -> list[plots.PairRow]:
    one, other = first.side, second.side
    if one is None or other is None:
        return []
    code = language.code
    headings: dict[Family | None, str] = {
        family: title.ko if code == "ko" else title.en for family, title in FAMILIES.items()
    }
    return beside(one, other, {None: language.text("Accuracy"), **headings}, language)


def _pairs_svg(rows: list[plots.PairRow], names: tuple[str, str], language: Language) -> str:
    return plots.svg(
        plots.pairs(rows, names, language=language),
        title=" / ".join(names),
        description=plots.describe_pairs(rows, names, language=language),
    )


def _side_cells(row: plots.ForestRow | None) -> list[object]:
    if row is None:
        return [None] * 5
    return [row.value, row.null_mean, *row.null_interval, row.stands_out]


def _drawn(entries: tuple[Confirmatory, ...]) -> list[Confirmatory]:
    return [entry for entry in entries if entry.metric.family != "features"]


def _subjects(numbers: Numbers) -> list[IntervalRow]:
    rows = []
    for metric in numbers.metrics:
        if metric.name == ACCURACY and metric.group.startswith(_SUBJECT):
            subject = metric.group.removeprefix(_SUBJECT)
            members = [i for i in numbers.study.items.values() if i.answer is not None and i.subject == subject]
            rows.append(IntervalRow(subject, metric.value, metric.interval, chance_level(metric, members), metric.n))
    return rows


def _gate(entries: tuple[Confirmatory, ...]) -> tuple[float, float] | None:
    """The span of the answer's margin over all features, from the causal numbers; None where it was not measured."""
    for entry in entries:
        low, high = entry.value.extra.get("span_low"), entry.value.extra.get("span_high")
        if entry.metric.family == "causal" and low is not None and high is not None:
            return low, high
    return None


def _instrument() -> dict[str, Any]:
    """How often each number is claimed of models whose reasons are known (docs/organisms.md)."""
    sheet = parse_json(files("sae_lens_med").joinpath("app/instrument.json").read_text(encoding="utf-8"))
    for row in sheet["rows"]:
        metric = next(metric for metric in METRICS if metric.owns(row["value"]))
        row["title"] = metric.title
    return sheet


def _about(study: OpenStudy) -> list[tuple[str, list[tuple[str, Any]]]]:
    provenance = study.provenance
    return [
        ("model", list(provenance.model.items())),
        ("sae", list((provenance.sae or {}).items())),
        ("data", list(provenance.data.items())),
        ("settings", [*provenance.settings.items(), ("seed", provenance.seed)]),
        ("versions", list(provenance.versions.items())),
    ]


def _csv(numbers: Numbers) -> str:
    counted = {id(entry.value): entry for entry in numbers.entries}
    head = (
        "name", "group", "variant", "value", "low", "high", "null_mean", "null_low", "null_high", "p", "q", "n",
        "unit", "counts", "stands_out",
    )  # fmt: skip
    values = {id(value): value for value in (*numbers.metrics, *numbers.aligned)}.values()
    rows = []
    for v in values:
        entry = counted.get(id(v))
        rows.append(
            [
                v.name, v.group, v.variant, v.value, *(v.interval or (None, None)), v.null_mean,
                *(v.null_interval or (None, None)), v.p, entry.q if entry else None, v.n, v.unit, entry is not None,
                entry.stands_out if entry else None,
            ]
        )  # fmt: skip
    return table(head, rows)
