"""Generated text -> an answer: one greedy text, or several samples that vote (Wang et al. 2022, self-consistency).

Each text is read by both extractors of `answers`: the strict one decides `prediction` and the vote, the paper's cascade
stands beside it as `paper_prediction`.

Voting: the letter that most samples give, where exactly one is the commonest; a tie is no answer (`ambiguous`), never a
coin toss. `confidence` is the commonest letter's share of all samples, those without an answer included.

Seeds: sample k of an item has a seed of its own, derived from the run's seed, the item's id and k. It depends neither
on the batch nor on what ran before, so a run that was interrupted draws what it would have drawn.

Out of scope: generating (`inference.Engine`).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sae_lens_med.prompts import answers
from sae_lens_med.records import ItemResult, McqItem, NoAnswerReason

if TYPE_CHECKING:
    from sae_lens_med.models.engine import Generated

END_OF_THINKING = "</think>"


class Written(Protocol):
    """A text that a model wrote, wherever it runs."""

    @property
    def text(self) -> str: ...
    @property
    def finish(self) -> str:
        """`length` where it was cut off."""
        ...


def sample_seed(seed: int, item_id: str, index: int) -> int:
    """The seed of one sample, in [0, 2**63)."""
    digest = hashlib.sha256(f"{seed}\0{item_id}\0{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def cut_after_thinking(generated: "Generated", stop: Sequence[str]) -> "Generated":
    """The text up to the first stop string of its answer, which begins after `</think>` and white space.

    Stop strings are made for answers: a model that thinks writes a full stop in its first sentence. A text whose
    thinking has not ended, or whose answer contains no stop string, stays whole.
    """
    cut = answer_end(generated.text, stop)
    return generated if cut is None else replace(generated, text=generated.text[:cut], finish="stop")


def answer_end(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string of the answer after `</think>` and white space begins; None without either."""
    thinking, mark, answer = text.partition(END_OF_THINKING)
    begun = len(answer) - len(answer.lstrip())
    found = [at for at in (answer.find(s, begun) for s in stop) if at >= 0]
    return len(thinking) + len(mark) + min(found) if mark and found else None


def vote(letters: Sequence[str | None]) -> tuple[str | None, float]:
    """The commonest letter (None where several are, or none) and its share of all `letters`, in [0, 1]."""
    votes = Counter(letter for letter in letters if letter is not None)
    if not votes:
        return None, 0.0
    most = max(votes.values())
    winners = [letter for letter, n in votes.items() if n == most]
    return (winners[0] if len(winners) == 1 else None), most / len(letters)


def text_result(item: McqItem, generated: Written) -> ItemResult:
    """The answer in one generated text."""
    found = answers.strict(generated.text, item.options, truncated=generated.finish == "length")
    return ItemResult(
        id=item.id,
        subject=item.subject,
        gold=item.gold_letter,
        prediction=found.letter,
        option_logprobs=None,
        correct=_correct(item, found.letter),
        reason=found.reason,
        text=generated.text,
        paper_prediction=answers.paper(generated.text),
    )


def vote_result(item: McqItem, samples: Sequence[Written]) -> ItemResult:
    """The answer that one or more samples vote for. Without a single answer, the reason is the commonest of theirs."""
    found = [answers.strict(s.text, item.options, truncated=s.finish == "length") for s in samples]
    letters = [each.letter for each in found]
    prediction, confidence = vote(letters)
    reason: NoAnswerReason | None = None
    if prediction is None and any(letters):
        reason = "ambiguous"
    elif prediction is None:
        reasons: Counter[NoAnswerReason] = Counter(each.reason for each in found if each.reason is not None)
        reason = reasons.most_common(1)[0][0]
    return ItemResult(
        id=item.id,
        subject=item.subject,
        gold=item.gold_letter,
        prediction=prediction,
        option_logprobs=None,
        correct=_correct(item, prediction),
        reason=reason,
        paper_prediction=vote([answers.paper(s.text) for s in samples])[0],
        samples=tuple(s.text for s in samples),
        sample_predictions=tuple(letters),
        confidence=confidence,
    )


def _correct(item: McqItem, prediction: str | None) -> bool | None:
    return None if item.gold_letter is None else prediction == item.gold_letter
