"""Collected features + items -> every alignment number of a study, with its nulls, baselines and counts.

Who is compared: items with an explanation. Strata: items of one language, subject and gold letter exchange
explanations; an item alone in its stratum exchanges within its language and subject (`statistics.coarsen_strata`: with
the other such items, or with the smallest stratum of the subject). An item alone in its subject exchanges with none: to
let it exchange across subjects would count the subject as alignment. It stays out of matched-minus-mismatched, stays
in retrieval (the null then leaves it in place), and is counted.

Similarities are adjusted for text length and script (`similarity.adjust_for_nuisance`) in groups of at least
`MIN_ADJUSTED` items; the value and p of the plain cosine stand beside each metric as `unadjusted` and `unadjusted_p`.
Vectors and weights are made once, over all compared items and blind to who belongs to whom; groups are cut from the
similarity matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.alignment.baselines import principal_components, standardised, tfidf, token_code_size
from sae_lens_med.alignment.similarity import (
    MatchedMismatched,
    adjust_for_nuisance,
    cosine_matrix,
    matched_metric,
    matched_minus_mismatched,
    retrieval,
    retrieval_metrics,
)
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import (
    EXPLANATION_PARTS,
    STEM_PARTS,
    Collected,
    feature_mask,
    idf_weights,
    max_pool,
    text_properties,
    token_scripts,
    tokens_of,
    tokens_per_item,
    weighted,
)
from sae_lens_med.metrics.inputs import stratum_labels
from sae_lens_med.records import BoolArray, FeatureActs, FloatArray, IntArray, McqItem, MetricValue
from sae_lens_med.statistics import Strata, coarsen_strata, permutation_p, stratified_permutations

VARIANTS = ("sae", "raw", "pca", "tfidf")
MIN_ADJUSTED = 30
"""Items that a group needs before its similarities are adjusted: fewer cannot carry the fit of 16 coefficients."""
TOP_FEATURES = 10
"""Features that each list of `ItemFeatures` holds at most."""


class SharedFeature(TypedDict):
    """One feature of an item; `stem` and `explanation` are its maximum on that side times its IDF weight, >= 0."""

    feature: int
    stem: float
    explanation: float


class ItemFeatures(TypedDict):
    """The strongest features of one item. All three lists are empty for an item without an explanation."""

    id: str
    shared: list[SharedFeature]
    """Active on both sides, by the smaller of the two values, largest first."""
    stem_only: list[SharedFeature]
    """Active on the stem side only."""
    explanation_only: list[SharedFeature]
    """Active on the explanation side only."""


@dataclass(frozen=True, slots=True, eq=False)
class AlignmentResult:
    """What `align` returns."""

    metrics: tuple[MetricValue, ...]
    """Matched minus mismatched, MRR and R@k, for every variant and group that has enough items."""
    detail: MatchedMismatched | None
    """Metric #2 of the variant `sae` on the group `all`, item by item; None when no two items can be exchanged."""
    detail_ids: tuple[str, ...]
    """The items of `detail.matched` and `detail.mismatched_mean`, in order."""
    item_features: tuple[ItemFeatures, ...]
    """One entry per item, in order."""
    notes: tuple[str, ...]
    """What was not measured, and why; the sizes that the rules led to."""

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """`matched` `[m]`, `mismatched_mean` `[m]` and `null` `[B]` of `detail` as float32; empty without `detail`."""
        if self.detail is None:
            return {}
        return {name: getattr(self.detail, name).astype(np.float32) for name in ("matched", "mismatched_mean", "null")}


