"""Does a feature's label say when the feature fires? Detection and fuzzing (domain metric #13).

As in delphi (Paulo et al. 2410.13928), a judge that sees a label and pieces of text, and nothing of the feature, says
of each piece yes or no:

- **detection**: does the feature fire in this piece? Half of the pieces are the feature's strongest contexts, half are
  contexts of random tokens in which it does not fire.
- **fuzzing**: are the marked tokens («like this») those on which it fires? All pieces are its contexts; in half of
  them the right tokens are marked, in the others as many tokens on which it does not fire.

Per feature, **balanced accuracy** `(TPR + TNR) / 2` in [0, 1], 0.5 for a judge that answers alike whatever it sees; a
piece without a verdict counts as wrong. Beside it the **AUROC** of the judge's probabilities, which a judge that says
"yes" too often does not lose.

**Null**: labels change places among the features. Label g is put to the pieces of feature f: a table `[F, F]` of
accuracies. The value is the mean of its diagonal; a permutation of labels is the mean over another one. With `foreign`
below F - 1 only the cells of so many cyclic shifts (in random order of the features) are asked. If a feature's own
label could as well have been any of those that were put to it, each choice of one of its `foreign + 1` cells is as
likely as the one that was made, so that a draw takes one cell of every feature: the least p falls with the number of
features. A label that is true of every medical text has 0.5 and the same as its null; a label that fits many features
alike raises the null with the value.

Out of scope: writing labels, choosing the pieces (`tasks`), and asking the judge (`judges`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sae_lens_med.alignment.labels.tasks import Kind, LabelTask
from sae_lens_med.data.fields import is_blank
from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.runs.parsing import ParseError, read_json, whole_number
from sae_lens_med.statistics import permutation_p

MAX_LABEL = 500
"""Characters of a label that a judge is shown at most."""


class Judge(Protocol):
    """Whoever says yes or no."""

    @property
    def name(self) -> str:
        """For the notes of a metric: the model, not where it runs."""
        ...

    def judge(self, kind: Kind, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
        """Per (label, texts) one probability of "yes" per text, in [0, 1]; None where there is no verdict."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LabelScores:
    """Metric #13 of one kind over F features."""

    kind: Kind
    features: IntArray
    """`[F]`."""
    table: FloatArray
    """`[F, F]`, balanced accuracy of label g (column) on the pieces of feature f (row); NaN where not asked."""
    auroc: FloatArray
    """`[F]`, of each feature's own label; NaN where only one kind of piece has a verdict."""
    null: FloatArray
    """`[B]`, the mean under permuted labels."""
    n_examples: int
    """Pieces of all features together."""
    n_without_verdict: int
    """Of these, with their own label; they count as wrong."""

    @property
    def balanced_accuracy(self) -> FloatArray:
        """`[F]`, with each feature's own label."""
        return np.diagonal(self.table).copy()

    @property
    def value(self) -> float:
        """Mean over features; 0.5 without features."""
        return float(self.balanced_accuracy.mean()) if len(self.features) else 0.5

    @property
    def p(self) -> float:
        """One-sided."""
        return permutation_p(self.value, self.null)


def read_labels(path: Path, d_sae: int | None = None) -> dict[int, str]:
    """Feature -> label from a file: a JSON object `{"12": "label", ...}`, or rows (.jsonl, .csv, .xlsx, ...) with the
    fields `feature` and `label`.

    Raises `DataError` that names the entry for a feature that is no number, is outside `[0, d_sae)` or appears twice,
    and for an empty label.
    """
    if path.name.endswith(".json"):
        try:
            found = read_json(path)
        except ParseError as error:
            raise DataError(f'{path}: not a JSON object of labels ({error}); write {{"feature": "label"}}.') from error
        if not isinstance(found, dict):
            raise DataError(f'{path}: labels are a JSON object, {{"feature": "label"}}; this is something else.')
        rows = [(f"entry {key!r}", key, value) for key, value in found.items()]
    else:
        rows = []
        for row in read_rows(path):
            if row.values is None:
                raise DataError(f"{path}: row {row.number}: {row.problem}.")
            lacking = [name for name in ("feature", "label") if row.values.get(name) is None]
            if lacking:
                raise DataError(f"{path}: row {row.number} has no field {lacking[0]!r}; add feature and label.")
            rows.append((f"row {row.number}", row.values["feature"], row.values["label"]))
    labels: dict[int, str] = {}
    for where, key, value in rows:
        number = _feature(key)
        if number is None or (d_sae is not None and number >= d_sae):
            least = "of 0 or more" if d_sae is None else f"from 0 to {d_sae - 1}"
            raise DataError(f"{path}: {where}: a feature must be a whole number {least}, not {key!r}.")
        if number in labels:
            raise DataError(f"{path}: {where}: the feature {number} has two labels; keep one.")
        if not isinstance(value, str) or is_blank(value):
            raise DataError(f"{path}: {where}: the label of feature {number} is empty; leave the feature out.")
        labels[number] = " ".join(value.split())[:MAX_LABEL]
    if not labels:
        raise DataError(f"{path}: there are no labels; add at least one.")
    return labels


