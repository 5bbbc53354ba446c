"""Which features carry a label: chosen on half of its concepts, tested on the other half.

Input: activations `[n, d_sae]`, one row per concept (`names`). The concepts of a domain are cut into halves, label by
label. For each label, on the training half, the `CHOSEN` features with the largest one-vs-rest

    AUROC = P(a(with the label) > a(without)) + P(equal) / 2        0 to 1, 0.5 by chance

above 0.5 are chosen; what is reported is their AUROC on the held-out half. Positive sign: stronger where the label is.
The two halves may be of two languages (`bilingual`).

**Null**: labels permuted over the held-out concepts, B times, with the choice as it was made. p of a feature comes from
the largest AUROC over all chosen features of its label in each permutation (Westfall and Young 1993): the choice itself
saw no held-out concept. q is Benjamini-Hochberg over all labels that are reported together, each with the p of its best
feature; its other features are held to the same level (Benjamini and Bogomolov 2014).

Beside each row the same choice and test, made among other things than features; of them the best of the chosen counts:

- **characters**: 2- to 4-grams of the names (TF-IDF): what the spelling gives;
- **embedding**: the dimensions of the residual before the first block, both signs: what the last token gives;
- **random**: the SAE on models with permuted weights, firing rates kept: what the architecture gives;
- **shuffled**: the SAE with the entries of each direction permuted, firing rates kept: what any dictionary gives.

A row *stands out* where q is below 0.05 and its AUROC is above all four. That is a read-out: it says which features
tell concepts of a label apart, not that the model uses them.

Out of scope: domains of an order (ages, doses, stages), which have no labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.geometry import permuted
from sae_lens_med.knowledge_map.lists import MapConcept
from sae_lens_med.knowledge_map.measure import characters
from sae_lens_med.records import BoolArray, FloatArray, IntArray, Record
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, permutation_p, quantile_interval

CHOSEN = 5
"""Features that a label chooses."""
LEAST_EACH = 2
"""Concepts with a label, and without, that either half needs."""
CONTROLS = ("characters", "embedding", "random", "shuffled")
_RESAMPLES = 1000
_TOP = 5
Rows = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class ConceptActs:
    """One domain in one language as an SAE sees it, and what stands beside it. Row i of all is the same concept."""

    concepts: tuple[MapConcept, ...]
    language: str
    features: Rows
    """`[n, d_sae]`, >= 0."""
    fires: Rows
    """`[n, d_sae]`, share of the tokens of a concept's name at which the feature fires."""
    residual: Rows
    """`[n, d_in]`, at the SAE's hook."""
    embedding: Rows
    """`[n, d_model]`."""
    shuffled: Rows
    """`[n, d_sae]`."""
    random: tuple[Rows, ...] = ()
    """`[n, d_sae]` of each model with permuted weights."""

    @property
    def names(self) -> list[str]:
        """Of the rows, in the language."""
        return [each.forms[self.language] for each in self.concepts]


@dataclass(frozen=True, slots=True)
class FeatureRow(Record):
    """One feature that a label chose."""

    domain: str
    language: str
    """`ko`, `en`; or `ko-en`: chosen in Korean, tested in English."""
    labels: str
    """The label set."""
    label: str
    depth: int
    """At which of the map's depths the SAE reads."""
    sae: str
    position: str
    """`concept` (the name's last token) or `name` (the strongest over the name)."""
    feature: int
    n: int
    """Held-out concepts."""
    n_label: int
    """Of these, with the label."""
    auroc_train: float
    """The largest of many, so not a result."""
    auroc: float
    """On the held-out concepts."""
    interval: tuple[float, float]
    """95 %, bootstrap over held-out concepts, those with and those without the label each by themselves."""
    null_mean: float
    """Of the largest AUROC over the label's chosen features, labels permuted."""
    auroc_null_high: float
    """Its 95 % quantile."""
    p: float
    """One-sided, corrected over the chosen features."""
    characters: float
    """Best held-out AUROC of the character n-grams that the label chose."""
    embedding: float
    random: tuple[float, ...]
    """One for each model with permuted weights."""
    shuffled: float
    q: float = 1.0
    stands_out: bool = False
    not_above: tuple[str, ...] = ()
    """Which of `CONTROLS` have an AUROC as high."""
    top: tuple[str, ...] = ()
    """Names, held-out ones among them, on which the feature is strongest, in the language it was tested in."""
    n_shared: int = 0
    """Held-out concepts that were left out because their names in both languages share a Latin string or a number."""
    auroc_with_shared: float | None = None
    """With these; None where there are none."""
    contexts: tuple[dict[str, Any], ...] = ()
    """Where the feature is strongest in a collection of features: `before`, `token`, `after`, `value`, `item_id`."""

    @property
    def name(self) -> str:
        """What its cell is called."""
        return f"{self.domain}/{self.labels}: {self.label}"