def align(
    features: Collected,
    items: Sequence[McqItem],
    *,
    groups: dict[str, BoolArray] | None = None,
    permutations: int = 2000,
    seed: int = 0,
    top_features: int = TOP_FEATURES,
    more: Mapping[str, FloatArray] | None = None,
) -> AlignmentResult:
    """Every alignment metric of a study.

    Args:
        features: activations of `items`; `features.acts.item_ids` must be their ids, in order.
        items: the questions, with gold letter, subject and explanation.
        groups: name -> `[n_items]` bool; `all` is always measured and need not be given.
        permutations: B of every null, >= 1. The least p is 1 / (B + 1).
        seed: of permutations and bootstrap; equal inputs and seed give equal results.
        top_features: the most features in each list of an item.
        more: further variants: name -> similarities `[m, m]` in [-1, 1] of the m items with an explanation, in order.

    Raises `DataError` when items and features do not belong together or a group has the wrong length, `ConfigError`
    when B < 1. Groups with fewer than two explained items give no metric and a note.
    """
    if permutations < 1:
        raise ConfigError(f"a permutation null needs at least one permutation, got {permutations}.")
    _require_same_items(features, items)
    wanted = {"all": np.ones(len(items), dtype=bool), **(groups or {})}
    for name, chosen in wanted.items():
        if np.shape(chosen) != (len(items),):
            raise DataError(
                f"group {name!r} has shape {np.shape(chosen)}, expected ({len(items)},): one bool per item."
            )

    acts = features.acts
    scripts = token_scripts(acts, features.texts)
    mask = feature_mask(acts, scripts)
    explained = np.flatnonzero(features.has_explanation)
    stems = max_pool(acts, STEM_PARTS, mask.kept)[explained]
    explanations = max_pool(acts, EXPLANATION_PARTS, mask.kept)[explained]
    weights = idf_weights(stems, explanations)
    stems, explanations = weighted(stems, weights), weighted(explanations, weights)

    notes = [
        f"{int(np.count_nonzero(mask.kept))} of {len(mask.kept)} features compared; left out: "
        f"{mask.counts['dense_features']} dense, {mask.counts['script_features']} script."
    ]
    metrics: list[MetricValue] = []
    detail: MatchedMismatched | None = None
    similarities: dict[str, FloatArray] = {}
    if len(explained) >= 2:
        similarities["sae"] = cosine_matrix(stems, explanations)
        baselines, size = _baseline_similarities(features, items, explained)
        similarities |= baselines
        notes.append(f"The pca baseline has {size} components.")
        for variant, matrix in (more or {}).items():
            if matrix.shape != similarities["sae"].shape:
                raise DataError(
                    f"the similarities of {variant!r} have shape {matrix.shape}, expected {similarities['sae'].shape}: "
                    "one row and column for each item with an explanation."
                )
            similarities[variant] = matrix
    properties = tuple(text_properties(acts, scripts, parts)[explained] for parts in (STEM_PARTS, EXPLANATION_PARTS))
    tallies = _tallies(acts, items)

    for name, chosen in wanted.items():
        chosen = np.asarray(chosen, dtype=bool)
        rows = np.flatnonzero(chosen[explained])
        if len(rows) < 2:
            notes.append(f"Group {name!r} has {len(rows)} items with an explanation: alignment is not measured.")
            continue
        strata = coarsen_strata([stratum_labels(items[i]) for i in explained[rows]])
        if strata.n_alone == len(rows):
            notes.append(
                f"Group {name!r}: no two items share a subject, so explanations cannot be exchanged; "
                "matched minus mismatched is not measured, and retrieval has only its chance level."
            )
        drawn = stratified_permutations(strata, permutations, np.random.default_rng([seed, *name.encode()]))
        masked = {key: int(per_item[chosen].sum()) for key, per_item in tallies.items()}
        masked["items_without_explanation"] = int(np.count_nonzero(chosen)) - len(rows)
        masked["items_without_partner"] = strata.n_alone
        for variant, similarity in similarities.items():
            measured, per_item = _measure(
                similarity[np.ix_(rows, rows)],
                properties[0][rows],
                properties[1][rows],
                strata,
                drawn,
                group=name,
                variant=variant,
                masked=masked | (mask.counts if variant == "sae" else {}),
                seed=seed,
            )
            metrics += measured
            if (name, variant) == ("all", "sae"):
                detail = per_item
    return AlignmentResult(
        metrics=tuple(metrics),
        detail=detail,
        detail_ids=() if detail is None else tuple(items[i].id for i in explained[detail.positions]),
        item_features=tuple(_item_features(items, explained, stems, explanations, top_features)),
        notes=tuple(notes),
    )


def _require_same_items(features: Collected, items: Sequence[McqItem]) -> None:
    ids = features.acts.item_ids
    if len(ids) != len(items):
        raise DataError(f"the features are of {len(ids)} items, but {len(items)} items were given; collect them again.")
    for i, (have, item) in enumerate(zip(ids, items, strict=True)):
        if have != item.id:
            raise DataError(
                f"item {i} is {item.id!r}, but its features are of {have!r}; give the items in their order."
            )
    shape = np.shape(features.has_explanation)
    if shape != (len(items),):
        raise DataError(f"has_explanation has shape {shape}, expected ({len(items)},).")


def _baseline_similarities(
    features: Collected, items: Sequence[McqItem], explained: IntArray
) -> tuple[dict[str, FloatArray], int]:
    """The similarity matrix of every baseline, and how many principal components there are."""
    stem, explanation = (
        standardised(side[explained]) for side in (features.raw_mean_stem, features.raw_mean_explanation)
    )
    reduced = principal_components(stem, explanation, token_code_size(features.acts))
    chosen = [items[i] for i in explained]
    words = tfidf(
        [item.question for item in chosen],
        [features.texts[item.id]["explanation"] for item in chosen],
    )
    matrices = {
        "raw": cosine_matrix(stem, explanation),
        "pca": cosine_matrix(*reduced),
        "tfidf": cosine_matrix(*words),
    }
    return matrices, reduced[0].shape[1]


