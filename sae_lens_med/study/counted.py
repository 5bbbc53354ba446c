"""Which numbers of a study count, what each is after the correction, and what holds a claim back whatever its p.

**Families.** q is p after Benjamini-Hochberg over the numbers of one family (`metrics.metric.FAMILIES`). Of each
confirmatory value the SAE's counts, on the items left out of its training text where there are such.

**What stands out**: q below `ALPHA`, the value above its null, and nothing that holds it back:

- **the span**, for every causal number: the margin of the answer with all features less that with none, in logits
  (`span_low` and `span_high` of `MetricValue.extra`, an interval). Where it is not above 0, the features together do
  not carry the answer at these tokens, and what some of them do says nothing. Nor where the share of it that they give
  without the error term (`alone_low`) is not above `LEAST_ALONE`. A number without both is not claimed;
- **the match**: the drive of the features over that of their stand-ins (`matched_ratio_min`, `matched_ratio_max`, the
  least and largest over sizes), where it is given, must lie within `alignment.ablation.RATIOS`;
- **the size**: the value must lie `Claim.floor` above its null and above `Claim.least`.

Out of scope: the sentences on the numbers (`claims`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sae_lens_med.alignment import METRICS
from sae_lens_med.alignment.ablation import RATIOS
from sae_lens_med.alignment.span_gate import LEAST_ALONE
from sae_lens_med.languages import Sentence, number
from sae_lens_med.metrics.metric import FAMILIES, Family, Metric
from sae_lens_med.records import MetricValue
from sae_lens_med.statistics import ALPHA, benjamini_hochberg


@dataclass(frozen=True, slots=True)
class Confirmatory:
    """A number that counts in the correction for multiplicity."""

    metric: Metric
    value: MetricValue
    q: float | None
    """Its p after Benjamini-Hochberg over the confirmatory numbers of its family in the study; None without a p."""

    @property
    def significant(self) -> bool:
        """q below `ALPHA`, and the value above its null."""
        return self.q is not None and self.q < ALPHA and self.value.value > (self.value.null_mean or 0.0)

    @property
    def held_back(self) -> tuple[Sentence, ...]:
        """Why it is not claimed whatever its p, as clauses that follow "because"; empty where nothing holds it back.
        Its size is a reason only where it is significant: otherwise there is no effect to be small."""
        gates = [_span(self.value), _match(self.value)] if self.metric.family == "causal" else []
        size = [self._size()] if self.significant else []
        return tuple(reason for reason in (*gates, *size) if reason is not None)

    @property
    def stands_out(self) -> bool:
        """Significant, and nothing holds it back."""
        return self.significant and not self.held_back

    def _size(self) -> Sentence | None:
        value, claim = self.value.value, self.metric.claims[self.value.name]
        if claim.least is not None and value <= claim.least:
            least, shown = number(claim.least), number(value)
            return Sentence(
                f"the value itself ({shown}) is not above {least}: it lies above its null, and shows no such effect",
                f"값 자체({shown})가 {least}보다 크지 않음(귀무 평균보다 높을 뿐 그런 효과가 아님)",
            )
        bounds = [bound for bound in (self.value.null_mean, claim.least) if bound is not None]
        effect = min((value - bound for bound in bounds), default=value)
        if effect >= claim.floor:
            return None
        shown, floor = number(effect), number(claim.floor)
        return Sentence(
            f"the effect ({shown}) is below the smallest that is claimed ({floor})",
            f"효과({shown})가 결론으로 삼는 최소 크기({floor})보다 작음",
        )


def confirmatory(values: Sequence[MetricValue]) -> tuple[Confirmatory, ...]:
    """The numbers that count, family by family, within each in the order of the list, with q over the family."""
    found: list[Confirmatory] = []
    for family in FAMILIES:
        own = [
            (metric, value)
            for metric in METRICS
            if metric.family == family
            for name in metric.confirmatory
            for value in _counted([v for v in values if v.name == name])
        ]
        corrected = iter(benjamini_hochberg([value.p for _, value in own if value.p is not None]).tolist())
        found += [Confirmatory(metric, value, None if value.p is None else next(corrected)) for metric, value in own]
    return tuple(found)


def by_family(entries: Iterable[Confirmatory]) -> list[tuple[Family, list[Confirmatory]]]:
    """The families that have entries, with these."""
    grouped: dict[Family, list[Confirmatory]] = {family: [] for family in FAMILIES}
    for entry in entries:
        grouped[entry.metric.family].append(entry)
    return [(family, own) for family, own in grouped.items() if own]


def _counted(values: list[MetricValue]) -> list[MetricValue]:
    """Of the values of one name: those of the SAE where there are such, on the left-out items where there are such."""
    for key in ("sae", "model"):
        values = [v for v in values if v.variant == key] or values
    for group in ("left_out", "all"):
        if some := [v for v in values if v.group == group]:
            return some
    return values


def _span(value: MetricValue) -> Sentence | None:
    low, high, alone = (value.extra.get(key) for key in ("span_low", "span_high", "alone_low"))
    if low is None or high is None or alone is None:
        return Sentence(
            "it was measured without asking whether all features together move the answer; measure it again",
            "모든 특징이 함께 답을 움직이는지 확인하지 않고 측정한 값임(다시 측정해야 함)",
        )
    if low > 0 and alone > LEAST_ALONE:
        return None
    if low > 0:
        return Sentence(
            f"the answer goes through what the SAE misses here: without that, the features surely give {number(alone)} "
            f"of it only, not more than {number(LEAST_ALONE)}",
            f"여기서는 답이 SAE가 재구성하지 못한 부분을 통해 나옴(특징만으로는 답의 {number(alone)}만 확실하며 "
            f"{number(LEAST_ALONE)}보다 크지 않음)",
        )
    shown_en = f"{number(low)} to {number(high)} logits"
    shown_ko = f"{number(low)}~{number(high)} 로짓"
    if high < 0:
        return Sentence(
            f"all features together speak against the answer here ({shown_en})",
            f"여기서는 모든 특징이 함께 답에 반대로 작용함({shown_ko})",
        )
    return Sentence(
        f"all features together do not move the answer here ({shown_en}); it may have left these tokens before this "
        "layer",
        f"여기서는 모든 특징이 함께 답을 움직이지 않음({shown_ko}). 답이 이 층보다 앞에서 이미 이 토큰들을 떠났을 수 "
        "있음",
    )


def _match(value: MetricValue) -> Sentence | None:
    least, most = value.extra.get("matched_ratio_min"), value.extra.get("matched_ratio_max")
    if least is None or most is None or (least >= RATIOS[0] and most <= RATIOS[1]):
        return None
    low, high = (number(bound) for bound in RATIOS)
    return Sentence(
        f"the features drive {number(least)} to {number(most)} times as much as those they are compared with, outside "
        f"{low} to {high}, so that they are not compared with their like",
        f"비교 대상 특징 대비 구동 크기가 {number(least)}~{number(most)}배로 {low}~{high}를 벗어남(대등한 비교가 아님)",
    )
