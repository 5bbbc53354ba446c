"""Do labels of features say when the features fire? Detection and fuzzing scores of feature labels (domain metric #13).

A judge reads a label and pieces of text (`tasks`) and says of each yes or no; the value is the mean over features of
its balanced accuracy, in [0, 1], 0.5 for guessing (`scores`, which also has the null: labels shuffled among the
features). p is one-sided; the interval is a percentile bootstrap over features.

**Labels** are those of a file, or else the names of the concepts that features stand for. Those are made from
questions, so that their pieces come from explanations alone. **The judge** is the one that is given, or the study's own
model, which says little where the model is small. With a folder, verdicts are kept there (`KeptVerdicts`).

Out of scope: choosing pieces (`tasks`), scoring verdicts (`scores`), and asking (`judges`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.progress import TimeElapsedColumn

from sae_lens_med.alignment.concept_features import concept_features
from sae_lens_med.alignment.labels.judges import LocalModelJudge
from sae_lens_med.alignment.labels.scores import Judge, LabelScores, read_labels, require_verdicts, score_labels
from sae_lens_med.alignment.labels.tasks import KINDS, PIECE_PARTS, Kind, label_tasks
from sae_lens_med.escaping import plain
from sae_lens_med.features.vectors import Collected, n_columns
from sae_lens_med.metrics.depends import on_concepts, on_controls, on_labels, on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence
from sae_lens_med.records import BoolArray, MetricValue
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.statistics import bootstrap_interval, quantile_interval

VERDICTS_FILE = "labels.verdicts.partial.jsonl"
ASKED_TOGETHER = 16
"""Labels, each with its pieces, that a judge gets in one call."""

NAMES: dict[Kind, str] = {"detection": "alignment/labels_detection", "fuzzing": "alignment/labels_fuzzing"}


def measure_labels(inputs: Inputs) -> Measured:
    """Of both kinds, and the labels in `labels.json`. The model is opened only where it is the judge."""
    judge: Judge | None = inputs.judge
    progress = True
    if judge is None and inputs.open_model is not None:
        from sae_lens_med.models.engine import Engine  # needs torch, which this module does not

        judge = LocalModelJudge(Engine(inputs.model.model, batch_tokens=inputs.model.batch_tokens))
        progress = inputs.model.progress
    if judge is None:
        return Measured(notes=("There is no judge, so labels are not scored; name one, or let the model run.",))
    if inputs.folder is not None:
        judge = KeptVerdicts(judge, inputs.folder / VERDICTS_FILE, progress=progress)
    if inputs.labels is not None:
        labels = read_labels(inputs.labels, n_columns(inputs.features.acts.acts))
        parts, source = PIECE_PARTS, inputs.labels.name
    else:
        labels = _concept_names(inputs)
        parts, source = ("explanation",), "the concepts that features stand for"
    metrics, notes = label_metrics(
        inputs.features,
        labels,
        judge,
        parts=parts,
        foreign=inputs.settings.foreign_labels,
        draws=inputs.permutations,
        seed=inputs.seed,
    )
    return Measured(
        metrics,
        (*notes, f"{len(labels)} labels, from {source}."),
        {"labels.json": {str(feature): label for feature, label in sorted(labels.items())}},
    )


def _concept_names(inputs: Inputs) -> dict[int, str]:
    """Feature -> the names of up to three concepts whose strongest feature it is."""
    names: dict[int, list[str]] = {}
    for concept, features in concept_features(inputs).items():
        names.setdefault(features[0], []).append(concept)
    return {feature: "; ".join(own[:3]) for feature, own in names.items()}


class KeptVerdicts:
    """A judge whose verdicts are written to a file as they come, so that nothing is asked, or paid for, twice.

    Verdicts are found by the judge's name, kind, label and texts. An interruption loses at most the answers of one call
    (`ASKED_TOGETHER` labels). Measuring again does not ask again; deleting the file does.
    """

    def __init__(self, judge: Judge, path: Path, *, progress: bool = True) -> None:
        self._judge, self._progress = judge, progress
        self._store = PartialResults(path, {"verdicts": "of feature labels"})

    @property
    def name(self) -> str:
        return self._judge.name

    def judge(self, kind: Kind, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
        """As `scores.Judge`."""
        keys = [json_sha256([self.name, kind, label, list(texts)]) for label, texts in asked]
        new = [k for k, key in enumerate(keys) if key not in self._store.done]
        found: dict[str, Sequence[float | None]] = {}
        # The time that has passed moves while a judge is waited for.
        with progress_bar(self._progress and bool(new), TimeElapsedColumn()) as bar:
            task = bar.add_task(f"labels, {kind}: asking {plain(self.name)}", total=len(new))
            for start in range(0, len(new), ASKED_TOGETHER):
                batch = new[start : start + ASKED_TOGETHER]
                verdicts = self._judge.judge(kind, [asked[k] for k in batch])
                require_verdicts(self._judge, verdicts, [asked[k] for k in batch])
                found |= {keys[k]: given for k, given in zip(batch, verdicts, strict=True)}
                # What is no verdict is asked for again another time: the judge may have been mended.
                self._store.append(
                    {"id": keys[k], "verdicts": list(found[keys[k]])}
                    for k in batch
                    if any(verdict is not None for verdict in found[keys[k]])
                )
                bar.advance(task, len(batch))
        return [tuple(found[key] if key in found else self._store.done[key]["verdicts"]) for key in keys]


def label_metrics(
    features: Collected,
    labels: Mapping[int, str],
    judge: Judge,
    *,
    kinds: Sequence[Kind] = KINDS,
    n_examples: int = 10,
    foreign: int | None = 4,
    draws: int = 2000,
    parts: Sequence[str] = PIECE_PARTS,
    exclude_items: BoolArray | None = None,
    seed: int = 0,
) -> tuple[tuple[MetricValue, ...], tuple[str, ...]]:
    """One value per kind, with what was not measured and why; the arguments are those of `tasks` and `scores`.

    A judge is asked about `F * (1 + foreign)` times `2 * n_examples` pieces for each kind.
    """
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for number, kind in enumerate(kinds):
        rng = np.random.default_rng([seed, 13, number])
        tasks = label_tasks(
            features,
            sorted(labels),
            rng,
            kinds=(kind,),
            n_examples=n_examples,
            parts=parts,
            exclude_items=exclude_items,
        )
        left_out = len(labels) - len(tasks)
        if left_out:
            notes.append(f"{left_out} of {len(labels)} labelled features have too few contexts for {kind}.")
        if not tasks:
            continue
        scores = score_labels(tasks, labels, judge, draws, rng, foreign)
        if scores.n_examples and scores.n_without_verdict == scores.n_examples:
            notes.append(
                f"The judge {judge.name} gave no verdict on any of the {scores.n_examples} pieces for {kind}, so that "
                "was not measured; check that it answers with a JSON list of 0 and 1, or name another judge."
            )
            continue
        metrics.append(_value(scores, judge, seed))
    return tuple(metrics), tuple(notes)


def _value(scores: LabelScores, judge: Judge, seed: int) -> MetricValue:
    measured = np.isfinite(scores.auroc)
    has_null = len(scores.features) > 1 and len(scores.null) > 0
    null = {} if not has_null else {
        "null_mean": float(scores.null.mean()), "null_interval": quantile_interval(scores.null), "p": scores.p,
    }  # fmt: skip
    return MetricValue(
        name=NAMES[scores.kind],
        value=scores.value,
        range=(0.0, 1.0),
        n=len(scores.features),
        unit="features",
        interval=bootstrap_interval(scores.balanced_accuracy, seed=seed),
        **null,
        masked={"pieces_without_verdict": scores.n_without_verdict},
        extra={
            "chance": 0.5,
            "pieces": float(scores.n_examples),
            "permutations": float(len(scores.null)),
            **({"auroc": float(scores.auroc[measured].mean())} if measured.any() else {}),
        },
        notes=f"Balanced accuracy; judge: {judge.name}; interval: percentile bootstrap over features; null: labels "
        "shuffled among the features.",
    )


LABELS = Metric(
    name="labels",
    number=13,
    family="features",
    title="Quality of feature labels (detection, fuzzing)",
    meaning="Whether a judge who reads a feature's label can tell the texts on which the feature fires.",
    range=(0.0, 1.0),
    null="Labels shuffled among features; guessing is 0.5.",
    needs=("labels",),
    source="delphi (EleutherAI); Templeton et al. 2024; Heap et al. 2501.17727",
    values=("alignment/labels",),
    confirmatory=("alignment/labels_detection",),
    claims={
        "alignment/labels_detection": Claim(
            may=Sentence(
                "a judge who reads a feature's label tells where it fires better than with another feature's label",
                "판정자가 특징의 이름만 보고, 다른 특징의 이름을 볼 때보다 그 활성 위치를 더 잘 구별한다",
            ),
            may_not=Sentence(
                "the label is what the feature does in the model", "그 이름이 모델 안에서 그 특징이 하는 일이다"
            ),
            floor=0.02,
            least=0.5,
        )
    },
    depends_on=(on_controls, on_concepts, on_model_runs, on_labels),
    measure=measure_labels,
)
