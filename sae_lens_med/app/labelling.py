"""Have a model propose labels for a study's features, and a judge score them: the command `labels`.

The cases are split in two halves by a seeded draw. A label is made from contexts of one half, and scored on pieces of
the other (`alignment.labels`): detection, beside the same with labels of other features that were proposed with it.
So a label is not scored on what it was made from. Where writer and judge are the same model, it judges its own words.

What an endpoint has answered is written as it comes (`WRITTEN`, `VERDICTS`) and not asked for again: an interrupted
command goes on where the same one is given again, and has lost at most what was under way. Proposals are added to
`app/proposed.jsonl` when all are scored.

Texts of the study leave this machine, unless the endpoint is on it: only those whose licence lets everybody pass them
on, or whose user says that he may.

Out of scope: accepting a proposal (`proposed`), labels of people (`labels`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from sae_lens_med.alignment.labels.measure import KeptVerdicts
from sae_lens_med.alignment.labels.scores import Judge, LabelScores, score_labels
from sae_lens_med.alignment.labels.tasks import label_tasks, marked_contexts
from sae_lens_med.alignment.labels.writers import label_request, read_label
from sae_lens_med.app import index_files
from sae_lens_med.app.licences import licences_of, require_open
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.views import Proposal
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.escaping import plain
from sae_lens_med.evaluation.endpoint import Endpoint, Unanswered, is_loopback
from sae_lens_med.features.store import load_features
from sae_lens_med.records import Record
from sae_lens_med.runs import lock
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar

WRITTEN, VERDICTS = "proposed.partial.jsonl", "proposed.verdicts.partial.jsonl"
FOREIGN = 4
"""Labels of other features that each feature is judged with: its null."""
DRAWS = 2_000
"""Of the null over all features."""
EXAMPLES = 10
"""Contexts that a label is made from, and most pieces of each answer that it is scored on."""


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """What is asked for."""

    most: int = 50
    """Features at most: each costs one request for its label and up to `FOREIGN + 1` for its score."""
    only: tuple[int, ...] = ()
    """These features, whether they have a label or not; else those that are worth one most."""
    language: Literal["ko", "en"] | None = None
    """Of the labels; None: that of most questions, English where it is neither."""
    seed: int = 0
    accept_licence: bool = False


@dataclass(frozen=True, slots=True)
class Labelled(Record):
    """What came of it."""

    output: str
    model: str
    judge: str
    asked: int
    """Features."""
    proposed: int
    """Of them, with a label that was not there before."""
    without_texts: int
    """That fire in no case of the half that labels are made from."""
    unanswered: int
    """Without a reply, or with one that is no label; asked again by the next command."""
    unscored: int
    """Proposed without a score: too few texts."""
    detection: dict[str, float | None]
    """Over all that were scored: `n`, `value`, `null`, `p`; without a null where there is one label alone."""


def propose_labels(
    study: OpenStudy, writer: Endpoint, judge: Judge, settings: LabelSettings, *, progress: bool = True
) -> Labelled:
    """Propose labels for features of `study`, and write them into its folder.

    Args:
        study: with collected features and an index.
        writer: whom labels are asked for.
        judge: who scores them.
        settings: how many, which, in which language.
        progress: show bars on stderr.

    Raises `ConfigError` where nothing can be asked for and where texts may not be passed on, `StudyError` without
    features or an index, `ModelError` where the endpoint does not answer or refuses.
    """
    if study.part is None or study.index is None:
        raise StudyError(f"{study.folder} has no index; run: {index_files.command(study.folder)}.")
    host = urlsplit(writer.base_url).hostname or ""
    if not is_loopback(host):
        what = f"labels are asked for at {host}, so that texts of questions and explanations would leave this machine"
        accepted = settings.accept_licence
        require_open(licences_of(study.items.values(), study.provenance.data), accepted=accepted, what=what)
    chosen = _chosen(study, writer.model, settings)
    folder = study.folder / index_files.FOLDER
    release = lock.hold(folder)
    try:
        features = load_features(study.folder / "features")
        rng = np.random.default_rng([settings.seed, 17])
        held_out = np.zeros(len(features.acts.item_ids), dtype=bool)
        held_out[rng.permutation(len(held_out))[: len(held_out) // 2]] = True
        contexts = marked_contexts(features, chosen, rng, n_examples=EXAMPLES, exclude_items=held_out)
        language = settings.language or _language(study)
        labels = _written(folder, writer, contexts, language, progress)
        tasks = label_tasks(
            features, sorted(labels), rng, kinds=("detection",), n_examples=EXAMPLES, exclude_items=~held_out
        )
        kept = KeptVerdicts(judge, folder / VERDICTS, progress=progress)
        scores = score_labels(tasks, labels, kept, DRAWS, rng, FOREIGN)
        pieces = {task.feature: len(task.examples) for task in tasks}
        made = [
            _proposal(feature, label, writer.model, judge.name, scores, pieces.get(feature, 0), contexts[feature])
            for feature, label in sorted(labels.items())
        ]
        added = study.proposals.add(made)
    finally:
        release()
    scored, has_null = len(scores.features), len(scores.features) > 1
    return Labelled(
        output=str(folder),
        model=writer.model,
        judge=judge.name,
        asked=len(chosen),
        proposed=added,
        without_texts=len(chosen) - len(contexts),
        unanswered=len(contexts) - len(labels),
        unscored=sum(each.score is None for each in made),
        detection={
            "n": float(scored),
            "value": scores.value if scored else None,
            "null": float(scores.null.mean()) if has_null else None,
            "p": scores.p if has_null else None,
        },
    )


def n_requests(n_features: int) -> int:
    """How many requests `n_features` labels cost at most, without those that are sent again."""
    return n_features * (2 + min(FOREIGN, max(n_features - 1, 0)))


def _chosen(study: OpenStudy, model: str, settings: LabelSettings) -> list[int]:
    """Those that are asked for, by index."""
    index, names = study.index, study.names
    assert index is not None and study.d_sae is not None  # the caller looked
    if settings.only:
        for feature in settings.only:
            study.require_feature(feature)
        found = list(dict.fromkeys(settings.only))[: settings.most]
    else:
        known = {each.feature for each in study.proposals.all() if each.model == model} | set(names.labels.all())
        open_ = [f for f in np.flatnonzero(index.kept & (index.count > 0)).tolist() if f not in known]
        tested = names.aligned.tested
        found = sorted(open_, key=lambda f: (f not in tested, -int(index.n_cases[f]), f))[: settings.most]
    if not found:
        raise ConfigError(
            f"every feature that align compares has a label, or a proposed one of {plain(model)}; name features with "
            "--feature to have labels proposed for them all the same."
        )
    return sorted(found)


def _language(study: OpenStudy) -> Literal["ko", "en"]:
    most = Counter(item.language for item in study.items.values()).most_common(1)[0][0]
    return "ko" if most == "ko" else "en"


def _written(
    folder: Path,
    writer: Endpoint,
    contexts: dict[int, tuple[tuple[str, ...], tuple[str, ...]]],
    language: Literal["ko", "en"],
    progress: bool,
) -> dict[int, str]:
    """Feature -> label, of those that got one. What was answered before is not asked for again."""
    store = PartialResults(folder / WRITTEN, {"labels": "proposed for features"})
    keys = {feature: json_sha256([writer.model, language, *both]) for feature, both in contexts.items()}
    new = [feature for feature, key in keys.items() if key not in store.done]
    with progress_bar(progress and bool(new)) as bar:
        task = bar.add_task(f"labels: asking {plain(writer.model)}", total=len(new))
        for place, reply in writer.ask_all([label_request(*contexts[feature], language) for feature in new]):
            label = None if isinstance(reply, Unanswered) else read_label(reply.text)
            if label is not None:
                store.append([{"id": keys[new[place]], "label": label}])
            bar.advance(task)
    return {feature: store.done[key]["label"] for feature, key in keys.items() if key in store.done}


def _proposal(
    feature: int,
    label: str,
    model: str,
    judge: str,
    scores: LabelScores,
    pieces: int,
    contexts: tuple[Sequence[str], ...],
) -> Proposal:
    place = np.flatnonzero(scores.features == feature)
    score, others = None, np.zeros(0)
    if len(place):
        row = scores.table[place[0]]
        score = float(row[place[0]])
        others = np.delete(row, place[0])
        others = others[np.isfinite(others)]
    return Proposal(
        id=json_sha256([model, judge, feature, label, *contexts])[:32],
        feature=feature,
        label=label,
        model=model,
        judge=judge,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        score=None if score is None else round(score, 4),
        null=round(float(others.mean()), 4) if len(others) else None,
        pieces=pieces,
        foreign=len(others),
    )
