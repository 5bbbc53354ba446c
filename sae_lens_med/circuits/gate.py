"""Is there a behaviour to explain? Asked before any number of a circuit.

Three questions, all of which must be answered with yes:

    right      the model answers the clean texts right more often than its own answers do in another order: the places
               of the predicted answers (a letter, the first name) are permuted over the pairs, p < 0.05
    follows    it gives the other text's answer to the other text in `LEAST` of the pairs or more
    apart      m(all) - m(none) is told from 0 (`faithfulness.Ends.clear`)

Otherwise "no behaviour to explain" is said, and nothing is claimed. The Mechanistic Interpretability Benchmark
(arXiv 2504.13151) admits models from 75 % right answers; this gate asks for less and says what was found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sae_lens_med.circuits.faithfulness import Ends
from sae_lens_med.circuits.pairs import Answered, Pair
from sae_lens_med.records import Record
from sae_lens_med.statistics import ALPHA, permutation_p

LEAST = 0.6
_DRAWS = 9999


@dataclass(frozen=True, slots=True)
class Gate(Record):
    """What was found, and whether it suffices."""

    _nested: ClassVar[dict[str, type[Record]]] = {"ends": Ends}

    n: int
    """Pairs."""
    right: float
    """Share of clean texts whose answer is the likeliest of the choices."""
    null: float
    """The same with predictions permuted, mean."""
    p: float
    follows: float
    """Share of other texts whose own answer is the likeliest."""
    ends: Ends

    @property
    def open(self) -> bool:
        """Whether there is a behaviour to explain."""
        return self.p < ALPHA and self.follows >= LEAST and self.ends.clear

    @property
    def sentence(self) -> str:
        """What was found, in English."""
        found = (
            f"{self.right:.1%} of {self.n} answers are right (in another order {self.null:.1%}, p {self.p:.2g}), "
            f"{self.follows:.1%} follow the change, and m falls from {self.ends.all:.2f} to {self.ends.none:.2f} nats"
        )
        if self.open:
            return f"There is a behaviour to explain: {found}."
        why = []
        if self.p >= ALPHA:
            why.append("the answers are no better than their own letters in another order")
        if self.follows < LEAST:
            why.append(f"fewer than {LEAST:.0%} follow the change")
        if not self.ends.clear:
            why.append("the fall of m is not told from 0")
        return f"No behaviour to explain: {', and '.join(why)} ({found})."


def gate(runs: Iterable[tuple[Sequence[Pair], Answered, Answered]], ends: Ends, *, seed: int = 0) -> Gate:
    """The gate of pairs that were run (`faithfulness.Patching.runs`, `node_faithfulness.NodePatching.runs`)."""
    predicted: list[int] = []
    gold: list[int] = []
    follows: list[bool] = []
    for batch, clean, other in runs:
        for row, pair in enumerate(batch):
            offered, theirs = pair.offered
            own = clean.logits[row, 2 : 2 + len(offered)]
            predicted.append(int(own.argmax()))
            gold.append(offered.index(pair.answer))
            follows.append(theirs[int(other.logits[row, 2 + len(offered) :].argmax())] == pair.other_answer)
    said, true = np.array(predicted), np.array(gold)
    rng = np.random.default_rng(seed)
    null = np.array([(rng.permutation(said) == true).mean() for _ in range(_DRAWS)])
    right = float((said == true).mean())
    return Gate(len(said), right, float(null.mean()), permutation_p(right, null), float(np.mean(follows)), ends)
