"""What is said of one case, in Korean and English: what the model chose, how sure it was and what that is worth here,
and what question and explanation have in common.

Cautious on purpose. A feature that fires in question and explanation is something that can be read off the model; it
does not say that the model answered by it, and every case says so. A probability never stands alone: beside it stands
how often the model was right where it was as sure.

Out of scope: what the study says (`study.claims`, `study.verdict`).
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sae_lens_med.app.views import CaseView
from sae_lens_med.languages import Sentence
from sae_lens_med.records import ItemResult

NEAR = 25
"""How many cases of the nearest margins say how often the model is right; of fewer nothing is said."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Margins of the scored cases, ascending, each with whether the model was right."""

    margins: tuple[float, ...]
    right: tuple[bool, ...]

    @classmethod
    def of(cls, results: Mapping[str, ItemResult]) -> "Calibration":
        """From the results of a study; cases without probabilities or gold answer do not count."""
        pairs = []
        for result in results.values():
            if result.option_logprobs is not None and len(result.option_logprobs) > 1 and result.correct is not None:
                logprobs = np.asarray(result.option_logprobs, dtype=np.float64)
                weights = np.sort(np.exp(logprobs - logprobs.max()))
                pairs.append((float((weights[-1] - weights[-2]) / weights.sum()), result.correct))
        pairs.sort(key=lambda pair: pair[0])
        return cls(tuple(margin for margin, _ in pairs), tuple(right for _, right in pairs))

    def near(self, margin: float) -> tuple[int, int] | None:
        """Of the `NEAR` cases with the nearest margins: how many were right, and `NEAR`; None where there are fewer."""
        if len(self.margins) < NEAR:
            return None
        at = bisect_left(self.margins, margin)
        low = max(0, at - NEAR)
        window = sorted(range(low, min(len(self.margins), at + NEAR)), key=lambda i: abs(self.margins[i] - margin))
        return sum(self.right[i] for i in window[:NEAR]), NEAR


def case_sentences(case: CaseView, calibration: Calibration) -> tuple[Sentence, ...]:
    """What is said of a case, the answer first."""
    found = [_answer(case)]
    if (worth := _worth(case, calibration)) is not None:
        found.append(worth)
    if (common := _common(case)) is not None:
        found.append(common)
    return tuple(found)


def _answer(case: CaseView) -> Sentence:
    row = case.row
    if row.prediction is None and not case.options:
        return Sentence("An open question: there are no options to choose from.", "선택지가 없는 열린 질문입니다.")
    if row.prediction is None and row.reason is None:
        return Sentence("The model's answer is not known.", "모델의 답을 알 수 없습니다.")
    if row.prediction is None:
        if row.gold is None:
            return Sentence(
                "The model chose no option, and the right answer is not known.",
                "모델이 답을 고르지 않았고 정답은 알려져 있지 않습니다.",
            )
        return Sentence(
            f"The model chose no option; {row.gold} is right. Counted as wrong.",
            f"모델이 답을 고르지 않았습니다. 정답은 {row.gold}입니다. 오답으로 셉니다.",
        )
    if row.gold is None:
        return Sentence(
            f"The model chose {row.prediction}; the right answer is not known.",
            f"모델의 선택은 {row.prediction}입니다. 정답은 알려져 있지 않습니다.",
        )
    if row.correct:
        return Sentence(
            f"The model chose {row.prediction}, which is right.",
            f"모델의 선택은 {row.prediction}, 정답도 {row.gold}입니다.",
        )
    return Sentence(
        f"The model chose {row.prediction}; {row.gold} is right.",
        f"모델의 선택은 {row.prediction}, 정답은 {row.gold}입니다.",
    )


def _worth(case: CaseView, calibration: Calibration) -> Sentence | None:
    if case.row.margin is None or (near := calibration.near(case.row.margin)) is None:
        return None
    right, n = near
    return Sentence(
        f"Where it was about as sure as here, it was right in {right} of {n} cases of this study.",
        f"이 연구에서 이만큼 확신한 문항 {n}개 중 {right}개를 맞혔습니다.",
    )


def _common(case: CaseView) -> Sentence | None:
    groups = {group.kind: group.total for group in case.groups}
    if not groups:
        return None
    if "shared" not in groups:
        n = f"{groups.get('model', 0):,}"
        return Sentence(
            f"{n} features fire in the question; without an explanation nothing can be compared.",
            f"질문에서 특징 {n}개가 켜집니다. 해설이 없어 비교할 수 없습니다.",
        )
    shared, alone = (f"{groups.get(kind, 0):,}" for kind in ("shared", "model"))
    en = f"{shared} features fire in both question and explanation, {alone} in the question alone"
    ko = f"질문과 해설에서 함께 켜진 특징 {shared}개, 질문에서만 켜진 특징 {alone}개"
    if (found := case.alignment) is not None:
        nearer = found.matched > found.mismatched
        en += (
            f"; the question is {'nearer to' if nearer else 'no nearer to'} its own explanation than to others "
            f"(rank {found.rank} of {found.n})"
        )
        ko += (
            f". 질문은 다른 해설보다 자기 해설에 {'더 가깝습니다' if nearer else '더 가깝지 않습니다'}"
            f" ({found.n}개 중 {found.rank}위)"
        )
    en += ". What is shared can be read off the model; it does not show that the model answered by it."
    ko += ". 함께 켜졌다는 것은 읽어 낼 수 있다는 뜻이며, 그것으로 답했다는 뜻은 아닙니다."
    return Sentence(en, ko)
