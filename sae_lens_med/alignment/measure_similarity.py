"""From `Inputs` to the numbers of similarity: retrieval and difference (#1, #2), overlap (#3), RSA (#12).

Variants, all by the same code: `sae`; `raw`, `pca`, `tfidf` and `bm25` (`baselines`); and the controls that were
collected (`shuffled_decoder`, `random_model`). Overlap is of sets, so only sparse codes take part (`sae`, controls,
`tfidf`); RSA leaves out `bm25`, which is not symmetric, and `tfidf` where the wording is partialled out: nothing of it
would be left.

**Length.** Long texts have more features, so long questions overlap more with long explanations whatever they say. The
tables of overlap are therefore adjusted, on the pairs that exchange (`similarity.adjust_within_strata`). Value and null
stay on the scale of the overlap itself: the null is what the lengths and scripts of the own pairs alone would give,
plus what is left of the re-paired ones. In RSA the length of both texts is partialled out.

Out of scope: everything that needs a forward pass.
"""

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.baselines import bm25, principal_components, standardised, tfidf, token_code_size
from sae_lens_med.alignment.overlap import DEFAULT_K, Overlap, feature_overlap, top_k_sets, weighted_jaccard_table
from sae_lens_med.alignment.retrieval import MIN_ADJUSTED, AlignmentResult, align
from sae_lens_med.alignment.rsa import MIN_ITEMS, Rsa, cosine_dissimilarity, mantel
from sae_lens_med.alignment.similarity import SMALL_N, adjust_within_strata, cosine_matrix
from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.metrics.inputs import Group, Inputs, Measured
from sae_lens_med.records import FloatArray, MetricValue
from sae_lens_med.statistics import bootstrap_interval, permutation_p, permuted_means, quantile_interval

BASELINES = ("raw", "pca", "tfidf", "bm25")


def aligned(inputs: Inputs) -> AlignmentResult:
    """`align` on all variants, made once."""
    return inputs.once("aligned", lambda: _align(inputs))


def measure_retrieval(inputs: Inputs) -> Measured:
    """#1: MRR and R@k of every variant and group, by `align`."""
    return _of(aligned(inputs), "alignment/retrieval")


def measure_difference(inputs: Inputs) -> Measured:
    """#2: matched minus mismatched of every variant and group, by `align`."""
    return _of(aligned(inputs), "alignment/matched_minus_mismatched")


def measure_overlap(inputs: Inputs, k: int = DEFAULT_K) -> Measured:
    """#3: weighted Jaccard, precision@k and recall@k of every sparse variant and group."""
    words = _words(inputs)
    sides = {v: (inputs.sides_of(v).stems, inputs.sides_of(v).explanations) for v in inputs.feature_variants}
    metrics: list[MetricValue] = []
    for variant, (stems, explanations) in (sides | {"tfidf": words}).items():
        # The sums over shared features do not depend on the group: one table serves all.
        jaccard = weighted_jaccard_table(stems, explanations)
        common = (top_k_sets(stems, k) @ top_k_sets(explanations, k).T).toarray()
        n_top, n_relevant = (np.diff(top_k_sets(side, k).indptr) for side in (stems, explanations))
        tables = {
            "alignment/overlap_jaccard": jaccard,
            f"alignment/overlap_precision_at_{k}": common / np.maximum(n_top, 1)[:, None],
            f"alignment/overlap_recall_at_{k}": common / np.maximum(n_relevant, 1)[None, :],
        }
        for group in inputs.explained_groups:
            rows = group.rows
            plain = feature_overlap(stems[rows], explanations[rows], group.permutations, k=k)
            for name, table in tables.items():
                own = table[np.ix_(rows, rows)]
                metrics.append(_overlap_value(inputs, group, name, variant, own, plain))
    return Measured(tuple(metrics), (_overlap_note(metrics),))


