"""What both forms are made of: a feature with its contexts, checked when it is made.

Out of scope: reading them from a study (`contexts`, `features`), and the forms (`upload`, `bulk`).
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from sae_lens_med.app.neuronpedia.form import CONTEXT, MOST_INDEX
from sae_lens_med.errors import DataError


@dataclass(frozen=True, slots=True)
class Context:
    """A piece of a text in which a feature fires."""

    item: str
    """Id of the case."""
    token: int
    """Its strongest token: the row within the case."""
    dataset: str
    tokens: tuple[str, ...]
    """1 to `CONTEXT` pieces, none empty; joined they are the context."""
    values: tuple[float, ...]
    """As many, >= 0; 0 for tokens that no number of a study is over."""
    peak: int
    """The piece in which the strongest token stands."""
    interval: tuple[float, float]
    """The tenth of the range from 0 to the feature's maximum that the strongest value lies in."""
    share: float
    """The share, in [0, 1], of the tokens on which the feature fires whose value lies in this tenth."""

    def __post_init__(self) -> None:
        where = f"the context of item {self.item!r}"
        if not 1 <= len(self.tokens) <= CONTEXT or len(self.values) != len(self.tokens) or not all(self.tokens):
            raise DataError(f"{where} needs 1 to {CONTEXT} tokens with a value each, none of them empty.")
        if not all(isfinite(value) and value >= 0 for value in (*self.values, *self.interval)):
            raise DataError(f"{where} has a value that is negative or not finite; collect the features again.")
        if not 0 <= self.peak < len(self.tokens) or not 0 <= self.share <= 1:
            raise DataError(f"{where} has its strongest token outside, or a share that is none.")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a feature is called."""

    text: str
    revision: int
    """0 for a label of a file."""
    source: Literal["person", "judge", "file"]


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """One feature that fires."""

    index: int
    density: float
    """Share of the study's shown tokens on which it fires, in (0, 1]."""
    maximum: float
    """> 0."""
    contexts: tuple[Context, ...]
    """At least one; the strongest first, then one from each tenth of the cases."""
    explanation: Explanation | None
    histogram: tuple[int, ...]
    """On how many tokens it fires so strongly: bins of equal width from 0 to the maximum."""
    neighbours: tuple[tuple[int, float], ...]
    """The nearest decoder directions with their cosines; empty where they were not looked for."""
    raised: tuple[tuple[str, float], ...]
    """Tokens whose logits it raises most; empty where they were not looked for. So `lowered`."""
    lowered: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MOST_INDEX or not 0 < self.density <= 1 or not self.contexts:
            raise DataError(
                f"feature {self.index} cannot be written: it needs an index up to {MOST_INDEX:,}, a density in (0, 1] "
                "and a context; index the study again."
            )