def _tallies(acts: FeatureActs, items: Sequence[McqItem]) -> dict[str, IntArray]:
    """What was left out of each item before counting, `[n_items]` each."""
    excluded = acts.excluded & tokens_of(acts, STEM_PARTS + EXPLANATION_PARTS)
    leaks = [mask_leakage(item) if item.explanation is not None else None for item in items]
    return {
        "excluded_tokens": tokens_per_item(acts, excluded),
        "option_text_chars": np.array([leak.n_option_chars if leak else 0 for leak in leaks], dtype=np.int64),
        "stem_quote_chars": np.array([leak.n_stem_chars if leak else 0 for leak in leaks], dtype=np.int64),
        "answer_marks": np.array([leak.n_answer_marks if leak else 0 for leak in leaks], dtype=np.int64),
    }


def _measure(
    similarity: FloatArray,
    stem_properties: FloatArray,
    explanation_properties: FloatArray,
    strata: Strata,
    permutations: IntArray,
    *,
    group: str,
    variant: str,
    masked: dict[str, int],
    seed: int,
) -> tuple[list[MetricValue], MatchedMismatched | None]:
    """All metrics of one similarity matrix, and metric #2 item by item."""
    adjusts = len(similarity) >= MIN_ADJUSTED
    used = adjust_for_nuisance(similarity, stem_properties, explanation_properties) if adjusts else similarity
    # Empty vectors, and those that meet nothing of the other side: in the count, at similarity 0.
    zeros = {
        "stems_without_similarity": float(np.count_nonzero(~similarity.any(axis=1))),
        "explanations_without_similarity": float(np.count_nonzero(~similarity.any(axis=0))),
    }
    about: dict[str, Any] = {"group": group, "variant": variant, "masked": masked, "seed": seed}
    about["notes"] = (
        " Similarity: cosine, adjusted for text length and script."
        if adjusts
        else f" Similarity: cosine; fewer than {MIN_ADJUSTED} items, so not adjusted for text length and script."
    )
    metrics: list[MetricValue] = []
    detail = None
    if strata.exchangeable.any():
        detail = matched_minus_mismatched(used, strata, permutations)
        extra = zeros | {"strata_coarsened_items": float(strata.n_coarsened)}
        if adjusts:
            plain = matched_minus_mismatched(similarity, strata, permutations)
            value = float(plain.differences.mean())
            extra |= {"unadjusted": value, "unadjusted_p": permutation_p(value, plain.null)}
        metrics.append(matched_metric(detail, extra=extra, **about))
    else:
        permutations = permutations[:0]
    extras: dict[str, dict[str, float]] = {}
    if adjusts:
        for metric in retrieval_metrics(retrieval(similarity, permutations), extra={}, **about):
            extras[metric.name] = {"unadjusted": metric.value}
            if metric.p is not None:
                extras[metric.name]["unadjusted_p"] = metric.p
    metrics += retrieval_metrics(retrieval(used, permutations), extra=extras, **about)
    return metrics, detail


def _item_features(
    items: Sequence[McqItem], explained: IntArray, stems: sparse.csr_array, explanations: sparse.csr_array, top: int
) -> list[ItemFeatures]:
    row_of = {int(i): row for row, i in enumerate(explained)}
    entries: list[ItemFeatures] = []
    for i, item in enumerate(items):
        entry: ItemFeatures = {"id": item.id, "shared": [], "stem_only": [], "explanation_only": []}
        if (row := row_of.get(i)) is not None:
            (left, stem), (right, explanation) = _positive(stems, row), _positive(explanations, row)
            both, at, to = np.intersect1d(left, right, assume_unique=True, return_indices=True)
            entry["shared"] = _top(both, stem[at], explanation[to], np.minimum(stem[at], explanation[to]), top)
            alone = ~np.isin(left, both)
            entry["stem_only"] = _top(left[alone], stem[alone], np.zeros(len(left)), stem[alone], top)
            alone = ~np.isin(right, both)
            entry["explanation_only"] = _top(
                right[alone], np.zeros(len(right)), explanation[alone], explanation[alone], top
            )
        entries.append(entry)
    return entries


def _positive(side: sparse.csr_array, row: int) -> tuple[IntArray, FloatArray]:
    """The features of a row and their values; without those that every text has, whose weight is 0."""
    start, end = side.indptr[row], side.indptr[row + 1]
    features = np.asarray(side.indices[start:end], dtype=np.int64)
    values = np.asarray(side.data[start:end], dtype=np.float64)
    return features[values > 0], values[values > 0]


def _top(
    features: IntArray, stem: FloatArray, explanation: FloatArray, rank_by: FloatArray, top: int
) -> list[SharedFeature]:
    """The `top` features with the largest `rank_by`; of equals the lower index."""
    order = np.lexsort((features, -rank_by))[:top]
    return [{"feature": int(features[k]), "stem": float(stem[k]), "explanation": float(explanation[k])} for k in order]