def held_out(concepts: Sequence[MapConcept], rng: np.random.Generator) -> frozenset[str]:
    """Names of the concepts that nothing is chosen on: half of those with the same labels, at random; of an odd number
    the larger half on either side in turn."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for each in concepts:
        groups.setdefault(tuple(each.labels.values()), []).append(each.concept)
    out: set[str] = set()
    more = False
    for names in groups.values():
        order = rng.permutation(len(names))
        n = (len(names) + more) // 2
        more ^= len(names) % 2 == 1
        out |= {names[i] for i in order[:n]}
    return frozenset(out)


def auroc(x: Rows, member: BoolArray) -> FloatArray:
    """One-vs-rest AUROC of every column under every labelling.

    Args:
        x: `[n, k]`.
        member: `[B, n]`, True for rows with the label; at least one with and one without.

    Returns `[B, k]` in [0, 1].
    """
    return auroc_of_ranks(ranks(x), member)


def ranks(x: Rows) -> FloatArray:
    """Ranks `[n, k]` from 1 of each column, ties their mean: what an AUROC takes, for several sets of labels."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(x, axis=0), dtype=np.float64)


def auroc_of_ranks(ranked: FloatArray, member: BoolArray) -> FloatArray:
    """`auroc` of the columns that `ranked` are the `ranks` of."""
    n, own = member.shape[1], member.sum(1, keepdims=True)
    return (member.astype(np.float64) @ ranked - own * (own + 1) / 2) / (own * (n - own))


def choose(x: Rows, member: BoolArray, k: int) -> list[tuple[IntArray, FloatArray]]:
    """For each label (`member [L, n]`) the columns of `x [n, d]` with the largest AUROC above 0.5, at most k, best
    first, the lower one first of equals; and these AUROCs."""
    live = np.flatnonzero(x.min(0) != x.max(0))
    if not len(live):
        return [(live, np.zeros(0)) for _ in member]
    chosen = []
    for found in auroc(x[:, live], member):
        order = np.argsort(-found, kind="stable")[:k]
        order = order[found[order] > 0.5]
        chosen.append((live[order], found[order]))
    return chosen


def carriers(
    train: ConceptActs,
    test: ConceptActs,
    out: frozenset[str],
    labels: str,
    *,
    depth: int,
    sae: str,
    position: str,
    permutations: int,
    rng: np.random.Generator,
    without: frozenset[str] = frozenset(),
) -> tuple[list[FeatureRow], list[str]]:
    """The features that each label of a set chose, without q.

    Args:
        train: where features are chosen, on the concepts that are not in `out`.
        test: where they are tested, on those that are; the same object for one language.
        out: concepts that are held out (`held_out`).
        labels: name of the label set.
        depth, sae, position: what the rows say of themselves.
        permutations: B.
        rng: of permutations and bootstrap.
        without: held-out concepts that are left out of the test.

    Returns the rows and one sentence for each label that has too few concepts to be tested. A label that no feature is
    stronger for has no rows.
    """
    at_train = [i for i, each in enumerate(train.concepts) if each.concept not in out]
    at_all = [i for i, each in enumerate(test.concepts) if each.concept in out]
    at_test = [i for i in at_all if test.concepts[i].concept not in without]
    language = train.language if train is test else f"{train.language}-{test.language}"
    domain = train.concepts[0].domain
    own_train = np.array([train.concepts[i].labels[labels] for i in at_train])
    own_test = np.array([test.concepts[i].labels[labels] for i in at_test])
    known, codes = np.unique(own_test, return_inverse=True)
    drawn = permuted(codes, np.zeros(len(codes), dtype=np.int64), permutations, rng).astype(np.int64)
    rows: list[FeatureRow] = []
    notes: list[str] = []
    asked: list[str] = []
    for label in dict.fromkeys(each.labels[labels] for each in train.concepts):
        counts = [int((own == label).sum()) for own in (own_train, own_test)]
        if min(*counts, len(at_train) - counts[0], len(at_test) - counts[1]) >= LEAST_EACH:
            asked.append(label)
            continue
        notes.append(
            f"{domain}, {labels}, {label} ({language}): not tested; it needs {LEAST_EACH} concepts with it and as many "
            f"without in either half, and has {counts[0]} and {counts[1]}."
        )
    if not asked:
        return [], notes
    members = np.array([own_train == label for label in asked])
    held = np.array([own_test == label for label in asked])
    controls = {name: _best(a, b, members, held) for name, (a, b) in _sides(train, test, at_train, at_test).items()}
    picked = choose(train.features[at_train], members, CHOSEN)
    for i, (label, (chosen, on_train)) in enumerate(zip(asked, picked, strict=True)):
        if not len(chosen):
            continue
        tested = test.features[at_test][:, chosen]
        aurocs = auroc(tested, drawn == int(np.flatnonzero(known == label)[0]))
        null = aurocs[1:].max(1)
        intervals = auroc_intervals(tested, held[i], rng)
        beside = {name: values[i] for name, values in controls.items()}
        for j, feature in enumerate(chosen.tolist()):
            value = float(aurocs[0, j])
            rows.append(
                FeatureRow(
                    domain=domain,
                    language=language,
                    labels=labels,
                    label=label,
                    depth=depth,
                    sae=sae,
                    position=position,
                    feature=feature,
                    n=len(at_test),
                    n_label=int(held[i].sum()),
                    auroc_train=float(on_train[j]),
                    auroc=value,
                    interval=intervals[j],
                    null_mean=float(null.mean()),
                    auroc_null_high=float(np.quantile(null, 0.95)),
                    p=permutation_p(value, null),
                    characters=beside["characters"],
                    embedding=beside["embedding"],
                    random=tuple(value for name, value in beside.items() if name.startswith("random")),
                    shuffled=beside["shuffled"],
                    top=_top(test, feature),
                    n_shared=len(at_all) - len(at_test),
                    auroc_with_shared=_with(test, at_all, labels, label, feature) if at_all != at_test else None,
                )
            )
    return rows, notes


