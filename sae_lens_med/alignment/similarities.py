"""The similarities of every question with every explanation, by the SAE's features and by what they are compared with.

Variants, all by the same code: `sae`; `raw`, `pca`, `tfidf` and `bm25` (`baselines`); and the controls that were
collected (`shuffled_decoder`, `random_model`). Vectors and weights are made once, over all compared items and blind to
who belongs to whom; groups are cut from the similarity matrix.

Out of scope: what is measured on them (`retrieval`, `difference`, `overlap`, `rsa`).
"""

from functools import cached_property

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.baselines import bm25, principal_components, tfidf, token_code_size
from sae_lens_med.alignment.similarity import MIN_ADJUSTED, adjust_for_nuisance, cosine_matrix
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.features.vectors import EXPLANATION_PARTS, STEM_PARTS, tokens_of, tokens_per_item
from sae_lens_med.metrics.inputs import Group, Inputs
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import standardised

BASELINES = ("raw", "pca", "tfidf", "bm25")


class Similarities:
    """Of one study; `inputs.view(Similarities)` makes it once."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._matrices: dict[str, FloatArray] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        """The SAE, the baselines, the collected controls."""
        return ("sae", *BASELINES, *self.inputs.controls)

    def matrix(self, variant: str) -> FloatArray:
        """The similarities `[m, m]` of one variant over the explained items, before any adjustment.

        Raises `ConfigError` for a variant that is neither a baseline nor a collected control.
        """
        if variant not in self.variants:
            hint = nearest(variant, self.variants) or f"; there are {', '.join(self.variants)}."
            raise ConfigError(f"there is no variant {variant!r} here{hint}")
        if variant not in self._matrices:
            self._matrices[variant] = self._matrix(variant)
        return self._matrices[variant]

    def _matrix(self, variant: str) -> FloatArray:
        if variant in self.inputs.feature_variants:
            pooled = self.inputs.pooled_of(variant)
            return cosine_matrix(pooled.stems, pooled.explanations)
        if variant == "bm25":
            return bm25(self.inputs.question_texts(), self.inputs.explanation_texts())
        if variant == "tfidf":
            return cosine_matrix(*self.words)
        return cosine_matrix(*(self.reduced if variant == "pca" else self.raw))

    def adjusted(self, group: Group, variant: str) -> tuple[FloatArray, FloatArray | None]:
        """The similarities of one group as they are measured, and as they were before an adjustment; None for the
        second where the group is too small to be adjusted."""
        plain = self.matrix(variant)[np.ix_(group.rows, group.rows)]
        if len(plain) < MIN_ADJUSTED:
            return plain, None
        stem, explanation = (side[group.rows] for side in self.inputs.properties)
        return adjust_for_nuisance(plain, stem, explanation), plain

    @cached_property
    def words(self) -> tuple[sparse.csr_array, sparse.csr_array]:
        """TF-IDF of questions and explanations, CSR `[m, n_ngrams]` each."""
        return tfidf(self.inputs.question_texts(), self.inputs.explanation_texts())

    @cached_property
    def raw(self) -> tuple[FloatArray, FloatArray]:
        """Standardised mean residuals of stems and explanations, `[m, d_in]` each."""
        explained, features = self.inputs.pooled.explained, self.inputs.features
        return standardised(features.raw_mean_stem[explained]), standardised(features.raw_mean_explanation[explained])

    @cached_property
    def reduced(self) -> tuple[FloatArray, FloatArray]:
        """`raw` on its first principal components, as many as an SAE code has features."""
        return principal_components(*self.raw, token_code_size(self.inputs.features.acts))

    def left_out(self, group: Group, variant: str) -> dict[str, int]:
        """How much of the items of a group does not count, by reason."""
        chosen = self.inputs.all_groups[group.name]
        masked = {key: int(per_item[chosen].sum()) for key, per_item in self._tallies.items()}
        masked["items_without_explanation"] = int(np.count_nonzero(chosen)) - len(group.rows) - group.n_duplicates
        return masked | group.left_out | (self.inputs.pooled.mask.counts if variant == "sae" else {})

    @cached_property
    def _tallies(self) -> dict[str, IntArray]:
        """What was left out of each item before counting, `[n_items]` each."""
        acts = self.inputs.features.acts
        excluded = acts.excluded & tokens_of(acts, STEM_PARTS + EXPLANATION_PARTS)
        named = self.inputs.compared.acts.excluded & ~acts.excluded
        leaks = [mask_leakage(item) if item.explanation is not None else None for item in self.inputs.items]
        return {
            "excluded_tokens": tokens_per_item(acts, excluded),
            "option_word_tokens": tokens_per_item(acts, named),
            "option_text_chars": np.array([leak.n_option_chars if leak else 0 for leak in leaks], dtype=np.int64),
            "stem_quote_chars": np.array([leak.n_stem_chars if leak else 0 for leak in leaks], dtype=np.int64),
            "answer_marks": np.array([leak.n_answer_marks if leak else 0 for leak in leaks], dtype=np.int64),
        }

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was not compared and why; the sizes that the rules led to."""
        mask, explained = self.inputs.pooled.mask, self.inputs.pooled.explained
        notes = [
            f"{int(np.count_nonzero(mask.kept))} of {len(mask.kept)} features compared; left out: "
            f"{mask.counts['dense_features']} dense, {mask.counts['script_features']} script."
        ]
        if len(explained) >= 2:
            notes.append(f"The pca baseline has {self.reduced[0].shape[1]} components.")
        measured = {group.name: group for group in self.inputs.explained_groups}
        for name, chosen in self.inputs.all_groups.items():
            if name not in measured:
                n = int(np.count_nonzero(chosen[explained]))
                notes.append(f"Group {name!r} has {n} items with an explanation: alignment is not measured.")
            elif not measured[name].strata.exchangeable.any():
                notes.append(
                    f"Group {name!r}: no two items share a subject, so explanations cannot be exchanged; "
                    "matched minus mismatched is not measured, and retrieval has only its chance level."
                )
        return tuple(notes)


def how_similar(adjusted: bool) -> str:
    """The sentence on similarities that ends the notes of a value."""
    if adjusted:
        return " Similarity: cosine, adjusted for text length and script."
    return f" Similarity: cosine; fewer than {MIN_ADJUSTED} items, so not adjusted for text length and script."
