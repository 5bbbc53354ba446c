"""Two texts that differ in what the answer turns on, and the metric that says which of the two answers a model gives.

    m = logit(answer to the clean text) - logit(answer to the other text)     after the last token, in nats

m is positive where the model answers the clean text, and negative, on the other text, where it follows the change.
Everything in `circuits` is an effect on m: **positive supports the clean text's answer.**

Both texts have the same number of tokens, so that a place in the one is the same place in the other.

Out of scope: metrics over more than two answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sae_lens_med.errors import DataError
from sae_lens_med.records import Record

if TYPE_CHECKING:
    from torch import Tensor

SLOT = "slot"
"""The part of the last token, after which the answer stands."""
PairKind = Literal["ioi", "relabel", "swap", "fact"]


@dataclass(frozen=True, slots=True)
class Pair(Record):
    """One pair, as tokens."""

    id: str
    kind: PairKind
    clean: tuple[int, ...]
    other: tuple[int, ...]
    answer: int
    """Token of the answer to `clean`."""
    other_answer: int
    """Token of the answer to `other`."""
    choices: tuple[int, ...] = ()
    """Tokens of all answers that the clean text offers, in its order; empty: the two above, in an order that says
    nothing."""
    other_choices: tuple[int, ...] = ()
    """Those that the other text offers; empty: the same."""
    parts: tuple[str, ...] = ()
    """Of each token of the clean text, the part that it belongs to: `stem`, `option:answer`, `slot`, ...; empty: told
    from the tokens alone (`token_parts`)."""

    @property
    def offered(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The answers that the clean and the other text offer."""
        clean = self.choices or tuple(sorted((self.answer, self.other_answer)))
        return clean, self.other_choices or clean

    @property
    def asked(self) -> tuple[int, ...]:
        """Tokens whose logits a run gives: both answers, then what the clean and the other text offer."""
        return self.answer, self.other_answer, *self.offered[0], *self.offered[1]

    @property
    def token_parts(self) -> tuple[str, ...]:
        """The part of each token. Where none were given: `before` the first token in which the texts differ, `changed`
        where they do, `after` elsewhere, and `slot` at the last."""
        if self.parts:
            return self.parts
        differ = [a != b for a, b in zip(self.clean, self.other, strict=True)]
        first = differ.index(True)
        named = ["changed" if d else "before" if t < first else "after" for t, d in enumerate(differ)]
        return (*named[:-1], SLOT)

    def __post_init__(self) -> None:
        for name, answer, offered in zip(
            ("clean", "other"), (self.answer, self.other_answer), self.offered, strict=True
        ):
            if answer not in offered:
                raise DataError(f"pair {self.id!r}: the answer to the {name} text is not among its choices.")
        if len(self.clean) != len(self.other):
            raise DataError(
                f"pair {self.id!r}: the two texts have {len(self.clean)} and {len(self.other)} tokens; places can be "
                "compared only in texts of one length."
            )
        if self.parts and len(self.parts) != len(self.clean):
            raise DataError(f"pair {self.id!r}: {len(self.parts)} parts are given for {len(self.clean)} tokens.")
        if self.answer == self.other_answer:
            raise DataError(f"pair {self.id!r}: both texts have the same answer, so there is nothing to explain.")
        if self.clean == self.other:
            raise DataError(f"pair {self.id!r}: the two texts are the same.")


class Answered(Protocol):
    """One batch that was run: `decoder.GraphRun`, `spliced.TextRun`."""

    @property
    def logits(self) -> "Tensor":
        """`[B, n]`, of the tokens that `Pair.asked` names, in its order."""
        ...


def metric(run: Answered) -> "Tensor":
    """`[B]`: m of each pair, in nats."""
    return run.logits[:, 0] - run.logits[:, 1]


def by_length(pairs: Sequence[Pair], batch_tokens: int) -> list[list[Pair]]:
    """Pairs of one length and one number of choices together, at most `batch_tokens` tokens, in the order of length;
    one pair at least."""
    found: list[list[Pair]] = []

    def shape(pair: Pair) -> tuple[int, int, int]:
        own, theirs = pair.offered
        return len(pair.clean), len(own), len(theirs)

    for pair in sorted(pairs, key=shape):
        length = len(pair.clean)
        if found and shape(found[-1][0]) == shape(pair) and (len(found[-1]) + 1) * length <= batch_tokens:
            found[-1].append(pair)
        else:
            found.append([pair])
    return found