def corrected(rows: Sequence[FeatureRow]) -> list[FeatureRow]:
    """The rows, which are reported together, with q and what stands out."""
    best: dict[tuple[str, ...], float] = {}
    for row in rows:
        cell = (row.sae, row.domain, row.labels, row.label, row.language)
        best[cell] = min(row.p, best.get(cell, 1.0))
    p = np.array(sorted(best.values()))
    adjusted = benjamini_hochberg(p) if len(p) else p
    found = []
    for row in rows:
        # As if p were that of a label: of a label's best feature this is its adjusted p.
        at = int(np.searchsorted(p, row.p, side="right"))
        q = min(1.0, len(p) * row.p / at, *adjusted[at:].tolist())
        beside = (row.characters, row.embedding, max(row.random, default=0.0), row.shuffled)
        above = tuple(name for name, value in zip(CONTROLS, beside, strict=True) if value >= row.auroc)
        found.append(replace(row, q=q, not_above=above, stands_out=q < ALPHA and not above))
    return found


def auroc_intervals(x: Rows, member: BoolArray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """95 % percentile bootstrap of the AUROC of each column of `x [n, k]`, rows with and rows without the label drawn
    each by themselves. All of the one above all of the other gives (1, 1): with a few rows that is too narrow."""
    one, other = x[member], x[~member]
    better = (one[:, None] > other[None]) + 0.5 * (one[:, None] == other[None])  # [n1, n0, k]
    first, second = (
        rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=_RESAMPLES) / len(rows)
        for rows in (one, other)
    )
    return [quantile_interval(((first @ better[:, :, j]) * second).sum(1)) for j in range(x.shape[1])]


def _sides(
    train: ConceptActs, test: ConceptActs, at_train: Sequence[int], at_test: Sequence[int]
) -> Mapping[str, tuple[Rows, Rows]]:
    """What is chosen among instead of features: name -> training and held-out rows, of the same columns."""
    names = [train.names[i] for i in at_train] + [test.names[i] for i in at_test]
    spelling = characters(names)
    pairs = {"shuffled": (train.shuffled, test.shuffled)}
    pairs |= {"embedding": (_signs(train.embedding), _signs(test.embedding))}
    pairs |= {f"random-{k}": pair for k, pair in enumerate(zip(train.random, test.random, strict=True))}
    found = {name: (a[at_train], b[at_test]) for name, (a, b) in pairs.items()}
    return found | {"characters": (spelling[: len(at_train)], spelling[len(at_train) :])}


def _signs(x: Rows) -> Rows:
    return np.concatenate([x, -x], axis=1)


def _best(train: Rows, test: Rows, members: BoolArray, held: BoolArray) -> list[float]:
    """For each label the best held-out AUROC of what it chose; 0.5 where it chose nothing, or nothing better."""
    picked = zip(choose(train, members, CHOSEN), held, strict=True)
    return [float(auroc(test[:, chosen], own[None]).max(initial=0.5)) for (chosen, _), own in picked]


def _with(test: ConceptActs, at: Sequence[int], labels: str, label: str, feature: int) -> float:
    member = np.array([test.concepts[i].labels[labels] == label for i in at])
    return float(auroc(test.features[at][:, [feature]], member[None])[0, 0])


def _top(acts: ConceptActs, feature: int) -> tuple[str, ...]:
    order = np.argsort(-acts.features[:, feature], kind="stable")[:_TOP]
    return tuple(acts.names[i] for i in order if acts.features[i, feature] > 0)


def require_labels(concepts: Sequence[MapConcept]) -> None:
    """Raises `DataError` where no concept has a label."""
    if not any(each.labels for each in concepts):
        raise DataError(
            "none of the chosen domains has labels, so that there is nothing for features to carry; choose one that "
            "has, such as symptoms, diseases or drugs."
        )