def measure_rsa(inputs: Inputs) -> Measured:
    """#12: Spearman's rho of the dissimilarities of questions (features) and explanations (wording or embeddings):
    plain, and with the questions' wording and the lengths of both texts partialled out."""
    metrics: list[MetricValue] = []
    notes: list[str] = []
    question_words, explanation_words = _words(inputs)
    wording = cosine_dissimilarity(cosine_matrix(question_words, question_words))
    if inputs.embedder is None:
        expected = cosine_dissimilarity(cosine_matrix(explanation_words, explanation_words))
    else:
        embedded = np.asarray(inputs.embedder(inputs.explanation_texts()), dtype=np.float64)
        expected = cosine_dissimilarity(cosine_matrix(embedded, embedded))
    lengths = [np.add.outer(side[:, 0], side[:, 0]) for side in inputs.properties]
    for variant, matrix in _rsa_variants(inputs).items():
        for group in inputs.explained_groups:
            if len(group.rows) < MIN_ITEMS or not group.strata.exchangeable.any():
                notes.append(f"RSA: the group {group.name!r} has too few items that can be exchanged; not measured.")
                continue
            cells = np.ix_(group.rows, group.rows)
            x, y = matrix[cells], expected[cells]
            plain = mantel(x, y, group.permutations)
            metrics.append(_rsa_value(inputs, group, "alignment/rsa", variant, plain, "Nothing is partialled out"))
            if variant != "tfidf":
                partial = [wording[cells], *(length[cells] for length in lengths)]
                without = mantel(x, y, group.permutations, partial=partial)
                said = "Partialled out: wording of the questions (TF-IDF), length of questions and of explanations"
                metrics.append(_rsa_value(inputs, group, "alignment/rsa_partial", variant, without, said))
    notes.append(
        f"RSA: explanations are compared by {inputs.embedder_name}. What partialling cannot take is what its measures "
        "of wording and length miss."
    )
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


def similarity(inputs: Inputs, variant: str) -> FloatArray:
    """The similarities `[m, m]` of one variant over the explained items, before any adjustment; made once.

    Raises `ConfigError` for a variant that is neither a baseline nor a collected control.
    """
    known = (*inputs.feature_variants, *BASELINES)
    if variant not in known:
        hint = nearest(variant, known) or f"; there are {', '.join(known)}."
        raise ConfigError(f"there is no variant {variant!r} here{hint}")
    return inputs.once(("similarity", variant), lambda: _similarity(inputs, variant))


def _similarity(inputs: Inputs, variant: str) -> FloatArray:
    if variant in inputs.feature_variants:
        return cosine_matrix(inputs.sides_of(variant).stems, inputs.sides_of(variant).explanations)
    if variant == "bm25":
        return bm25(inputs.question_texts(), inputs.explanation_texts())
    if variant == "tfidf":
        return cosine_matrix(*_words(inputs))
    raw = _raw(inputs)
    return cosine_matrix(*(_reduced(inputs) if variant == "pca" else raw))


def _align(inputs: Inputs) -> AlignmentResult:
    more = {variant: similarity(inputs, variant) for variant in ("bm25", *inputs.controls)}
    return align(
        inputs.features,
        inputs.items,
        groups=dict(inputs.groups),
        permutations=inputs.permutations,
        seed=inputs.seed,
        more=more,
    )


def _of(result: AlignmentResult, prefix: str) -> Measured:
    return Measured(tuple(m for m in result.metrics if m.name.startswith(prefix)), result.notes)


def _words(inputs: Inputs) -> tuple[sparse.csr_array, sparse.csr_array]:
    return inputs.once("words", lambda: tfidf(inputs.question_texts(), inputs.explanation_texts()))


def _raw(inputs: Inputs) -> tuple[FloatArray, FloatArray]:
    explained = inputs.sides.explained
    stem, explanation = (
        standardised(side[explained]) for side in (inputs.features.raw_mean_stem, inputs.features.raw_mean_explanation)
    )
    return stem, explanation


def _reduced(inputs: Inputs) -> tuple[FloatArray, FloatArray]:
    return principal_components(*_raw(inputs), token_code_size(inputs.features.acts))


