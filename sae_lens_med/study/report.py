"""Study folder -> its report: what was run, what came out, what may be concluded, a few items in full.

In English (report.md, report.html, with the conclusions in Korean beside) and in Korean (report.ko.md, report.ko.html).

Reads only what the study wrote (JSON, JSON lines, safetensors); needs no model. A page of HTML is one file: styles and
SVG figures are inside, nothing is fetched, there is no script. Questions, options, explanations, contexts, subjects and
ids are untrusted text, which `pages` escapes; a content security policy forbids whatever might slip through.

Subjects of fewer than `SUBJECT_MIN_N` items are left out of figures and tables, which say so: their intervals are as
wide as the axis. A study may lack alignment, shown items or contexts (one without explanations does): the report then
says so.

Out of scope: computing any metric. The only numbers made here are shares of letters and of options, for the figures.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from sae_lens_med import plots
from sae_lens_med.evaluation.accuracy import ACCURACY
from sae_lens_med.evaluation.sentences import accuracy_sentence, chance_level, find
from sae_lens_med.languages import Language, Sentence
from sae_lens_med.pages import outcome, page_names, write_pages
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, MetricValue
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO
from sae_lens_med.study import verdict
from sae_lens_med.study.folder import ShownItem, StudyFolder, read_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC_TEXT = {
    ACCURACY: "share of questions answered correctly; an unanswered question counts as wrong",
    verdict.DIFFERENCE: "similarity of question and own explanation, minus the mean over the others of the stratum",
    verdict.MRR: "mean reciprocal rank of each item's own explanation among all explanations",
    "alignment/retrieval_at_1": "share of questions whose own explanation is the nearest",
    "alignment/retrieval_at_5": "share of questions whose own explanation is among the 5 nearest",
    "alignment/retrieval_at_10": "share of questions whose own explanation is among the 10 nearest",
}

REPORTS = page_names("report")
"""The files that `write_report` writes into the study folder."""

SUBJECT_MIN_N = 10
"""Subjects of fewer items are not shown one by one."""

CONTEXTS_FIRST = 3
"""Contexts of a feature shown at once; the others are folded in HTML and left out in Markdown, which says so."""


def write_report(study: Path) -> tuple[Path, Path]:
    """Write `REPORTS` into the study folder (each atomically) and return the paths of report.md and report.html.

    Raises `StudyError` when the folder is missing or incomplete, or a file in it is damaged.
    """
    records = read_study(study)
    markdown, html, *_ = write_pages(study, "report", "report", lambda language: _view(records, language))
    return markdown, html


def _view(study: StudyFolder, language: Language) -> dict[str, Any]:
    """What the templates show; the numbers are those of the records."""
    say, items, results = language.text, list(study.items.values()), list(study.results.values())
    provenance = study.provenance
    has_sae = provenance.sae is not None
    no_sae = [(say("took part"), say("no"))]
    small = _small_subjects(study.metrics)
    metrics = [m for m in study.metrics if m.group not in small]
    return {
        "provenance": provenance,
        "stage_rows": _stages(study, language),
        "run_tables": [
            (say("Model"), list(provenance.model.items())),
            (say("SAE"), no_sae if provenance.sae is None else list(provenance.sae.items())),
            (say("Data"), list(provenance.data.items())),
            (say("Settings"), [*provenance.settings.items(), ("seed", provenance.seed)]),
            (say("Versions"), list(provenance.versions.items())),
            (say("Stages"), _stages(study, language)),
        ],
        "notes": [language.note(note) or note for note in study.notes],
        "disclaimers": (DISCLAIMER, DISCLAIMER_KO) if language.code == "en" else (DISCLAIMER_KO,),
        "counts": _counts(items, results, language),
        "licences": _licences(study),
        "accuracy": accuracy_sentence(provenance.model["name"], study.metrics, items, results),
        "alignment": verdict.alignment_sentences(study.metrics, items, has_sae=has_sae),
        "conclusion": verdict.conclusion(study.metrics, items, has_sae=has_sae),
        "metrics": _grouped([m for m in metrics if "=" not in m.group]),
        "metrics_of_parts": _grouped([m for m in metrics if "=" in m.group]),
        "n_part_rows": sum("=" in m.group for m in metrics),
        "left_out": _left_out(small, language),
        "split_groups": any(m.group in ("left_out", "trained_on") for m in metrics),
        "metric_text": METRIC_TEXT,
        "variant_names": verdict.VARIANT_NAMES,
        "metric_notes": _notes(study.metrics, language),
        "figures": _figures(study, language),
        "shown": [_item_view(study, entry, language) for entry in study.shown],
        "no_alignment": None if study.similarities is not None else _no_figure(study, language),
        "contexts_first": CONTEXTS_FIRST,
    }


def _small_subjects(metrics: Sequence[MetricValue]) -> dict[str, int]:
    """Groups of subjects of fewer than `SUBJECT_MIN_N` items, each with its number of items."""
    sizes: dict[str, int] = {}
    for metric in metrics:
        if metric.group.startswith("subject="):
            sizes[metric.group] = max(metric.n, sizes.get(metric.group, 0))
    return {group: n for group, n in sizes.items() if n < SUBJECT_MIN_N}


def _left_out(small: dict[str, int], language: Language) -> str | None:
    if not small:
        return None
    return language.text(
        "Subjects of fewer than {least} items are not shown one by one: {n}, with {items} items in all; their numbers "
        "are in metrics.json."
    ).format(n=len(small), least=SUBJECT_MIN_N, items=sum(small.values()))


def _stages(study: StudyFolder, language: Language) -> list[tuple[str, str]]:
    said = language.text("{when} ({seconds} s)")
    return [
        (name, said.format(when=stage["done"], seconds=f"{stage['seconds']:.0f}"))
        for name, stage in study.stages.items()
    ]


def _no_figure(study: StudyFolder, language: Language) -> str:
    if verdict.headline(study.metrics) is not None:
        return language.text(
            "The similarities of the single items are not stored in this folder, so they are not drawn."
        )
    sentence: Sentence = verdict.alignment_sentences(
        study.metrics, list(study.items.values()), has_sae=study.provenance.sae is not None
    )[0]
    return sentence.en if language.code == "en" else sentence.ko


def _counts(items: Sequence[McqItem], results: Sequence[ItemResult], language: Language) -> list[tuple[str, str]]:
    say, sources = language.text, verdict.explanation_sources(items)
    reasons = Counter(r.reason for r in results if r.reason is not None)
    languages = Counter(item.language for item in items)
    rows = [
        (say("Items"), f"{len(items):,}"),
        (say("With a known gold answer"), f"{sum(r.gold is not None for r in results):,}"),
        (
            say("Without an answer of the model"),
            ", ".join(
                f"{language.name(k.replace('_', ' ')) if language.texts else k}: {n:,}" for k, n in reasons.items()
            )
            or "0",
        ),
        (say("Languages"), ", ".join(f"{language.name(k)}: {n:,}" for k, n in languages.items())),
        (say("Subjects"), f"{len({item.subject for item in items}):,}"),
    ]
    explained = [(say("Explanations"), f"{n:,}, {say(verdict.SOURCE_TEXT[source])}") for source, n in sources.items()]
    return rows + (explained or [(say("Explanations"), "0")])


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


def _notes(metrics: Sequence[MetricValue], language: Language) -> dict[str, str]:
    """Each distinct note, with the names of the metrics that carry it."""
    names: dict[str, dict[str, None]] = {}
    for metric in metrics:
        if metric.notes:
            names.setdefault(language.note(metric.notes) or metric.notes, {})[language.metric(metric.name)] = None
    return {note: ", ".join(carriers) for note, carriers in names.items()}


def _figures(study: StudyFolder, language: Language) -> dict[str, Markup | None]:
    """SVG by name; None where the study holds nothing to draw."""
    say = language.text
    figures: dict[str, Markup | None] = dict.fromkeys(("subjects", "gold", "letters", "similarity", "null"))
    for name, prefix, title in (
        ("subjects", "subject=", "Accuracy by subject, with 95 % intervals and the level of guessing"),
        ("gold", "gold=", "Accuracy by gold letter, with 95 % intervals and the level of guessing"),
    ):
        if rows := _accuracy_rows(study, prefix):
            figures[name] = _svg(
                plots.intervals(rows, language=language), say(title), plots.describe_intervals(rows, language=language)
            )
    figures["letters"] = _letter_figure(list(study.results.values()), language)
    if (similarities := study.similarities) is not None:
        pair = (similarities.matched.astype(np.float64), similarities.mismatched_mean.astype(np.float64))
        figures["similarity"] = _svg(
            plots.similarity_histogram(*pair, language=language),
            say("Similarity of question and explanation features: own explanation and others"),
            plots.describe_similarity_histogram(*pair, language=language),
        )
        metric = find(study.metrics, verdict.DIFFERENCE, "all", "sae")
        observed = (
            float((similarities.matched - similarities.mismatched_mean).mean()) if metric is None else metric.value
        )
        null = similarities.null.astype(np.float64)
        figures["null"] = _svg(
            plots.null_histogram(null, observed, language=language),
            say("The observed difference against its permutation null"),
            plots.describe_null_histogram(null, observed, language=language),
        )
    return figures


def _svg(ax: "Axes", title: str, description: str) -> Markup:
    """Every text in it is escaped by `plots.svg`."""
    return Markup(plots.svg(ax, title=title, description=description))


def _accuracy_rows(study: StudyFolder, prefix: str) -> list[plots.IntervalRow]:
    rows, small = [], _small_subjects(study.metrics)
    for metric in study.metrics:
        if metric.name == ACCURACY and metric.group.startswith(prefix) and metric.group not in small:
            key = metric.group.removeprefix(prefix)
            members = [
                item
                for item in study.items.values()
                if item.answer is not None and key == (item.subject if prefix == "subject=" else item.gold_letter)
            ]
            chance = chance_level(metric, members)
            rows.append(plots.IntervalRow(key, metric.value, metric.interval, chance, metric.n))
    return rows


def _letter_figure(results: Sequence[ItemResult], language: Language) -> Markup | None:
    gold = Counter(r.gold for r in results if r.gold is not None)
    if not gold:
        return None
    scored = [r for r in results if r.gold is not None]
    none = language.text("no answer")
    predicted = Counter(none if r.prediction is None else r.prediction for r in scored)
    labels = sorted({*gold, *predicted}, key=lambda letter: (len(letter), letter))
    shares = (
        labels,
        [gold[letter] / len(scored) for letter in labels],
        [predicted[letter] / len(scored) for letter in labels],
    )
    return _svg(
        plots.letter_shares(*shares, language=language),
        language.text("Share of each letter among the gold answers and among the predictions"),
        plots.describe_letter_shares(*shares, language=language),
    )


def _item_view(study: StudyFolder, entry: ShownItem, language: Language) -> dict[str, Any]:
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
    source = "not stated" if item.explanation_source is None else verdict.SOURCE_TEXT[item.explanation_source]
    return {
        "item": item,
        "outcome": outcome(result, language),
        "options": options,
        "letters_total": total,
        "source_text": language.text(source),
        "masked": entry.masked,
        "groups": [
            (language.text("Shared by question and explanation"), entry.shared),
            (language.text("Only in the question"), entry.stem_only),
            (language.text("Only in the explanation"), entry.explanation_only),
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
