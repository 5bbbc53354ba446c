"""Whose name comes next: indirect objects (Wang et al. 2023, arXiv 2211.00593), the task that a small model can do.

    When Anna and Paul were at the market, Paul gave a book to      ->  Anna
    When Anna and Paul were at the market, Anna gave a book to      ->  Paul

Pairs differ in the second subject alone, and a pair's two answers change places. Names are those that are one token
with a space before them in the model's tokenizer. The texts were written for this package.

Out of scope: the circuit that was published for GPT-2.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = ("Anna", "Paul", "Mary", "John", "Tom", "James", "Sarah", "David", "Kate", "Mark", "Laura", "Peter", "Alice",
         "Michael", "Emma", "Daniel")  # fmt: skip
PLACES = ("market", "station", "school", "library", "park", "office", "hospital", "museum")
THINGS = ("book", "letter", "drink", "key", "ticket", "coat", "basket", "flower")
FORMS = (
    "When {a} and {b} were at the {place}, {s} gave a {thing} to",
    "After {a} and {b} left the {place}, {s} handed a {thing} to",
    "Then {a} and {b} went to the {place}, and {s} passed a {thing} to",
    "While {a} and {b} waited at the {place}, {s} showed a {thing} to",
)


def ioi_pairs(tokenizer: "PreTrainedTokenizerBase", n: int, seed: int = 0) -> list[Pair]:
    """`n` pairs, half of which name the giver first.

    Raises `ModelError` where fewer than four names are one token of the tokenizer."""
    known = {name: ids[0] for name in NAMES if len(ids := _ids(tokenizer, f" {name}")) == 1}
    if len(known) < 4:
        raise ModelError(
            "fewer than four of the names are one token of this tokenizer, so their logits do not compare."
        )
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        a, b = rng.choice(sorted(known), 2, replace=False).tolist()
        words = {"place": str(rng.choice(PLACES)), "thing": str(rng.choice(THINGS)), "a": a, "b": b}
        giver, taker = (b, a) if i % 2 else (a, b)
        form = FORMS[i // 2 % len(FORMS)]
        clean, other = (tuple(tokenizer(form.format(**words, s=subject)).input_ids) for subject in (giver, taker))  # type: ignore[misc]  # lists of ints, as for one text
        found.append(Pair(f"ioi-{i}", "ioi", clean, other, known[taker], known[giver], (known[a], known[b])))
    return found


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> Sequence[int]:
    return tokenizer(text, add_special_tokens=False).input_ids  # type: ignore[return-value]  # of one text