def require_verdicts(
    judge: Judge, verdicts: Sequence[Sequence[float | None]], asked: Sequence[tuple[str, tuple[str, ...]]]
) -> None:
    """Raises `DataError` unless there is one verdict for each text that `judge` was asked about."""
    if [len(given) for given in verdicts] != [len(texts) for _, texts in asked]:
        raise DataError(f"the judge {judge.name} gave another number of verdicts than it was asked for.")


def score_labels(
    tasks: Sequence[LabelTask],
    labels: Mapping[int, str],
    judge: Judge,
    permutations: int,
    rng: np.random.Generator,
    foreign: int | None = 4,
) -> LabelScores:
    """Scores of tasks of one kind: see the module's text.

    Args:
        tasks: one per feature, of one kind, from `tasks.label_tasks`.
        labels: feature -> label; tasks of features without one are left out.
        judge: asked once about each feature with its own label, and with `foreign` others.
        permutations: B.
        rng: of the null.
        foreign: how many other features' labels each feature is asked with; None: all.

    Value on no data: 0.5 with p = 1 without features. Raises `DataError` when the kinds differ, a feature appears
    twice, or the judge gives a wrong number of verdicts.
    """
    kept = [task for task in tasks if task.feature in labels]
    kinds: set[Kind] = {task.kind for task in tasks}
    if len(kinds) > 1 or len({task.feature for task in kept}) < len(kept):
        raise DataError("labels are scored on tasks of one kind, one per feature; score detection and fuzzing apart.")
    n = len(kept)
    order = rng.permutation(n)
    shifts = range(n) if foreign is None or foreign >= n - 1 else range(foreign + 1)
    cells = [(int(order[i]), int(order[(i + shift) % n])) for shift in shifts for i in range(n)]
    asked = [(labels[kept[g].feature], tuple(e.text for e in kept[f].examples)) for f, g in cells]
    kind: Kind = tasks[0].kind if tasks else "detection"
    verdicts = judge.judge(kind, asked) if asked else []
    require_verdicts(judge, verdicts, asked)
    table, auroc = np.full((n, n), np.nan), np.full(n, np.nan)
    missing = 0
    for (f, g), given in zip(cells, verdicts, strict=True):
        truth = np.array([example.truth for example in kept[f].examples])
        said = np.array([np.nan if v is None else v for v in given], dtype=np.float64)
        table[f, g] = balanced_accuracy(said, truth)
        if f == g:
            auroc[f] = _auroc(said, truth)
            missing += int(np.isnan(said).sum())
    if len(shifts) == n:
        everyone = np.arange(n)
        drawn = rng.random((permutations, n)).argsort(axis=1) if n else np.zeros((permutations, 0), dtype=np.int64)
        null = table[everyone, drawn].mean(axis=1) if n else np.full(permutations, 0.5)
    else:
        asked_of = np.stack([table[order, np.roll(order, -shift)] for shift in shifts])  # [foreign + 1, n]
        null = asked_of[rng.integers(len(asked_of), size=(permutations, n)), np.arange(n)].mean(axis=1)
    return LabelScores(
        kind=kind,
        features=np.array([task.feature for task in kept], dtype=np.int64),
        table=table,
        auroc=auroc,
        null=null,
        n_examples=sum(len(task.examples) for task in kept),
        n_without_verdict=missing,
    )


def balanced_accuracy(said: FloatArray, truth: BoolArray) -> float:
    """`(TPR + TNR) / 2` of probabilities `[n]` with `truth` `[n]`: above 0.5 is yes, below is no, NaN and exactly 0.5
    are wrong. 0.5 unless there are pieces of both kinds."""
    if truth.all() or not truth.any():
        return 0.5
    yes, no = (said[truth] > 0.5).mean(), (said[~truth] < 0.5).mean()
    return float((yes + no) / 2)


def _auroc(said: FloatArray, truth: BoolArray) -> float:
    from scipy.stats import rankdata  # importing it takes a second

    known = np.isfinite(said)
    ranks, truth = rankdata(said[known]), truth[known]
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _feature(key: Any) -> int | None:
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    return whole_number(key, 0, 2**31 - 1)
