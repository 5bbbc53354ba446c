"""What features are called, and what is said of them wherever they stand.

Out of scope: one feature, whole (`feature_view`).
"""

from dataclasses import dataclass

from sae_lens_med.app.aligned import Aligned
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.labels import Labels
from sae_lens_med.app.text import as_shown
from sae_lens_med.app.views import CaseFeature, FeatureName, PaintedSegment

PHRASES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """Of the features of one study."""

    labels: Labels
    index: Index | None
    aligned: Aligned

    def name(self, feature: int) -> FeatureName:
        """Label and words, never its number alone."""
        label, index = self.labels.current(feature), self.index
        words = [] if index is None else index.words_of(feature)[:PHRASES]
        maximum = 0.0 if index is None else float(index.maximum[feature])
        return FeatureName(
            index=feature,
            label=None if label is None else as_shown(label),
            phrases=tuple(as_shown(word) for word in words),
            maximum=maximum or None,
        )

    def beside_case(
        self,
        feature: int,
        stem: float,
        explanation: float,
        attribution: float | None,
        paint: tuple[PaintedSegment, ...],
    ) -> CaseFeature:
        """The feature with what is known of it over the study."""
        tested, index = self.aligned.tested.get(feature), self.index
        return CaseFeature(
            name=self.name(feature),
            stem=stem,
            explanation=explanation,
            attribution=attribution,
            effect=None if tested is None else tested.effect,
            band=None if tested is None else tested.band,
            verdict=None if tested is None else tested.verdict,
            density=None if index is None else density(index, feature),
            paint=paint,
        )


def density(index: Index, feature: int) -> float:
    """The share of the study's shown tokens on which it fires."""
    return float(index.count[feature]) / max(index.n_tokens, 1)
