"""Study folder -> report.md and report.html: what was run, what came out, what may be concluded, a few items in full.

Reads only what the study wrote (JSON, JSON lines, safetensors); needs no model. `report.html` is one file: styles and
SVG figures are inside, nothing is fetched, there is no script. Questions, options, explanations, contexts, subjects and
ids are untrusted text: the HTML template escapes every value (`autoescape`) and a content security policy forbids
whatever might slip through; the Markdown template escapes every value by `finalize`.

A study may lack alignment, shown items or contexts (one without explanations does): the report then says so.

Out of scope: computing any metric. The only numbers made here are shares of letters and of options, for the figures.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sae_lens_med import plots
from sae_lens_med.escaping import harmless, markdown
from sae_lens_med.metrics.metric import Sentence
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, MetricValue
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO, write_text
from sae_lens_med.study import verdict
from sae_lens_med.study.folder import ShownItem, StudyFolder, read_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC_TEXT = {
    verdict.ACCURACY: "share of questions answered correctly; an unanswered question counts as wrong",
    verdict.DIFFERENCE: "similarity of question and own explanation, minus the mean over the others of the stratum",
    verdict.MRR: "mean reciprocal rank of each item's own explanation among all explanations",
    "alignment/retrieval_at_1": "share of questions whose own explanation is the nearest",
    "alignment/retrieval_at_5": "share of questions whose own explanation is among the 5 nearest",
    "alignment/retrieval_at_10": "share of questions whose own explanation is among the 10 nearest",
}

CONTEXTS_FIRST = 3
"""Contexts of a feature shown at once; the others are folded in HTML and left out in Markdown, which says so."""


def write_report(study: Path) -> tuple[Path, Path]:
    """Write `report.md` and `report.html` into the study folder (each atomically) and return their paths.

    Raises `StudyError` when the folder is missing or incomplete, or a file in it is damaged.
    """
    records = read_study(study)
    values = _view(records)
    written: list[Path] = []
    for name, environment in (("report.md", markdown_environment()), ("report.html", html_environment())):
        write_text(study / name, environment.get_template(f"{name}.j2").render(values))
        written.append(study / name)
    return written[0], written[1]


def _view(study: StudyFolder) -> dict[str, Any]:
    """What both templates show; the numbers are those of the records."""
    items, results = list(study.items.values()), list(study.results.values())
    provenance = study.provenance
    has_sae = provenance.sae is not None
    return {
        "provenance": provenance,
        "stage_rows": _stages(study),
        "run_tables": [
            ("Model", list(provenance.model.items())),
            ("SAE", [("took part", "no")] if provenance.sae is None else list(provenance.sae.items())),
            ("Data", list(provenance.data.items())),
            ("Settings", [*provenance.settings.items(), ("seed", provenance.seed)]),
            ("Versions", list(provenance.versions.items())),
            ("Stages", _stages(study)),
        ],
        "notes": study.notes,
        "disclaimers": (DISCLAIMER, DISCLAIMER_KO),
        "counts": _counts(items, results),
        "licences": _licences(study),
        "accuracy": verdict.accuracy_sentence(provenance.model["name"], study.metrics, items, results),
        "alignment": verdict.alignment_sentences(study.metrics, items, has_sae=has_sae),
        "conclusion": verdict.conclusion(study.metrics, items, has_sae=has_sae),
        "metrics": _grouped([m for m in study.metrics if "=" not in m.group]),
        "metrics_of_parts": _grouped([m for m in study.metrics if "=" in m.group]),
        "n_part_rows": sum("=" in m.group for m in study.metrics),
        "split_groups": any(m.group in ("left_out", "trained_on") for m in study.metrics),
        "metric_text": METRIC_TEXT,
        "variant_names": verdict.VARIANT_NAMES,
        "metric_notes": _notes(study.metrics),
        "figures": _figures(study),
        "shown": [_item_view(study, entry) for entry in study.shown],
        "no_alignment": None if study.similarities is not None else _no_figure(study),
        "contexts_first": CONTEXTS_FIRST,
    }


def _stages(study: StudyFolder) -> list[tuple[str, str]]:
    return [(name, f"{stage['done']} ({stage['seconds']:.0f} s)") for name, stage in study.stages.items()]


def _no_figure(study: StudyFolder) -> str:
    if verdict.headline(study.metrics) is not None:
        return "The similarities of the single items are not stored in this folder, so they are not drawn."
    sentence: Sentence = verdict.alignment_sentences(
        study.metrics, list(study.items.values()), has_sae=study.provenance.sae is not None
    )[0]
    return sentence.en


def _counts(items: Sequence[McqItem], results: Sequence[ItemResult]) -> list[tuple[str, str]]:
    sources = verdict.explanation_sources(items)
    reasons = Counter(r.reason for r in results if r.reason is not None)
    subjects = Counter(item.subject for item in items)
    rows = [
        ("Items", str(len(items))),
        ("With a known gold answer", str(sum(r.gold is not None for r in results))),
        ("Without an answer of the model", ", ".join(f"{k}: {n}" for k, n in reasons.items()) or "0"),
        ("Languages", ", ".join(f"{k}: {n}" for k, n in Counter(item.language for item in items).items())),
        ("Subjects", f"{len(subjects)}"),
    ]
    explained = [("Explanations", f"{n}, {verdict.SOURCE_TEXT[source]}") for source, n in sources.items()]
    return rows + (explained or [("Explanations", "0")])


def _licences(study: StudyFolder) -> list[str]:
    """Distinct licences that the data names, those of the single items first."""
    named = [item.provenance["licence"] for item in study.items.values() if "licence" in item.provenance]
    if isinstance(whole := study.provenance.data.get("licence"), str):
        named.append(whole)
    return list(dict.fromkeys(named))


def _grouped(metrics: Sequence[MetricValue]) -> dict[str, list[MetricValue]]:
    grouped: dict[str, list[MetricValue]] = {}
    for metric in metrics:
        grouped.setdefault(metric.name, []).append(metric)
    return grouped


def _notes(metrics: Sequence[MetricValue]) -> dict[str, str]:
    """Each distinct note, with the names of the metrics that carry it."""
    names: dict[str, dict[str, None]] = {}
    for metric in metrics:
        if metric.notes:
            names.setdefault(metric.notes, {})[metric.name] = None
    return {note: ", ".join(carriers) for note, carriers in names.items()}


def _figures(study: StudyFolder) -> dict[str, Markup | None]:
    """SVG by name; None where the study holds nothing to draw."""
    figures: dict[str, Markup | None] = dict.fromkeys(("subjects", "gold", "letters", "similarity", "null"))
    for name, prefix, title in (
        ("subjects", "subject=", "Accuracy by subject, with 95 % intervals and the level of guessing"),
        ("gold", "gold=", "Accuracy by gold letter, with 95 % intervals and the level of guessing"),
    ):
        if rows := _accuracy_rows(study, prefix):
            figures[name] = _svg(plots.intervals(rows), title, plots.describe_intervals(rows))
    figures["letters"] = _letter_figure(list(study.results.values()))
    if (similarities := study.similarities) is not None:
        pair = (similarities.matched.astype(np.float64), similarities.mismatched_mean.astype(np.float64))
        figures["similarity"] = _svg(
            plots.similarity_histogram(*pair),
            "Similarity of question and explanation features: own explanation and others",
            plots.describe_similarity_histogram(*pair),
        )
        metric = verdict.find(study.metrics, verdict.DIFFERENCE, "all", "sae")
        observed = (
            float((similarities.matched - similarities.mismatched_mean).mean()) if metric is None else metric.value
        )
        null = similarities.null.astype(np.float64)
        figures["null"] = _svg(
            plots.null_histogram(null, observed),
            "The observed difference against its permutation null",
            plots.describe_null_histogram(null, observed),
        )
    return figures


def _svg(ax: "Axes", title: str, description: str) -> Markup:
    """Every text in it is escaped by `plots.svg`."""
    return Markup(plots.svg(ax, title=title, description=description))


def _accuracy_rows(study: StudyFolder, prefix: str) -> list[plots.IntervalRow]:
    rows = []
    for metric in study.metrics:
        if metric.name == verdict.ACCURACY and metric.group.startswith(prefix):
            key = metric.group.removeprefix(prefix)
            members = [
                item
                for item in study.items.values()
                if item.answer is not None and key == (item.subject if prefix == "subject=" else item.gold_letter)
            ]
            chance = verdict.chance_level(metric, members)
            rows.append(plots.IntervalRow(key, metric.value, metric.interval, chance, metric.n))
    return rows


def _letter_figure(results: Sequence[ItemResult]) -> Markup | None:
    gold = Counter(r.gold for r in results if r.gold is not None)
    if not gold:
        return None
    scored = [r for r in results if r.gold is not None]
    predicted = Counter("no answer" if r.prediction is None else r.prediction for r in scored)
    labels = sorted({*gold, *predicted}, key=lambda letter: (len(letter), letter))
    shares = (
        labels,
        [gold[letter] / len(scored) for letter in labels],
        [predicted[letter] / len(scored) for letter in labels],
    )
    return _svg(
        plots.letter_shares(*shares),
        "Share of each letter among the gold answers and among the predictions",
        plots.describe_letter_shares(*shares),
    )


def _item_view(study: StudyFolder, entry: ShownItem) -> dict[str, Any]:
    item, result = study.items[entry.id], study.results[entry.id]
    shares, total = _option_shares(result)
    options = [
        {
            "letter": letter,
            "text": text,
            "gold": letter == result.gold,
            "predicted": letter == result.prediction,
            "share": None if shares is None else shares[i],
            "logprob": None if result.option_logprobs is None else result.option_logprobs[i],
        }
        for i, (letter, text) in enumerate(zip(OPTION_LETTERS, item.options, strict=False))
    ]
    return {
        "item": item,
        "outcome": _outcome(result),
        "options": options,
        "letters_total": total,
        "source_text": None if item.explanation_source is None else verdict.SOURCE_TEXT[item.explanation_source],
        "masked": entry.masked,
        "groups": [
            ("Shared by question and explanation", entry.shared),
            ("Only in the question", entry.stem_only),
            ("Only in the explanation", entry.explanation_only),
        ],
        "contexts": study.contexts,
    }


def _option_shares(result: ItemResult) -> tuple[list[float] | None, float | None]:
    """Probabilities of the letters given that a letter comes next (sum 1), and the probability that one does."""
    if result.option_logprobs is None:
        return None, None
    logprobs = np.asarray(result.option_logprobs, dtype=np.float64)
    weights = np.exp(logprobs - logprobs.max())
    return (weights / weights.sum()).tolist(), float(np.exp(logprobs).sum())


def _outcome(result: ItemResult) -> tuple[str, str]:
    """CSS key and words."""
    if result.correct is None:
        return "unscored", "not scored: the gold answer is not known"
    if result.prediction is None:
        return "wrong", f"no answer ({str(result.reason).replace('_', ' ')}): counted as wrong"
    return ("right", "correct") if result.correct else ("wrong", "wrong")


def html_environment() -> Environment:
    """For pages of this package: every value is escaped; the filters of `_FILTERS`."""
    environment = Environment(
        loader=PackageLoader("sae_lens_med"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: harmless(value) if type(value) is str else value,
    )
    environment.filters.update(_FILTERS)
    return environment


class _Plain(str):
    """Text that is already Markdown."""


def markdown_environment() -> Environment:
    """For Markdown of this package: every value is escaped on output; as `html_environment` otherwise."""
    environment = Environment(
        loader=PackageLoader("sae_lens_med"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Plain) else markdown(value),
    )
    environment.filters.update(_FILTERS)
    environment.filters["quoted"] = _markdown_quote
    return environment


def _markdown_quote(text: str) -> _Plain:
    """`text` as a block quote that keeps its lines and starts no list, rule or code block."""
    lines = (markdown(line) for line in text.strip().split("\n"))
    safe = (re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", line) for line in lines)
    return _Plain("\n".join(f"> {line}  " if line else ">" for line in safe))


def _visible(token: str) -> str:
    """A token of white space alone as a sign that can be seen."""
    return token if token.strip() else "".join("⏎" if c == "\n" else "␣" for c in token) or "∅"


def _pair(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{verdict.number(pair[0])} to {verdict.number(pair[1])}"


def _named_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items() if n) or "–"


def _named_numbers(numbers: dict[str, float]) -> str:
    shown = (
        f"{name} {number:.0f}" if float(number).is_integer() else f"{name} {verdict.number(number)}"
        for name, number in numbers.items()
    )
    return ", ".join(shown) or "–"


def _shown_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_FILTERS: dict[str, Callable[..., Any]] = {
    "number": lambda value: "–" if value is None else verdict.number(value),
    "pair": _pair,
    "named_counts": _named_counts,
    "named_numbers": _named_numbers,
    "shown_value": _shown_value,
    "visible": _visible,
}
