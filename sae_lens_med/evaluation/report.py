"""An evaluation -> its report: how it was run, the accuracy with its null, why items have no answer, a few items.

In English (report.md, report.html) and in Korean (report.ko.md, report.ko.html); short, for a reader who was not there.
Reads records alone; needs no model. Questions, options, generated texts, subjects and ids are untrusted text, which
`pages` escapes.

Out of scope: computing any number (`accuracy`, `deferral`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sae_lens_med import plots
from sae_lens_med.evaluation.accuracy import ACCURACY
from sae_lens_med.evaluation.deferral import AREA, DeferralPoint
from sae_lens_med.evaluation.sentences import MEANINGS, accuracy_sentence, deferral_sentence, find, reason_sentences
from sae_lens_med.languages import Language, Sentence
from sae_lens_med.pages import outcome, page_names, write_pages
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO

REPORTS = page_names("report")
"""The files that `write_evaluation_report` writes."""

SUBJECT_MIN_N = 10
"""Subjects of fewer items are not shown one by one."""

ITEMS_SHOWN = 6
TEXT_CHARS = 1500
"""Most characters of a generated text that are shown; what is cut is said."""


def write_evaluation_report(
    folder: Path,
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    metrics: Sequence[MetricValue],
    provenance: Provenance,
    *,
    reasons: Mapping[str, int],
    curve: Sequence[DeferralPoint] = (),
) -> tuple[Path, ...]:
    """Write `REPORTS` into `folder`, each atomically, and return their paths in that order.

    Args:
        folder: of the evaluation.
        items: the items asked, in order.
        results: their results, in the same order.
        metrics: of `accuracy_metrics`, and `deferral_area` where there is one.
        provenance: of the evaluation.
        reasons: how many items have no answer, by reason.
        curve: of `deferral_curve`; empty for methods without confidences.
    """

    def view(language: Language) -> dict[str, Any]:
        return _view(items, results, metrics, provenance, reasons, curve, language)

    return write_pages(folder, "report", "evaluation", view)


def _view(
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    metrics: Sequence[MetricValue],
    provenance: Provenance,
    reasons: Mapping[str, int],
    curve: Sequence[DeferralPoint],
    language: Language,
) -> dict[str, Any]:
    say, settings = language.text, provenance.settings
    area = find(metrics, AREA, "all")
    sentences = [accuracy_sentence(provenance.model["name"], metrics, items, results)]
    if area is not None:
        sentences.append(deferral_sentence(area))
    small = {
        m.group: m.n for m in metrics if m.name == ACCURACY and m.group.startswith("subject=") and m.n < SUBJECT_MIN_N
    }
    left_out = say(
        "Subjects of fewer than {least} items are not shown one by one: {n}, with {items} items in all; their numbers "
        "are in summary.json."
    ).format(n=len(small), least=SUBJECT_MIN_N, items=sum(small.values()))
    return {
        "provenance": provenance,
        "disclaimers": (DISCLAIMER, DISCLAIMER_KO) if language.code == "en" else (DISCLAIMER_KO,),
        "how": _how(provenance, len(items), language),
        "sentences": [_in(sentence, language) for sentence in sentences],
        "rows": [m for m in metrics if m.group not in small and not m.group.startswith("gold=")],
        "meanings": {m.name: _in(MEANINGS[m.name], language) for m in metrics if m.name in MEANINGS},
        "left_out": left_out if small else None,
        "reasons": [(language.name(key.replace("_", " ")), n, _in(what, language))
                    for key, n, what in reason_sentences(reasons)],
        "limit": settings.get("max_new_tokens"),
        "subjects": _subjects(metrics, small, language),
        "deferral": _deferral(curve, language),
        "shown": [_item(item, result, language) for item, result in _chosen(items, results)],
        "run_tables": [
            (say("Model"), list(provenance.model.items())),
            (say("SAE"), [] if provenance.sae is None else list(provenance.sae.items())),
            (say("Data"), list(provenance.data.items())),
            (say("Settings"), [*settings.items(), ("seed", provenance.seed)]),
            (say("Versions"), list(provenance.versions.items())),
        ],
    }  # fmt: skip


def _in(sentence: Sentence, language: Language) -> str:
    return sentence.en if language.code == "en" else sentence.ko


def _how(provenance: Provenance, n: int, language: Language) -> str:
    """What was run, in a sentence or two."""
    settings = provenance.settings
    said = language.text(
        "{n} questions of {data}, by the method {method} with the template {template} and {shots}."
    ).format(
        n=f"{n:,}",
        data=provenance.data["source"],
        method=settings.get("method"),
        template=settings.get("template"),
        shots=language.count(len(settings.get("shots", [])), "solved examples"),
    )
    if provenance.sae is not None:
        through = "The model ran through the SAE's reconstruction."
        if settings.get("interventions"):
            through = "Features of the SAE were changed while the model ran."
        said += " " + language.text(through)
    return said


def _subjects(metrics: Sequence[MetricValue], small: Mapping[str, int], language: Language) -> Markup | None:
    rows = [
        plots.IntervalRow(m.group.removeprefix("subject="), m.value, m.interval, m.null_mean, m.n)
        for m in metrics
        if m.name == ACCURACY and m.group.startswith("subject=") and m.group not in small
    ]
    if not rows:
        return None
    drawn = plots.svg(
        plots.intervals(rows, language=language),
        title=language.text("Accuracy by subject, with 95 % intervals and the level of guessing"),
        description=plots.describe_intervals(rows, language=language),
    )
    return Markup(drawn)  # every text in it is escaped by `plots.svg`


def _deferral(curve: Sequence[DeferralPoint], language: Language) -> Markup | None:
    if not curve:
        return None
    drawn = plots.svg(
        plots.deferral(curve, language=language),
        title=language.text("Accuracy when the least confident items are deferred"),
        description=plots.describe_deferral(curve, language=language),
    )
    return Markup(drawn)


def _chosen(items: Sequence[McqItem], results: Sequence[ItemResult]) -> list[tuple[McqItem, ItemResult]]:
    """A few pairs in the order of the items: the first right ones, the first wrong ones and the first without an
    answer, a third of the room for each; where one kind has too few, the others fill up."""
    pairs = list(zip(items, results, strict=True))
    kinds: list[list[int]] = [[], [], []]
    for i, (_, result) in enumerate(pairs):
        kinds[0 if result.correct else 2 if result.prediction is None else 1].append(i)
    chosen: list[int] = []
    for turn in range(ITEMS_SHOWN):
        chosen += [kind[turn] for kind in kinds if turn < len(kind)]
    return [pairs[i] for i in sorted(chosen[:ITEMS_SHOWN])]


def _item(item: McqItem, result: ItemResult, language: Language) -> dict[str, Any]:
    text = result.text if result.text is not None else next(iter(result.samples), None)
    cut = text is not None and len(text) > TEXT_CHARS
    return {
        "item": item,
        "options": list(zip(OPTION_LETTERS, item.options, strict=False)),
        "gold": result.gold,
        "prediction": result.prediction,
        "outcome": outcome(result, language),
        "text": text[:TEXT_CHARS] if text is not None else None,
        "cut": cut,
        "confidence": result.confidence,
    }