def _rsa_variants(inputs: Inputs) -> dict[str, FloatArray]:
    """Dissimilarities of the questions with each other, `[m, m]`."""
    found = {variant: cosine_matrix(*(inputs.sides_of(variant).stems,) * 2) for variant in inputs.feature_variants}
    stem, reduced, question_words = _raw(inputs)[0], _reduced(inputs)[0], _words(inputs)[0]
    found |= {
        "raw": cosine_matrix(stem, stem),
        "pca": cosine_matrix(reduced, reduced),
        "tfidf": cosine_matrix(question_words, question_words),
    }
    return {variant: cosine_dissimilarity(matrix) for variant, matrix in found.items()}


def _masked(inputs: Inputs, group: Group, variant: str) -> dict[str, int]:
    counts = {"items_without_partner": group.strata.n_alone}
    if variant in inputs.feature_variants:
        counts |= inputs.sides_of(variant).mask.counts
    return counts


def _overlap_value(
    inputs: Inputs, group: Group, name: str, variant: str, table: FloatArray, plain: Overlap
) -> MetricValue:
    """The mean of the diagonal of `table` `[m, m]` against permutations of the adjusted table, on the table's scale."""
    n = len(table)
    everyone = np.arange(n)
    own = np.diagonal(table).copy()
    value = float(own.mean())
    adjusts = n >= MIN_ADJUSTED
    stem, explanation = (side[group.rows] for side in inputs.properties)
    used = adjust_within_strata(table, stem, explanation, group.strata) if adjusts else table
    offset = value - float(np.diagonal(used).mean())
    exchangeable = group.strata.exchangeable.any()
    null = permuted_means(used, group.permutations, everyone) + offset if exchangeable else np.zeros(0)
    extra = {"k": float(plain.k), "live_features": float(plain.n_live), "permutations": float(len(null))}
    if "precision" in name:
        extra["chance"] = float(plain.chance_precision.mean())
    elif "recall" in name:
        extra["chance"] = float(plain.chance_recall.mean())
    if adjusts and exchangeable:
        unadjusted = permuted_means(table, group.permutations, everyone)
        extra |= {"unadjusted_null": float(unadjusted.mean()), "unadjusted_p": permutation_p(value, unadjusted)}
    return MetricValue(
        name=name,
        value=value,
        range=(0.0, 1.0),
        n=n,
        interval=bootstrap_interval(own, seed=inputs.seed),
        null_mean=float(null.mean()) if len(null) else None,
        null_interval=quantile_interval(null) if len(null) else None,
        p=permutation_p(value, null) if len(null) else None,
        group=group.name,
        variant=variant,
        masked=_masked(inputs, group, variant),
        extra=extra,
        notes="Interval: percentile bootstrap over items; null: explanations permuted within strata"
        + (", at the lengths and scripts of the own pairs" if adjusts else ", not adjusted for length: too few items")
        + "; chance: hypergeometric, a floor"
        + _small(n),
    )


def _overlap_note(metrics: list[MetricValue]) -> str:
    live = next((m.extra["live_features"] for m in metrics if m.variant == "sae"), 0.0)
    return f"Overlap: {live:.0f} features are active in at least one text; sets hold at most {DEFAULT_K}."


def _rsa_value(inputs: Inputs, group: Group, name: str, variant: str, result: Rsa, said: str) -> MetricValue:
    n = result.n_items
    return MetricValue(
        name=name,
        value=result.value,
        range=(-1.0, 1.0),
        n=n,
        null_mean=float(result.null.mean()),
        null_interval=quantile_interval(result.null),
        p=result.p,
        group=group.name,
        variant=variant,
        masked=_masked(inputs, group, variant),
        extra={"pairs": float(result.n_pairs), "permutations": float(len(result.null))}
        | ({} if result.z is None else {"z": result.z}),
        notes=f"{said}; null: items moved within strata"
        + ("; p of the studentised statistic" if name.endswith("partial") else "")
        + "; pairs are not independent, so no interval is given"
        + _small(n),
    )


def _small(n: int) -> str:
    return f"; n = {n} is small, so this cannot carry a claim." if n < SMALL_N else "."
