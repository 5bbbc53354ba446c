"""A comparison of conditions as tables: CSV for programs, a Markdown page for readers."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens_med.escaping import markdown, markdown_head, markdown_row
from sae_lens_med.evaluation.conditions.compare import Band, Comparison, ConditionResult, GroupResult, Interval
from sae_lens_med.evaluation.conditions.spec import PLAIN, Feature
from sae_lens_med.runs.files import DISCLAIMER
from sae_lens_med.statistics import SMALL_N

MOST_SUBJECTS = 6
"""More subjects than this are in the CSV only."""
LOOSE = 2.0
"""Random features that differ from theirs by more than this factor are called loosely matched."""

CSV_COLUMNS = (
    *("condition", "kind", "family", "strength", "features", "group", "n", "accuracy", "accuracy_low"),
    *("accuracy_high", "accuracy_change", "lost", "won", "flips", "unanswered", "mcnemar_p", "mcnemar_p_fdr"),
    *("margin", "margin_change", "margin_change_low", "margin_change_high", "random_sets"),
    *(
        f"random_{what}_{name}"
        for what in ("accuracy_change", "margin_change")
        for name in ("mean", "low", "high", "z", "p", "p_fdr")
    ),
)


def comparison_csv(comparison: Comparison) -> str:
    """One row per condition and group; empty cells where a number does not exist."""
    rows = []
    for result in comparison.results:
        condition = result.condition
        about = {
            "condition": condition.name,
            "kind": condition.kind,
            "family": condition.family,
            "strength": condition.strength,
            "features": " ".join(_feature(each) for each in condition.features),
        }
        row = about | {"group": "all", "flips": result.flips, "unanswered": result.unanswered}
        row |= {"mcnemar_p_fdr": result.p_fdr, "margin": result.margin} | _common(result)
        if result.random is not None:
            row["random_sets"] = len(result.random.sets)
            for what in ("accuracy_change", "margin_change"):
                band: Band = getattr(result.random, what)
                values = (band.mean, *band.interval, band.z, band.p, band.p_fdr)
                names = ("mean", "low", "high", "z", "p", "p_fdr")
                row |= {f"random_{what}_{name}": value for name, value in zip(names, values, strict=True)}
        rows += [row, *(about | {"group": group.group} | _common(group) for group in result.by_subject)]
    return _csv(CSV_COLUMNS, rows)


def _common(result: ConditionResult | GroupResult) -> dict[str, Any]:
    margin = result.margin_change_interval or (None, None)
    return {
        "n": result.n,
        "accuracy": result.accuracy,
        "accuracy_low": result.accuracy_interval[0],
        "accuracy_high": result.accuracy_interval[1],
        "accuracy_change": result.accuracy_change,
        "lost": result.lost,
        "won": result.won,
        "mcnemar_p": result.p,
        "margin_change": result.margin_change,
        "margin_change_low": margin[0],
        "margin_change_high": margin[1],
    }


def flips_csv(comparison: Comparison) -> str:
    """One row per condition and item whose prediction changed."""
    columns = ("condition", "id", "subject", "from", "to", "gold", "effect")
    rows = [
        {
            "condition": flip.condition,
            "id": flip.id,
            "subject": flip.subject,
            "from": flip.before,
            "to": flip.after,
            "gold": flip.gold,
            "effect": flip.effect,
        }
        for flip in comparison.flips
    ]
    return _csv(columns, rows)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def comparison_md(comparison: Comparison, *, plot: str | None = None) -> str:
    """The comparison as a page to read: what was compared, with what, the table, by subject, how to read it."""
    about = comparison.provenance
    n, model = comparison.n_gold, about.model.get("name", "model")
    lines = [
        f"# Conditions compared: {markdown(model)} on {markdown(about.data.get('source'))}",
        "",
        f"{DISCLAIMER}",
        "",
        f"- Items: {n} with a known gold answer of {comparison.n_items}; each condition answers the same ones.",
        f"- Method: {markdown(about.settings.get('method'))}, {len(about.settings.get('shots') or [])} shots.",
    ]
    if about.sae is not None:
        lines.append(f"- SAE: {markdown(about.sae['source'])} at {markdown(about.sae['hook_name'])}.")
    lines += [f"- {markdown(note)}" for note in _cautions(comparison)]
    lines += ["", "## All items", "", *_table(comparison.results), ""]
    if plot is not None:
        lines += ["## Against steering strength", "", f"![Accuracy and margin against steering strength]({plot})", ""]
    n_subjects = len(comparison.results[0].by_subject)
    if 0 < n_subjects <= MOST_SUBJECTS:
        about_cells = "Accuracy, mean change of the margin in nats, and McNemar's p, which is not adjusted here."
        lines += ["## By subject", "", about_cells, "", *_subject_table(comparison.results), ""]
    elif n_subjects:
        lines += [f"By subject ({n_subjects} of them, with intervals): `comparison.csv`.", ""]
    lines += [
        "## Answers that changed",
        "",
        *_flip_lines(comparison),
        "",
        "## How to read this",
        "",
        *_reading(comparison),
    ]
    return "\n".join(lines) + "\n"


def _cautions(comparison: Comparison) -> list[str]:
    notes = []
    if comparison.n_gold < SMALL_N:
        notes.append(
            f"Only {comparison.n_gold} items: one item is {100 / comparison.n_gold:.1f} points of accuracy, and the "
            "intervals are wide."
        )
    silent = sorted(
        {
            _feature(each)
            for result in comparison.results
            for each, rate in zip(result.condition.features, result.firing_rates, strict=False)
            if rate == 0
        }
    )
    if silent:
        notes.append(f"Never fires on these questions: {', '.join(silent)}; to ablate it changes nothing.")
    loose = [r for r in comparison.results if r.random is not None and r.random.fold_max > LOOSE]
    if loose:
        worst = max(r.random.fold_max for r in loose if r.random is not None)
        names = ", ".join(r.condition.name for r in loose)
        notes.append(
            f"Loosely matched: in {names}, some random feature differs from the one it stands for by more than a "
            f"factor of {LOOSE:g} in firing rate or mean activation (at most {worst:.1f})."
        )
    return notes


def _table(results: Sequence[ConditionResult]) -> list[str]:
    with_sets = any(result.random is not None for result in results)
    head = ["condition", "accuracy (95 %)", "lost / won", "McNemar p (FDR)", "margin change, nats (95 %)"]
    if with_sets:
        head += ["random sets: accuracy change", "p", "random sets: margin change", "z", "p (FDR)"]
    lines = markdown_head(head, ["---", *["---:"] * (len(head) - 1)])
    for result in results:
        low, high = result.accuracy_interval
        plain = result.condition.kind == PLAIN
        cells = [
            result.condition.name,
            f"{result.accuracy:.3f} ({low:.3f} to {high:.3f})",
            "" if plain else f"{result.lost} / {result.won}",
            "" if plain else f"{_p(result.p)} ({_p(result.p_fdr)})",
            f"(margin {result.margin:+.3f})"
            if plain
            else _with_interval(result.margin_change, result.margin_change_interval),
        ]
        if with_sets and result.random is not None:
            accuracy, margin = result.random.accuracy_change, result.random.margin_change
            cells += [
                _range(accuracy.interval),
                _p(accuracy.p),
                _range(margin.interval),
                "" if margin.z is None else f"{margin.z:+.1f}",
                f"{_p(margin.p)} ({_p(margin.p_fdr)})",
            ]
        lines.append(markdown_row([*cells, *[""] * (len(head) - len(cells))]))
    return lines


def _subject_table(results: Sequence[ConditionResult]) -> list[str]:
    subjects = [(group.group, group.n) for group in results[0].by_subject]
    head = ["condition", *(f"{name.removeprefix('subject=')} (n {n})" for name, n in subjects)]
    lines = markdown_head(head, ["---", *["---:"] * len(subjects)])
    for result in results:
        cells = [
            f"{group.accuracy:.3f}"
            + ("" if result.condition.kind == PLAIN else f", {signed(group.margin_change)}, p {_p(group.p)}")
            for group in result.by_subject
        ]
        lines.append(markdown_row([result.condition.name, *cells]))
    return lines


def _flip_lines(comparison: Comparison) -> list[str]:
    lines = []
    for result in comparison.results[1:]:
        own = [flip for flip in comparison.flips if flip.condition == result.condition.name]
        counts = ", ".join(f"{sum(f.effect == e for f in own)} {e}" for e in ("lost", "won", "other"))
        lines.append(
            f"- {markdown(result.condition.name)}: {len(own)} of {comparison.n_items}" + (f" ({counts})" if own else "")
        )
    return [*lines, "", "Item by item in `flips.csv`."]


def _reading(comparison: Comparison) -> list[str]:
    lines = [
        "- lost / won: items that plain answers rightly and the condition does not / the reverse.",
        "- McNemar p: exact, two-sided, on those items; FDR: Benjamini-Hochberg over the conditions of this run.",
        "- margin: log-probability of the gold letter minus that of the likeliest other letter; its change is averaged "
        "over items, the interval is a bootstrap over items.",
    ]
    sets = [len(result.random.sets) for result in comparison.results if result.random is not None]
    if sets:
        lines.append(
            f"- random sets: the same intervention on {max(sets)} feature sets drawn at random among those that fire "
            "as often and as strongly; their 95 % range, and how far the condition's own change lies from them. p is "
            f"two-sided and cannot be below 1/{max(sets) + 1} = {1 / (max(sets) + 1):.3f}. A condition that moves the "
            "answers no more than its random sets says nothing about its features."
        )
    if any("splice" in result.condition.kind.split("+") for result in comparison.results):
        lines.append(
            "- splice: the SAE's reconstruction takes the activation's place; with the error term added back, nothing "
            "should change, which checks the machinery."
        )
    return lines


def _feature(feature: Feature) -> str:
    sae, index = feature
    return str(index) if sae is None else f"{sae}:{index}"


def _with_interval(value: float, interval: Interval | None) -> str:
    return signed(value) + ("" if interval is None else f" ({_range(interval)})")


def _range(interval: Interval) -> str:
    return f"{signed(interval[0])} to {signed(interval[1])}"


def signed(value: float) -> str:
    """With sign and three decimals, never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
