"""Effects of attributes beside swaps: how often nothing is called something, and what is there is found."""

import numpy as np
import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.attributes.carriers import CarrierRow, corrected_carriers
from sae_lens_med.knowledge_map.attributes.effects import (
    Asked,
    AttributeRow,
    corrected,
    follows,
    gate_row,
    irrelevant_rows,
    relevant_rows,
)
from sae_lens_med.knowledge_map.attributes.sentences import claims
from sae_lens_med.knowledge_map.attributes.sycophancy import HintRow
from tests.calibration import TIERS, band, rejects

CONTRASTS = [(0, 1), (0, 2)]


def asked(rng: np.random.Generator, base: np.ndarray, k: int, values: float, noise: float = 0.3) -> Asked:
    """k values: each moves all vignettes by a draw of its own (`values`) and each vignette a little."""
    n = len(base)
    margins = base + values * rng.normal(size=(k, 1)) + noise * rng.normal(size=(k, n))
    return Asked(margins, (margins > 0).astype(np.int64), np.full((k, n), 40.0))


def study(seed: int, values: float = 1.0, planted: float = 0.0, n: int = 12) -> dict[str, AttributeRow]:
    """An attribute of three values that is drawn as swaps are, and moved by `planted` nats where b stands."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    own = asked(rng, base, 3, values)
    own = Asked(own.margins + planted * np.array([[0], [1], [1]]), own.choices, own.tokens)
    rows = irrelevant_rows("en", "made", own, CONTRASTS, [asked(rng, base, k, values) for k in (20, 7)], 199, rng)
    return {row.measure: row for row in rows}


class TestIrrelevant:
    @pytest.mark.parametrize("studies", TIERS)
    @pytest.mark.parametrize("values", [0.0, 1.0])
    def test_an_attribute_that_is_a_swap_is_called_in_five_of_a_hundred_studies(
        self, values: float, studies: int
    ) -> None:
        found = [study(seed, values) for seed in range(studies)]
        low, high = band(studies)
        for measure in ("margin", "signed"):
            assert low <= rejects(np.array([each[measure].p for each in found])).mean() <= high
        assert rejects(np.array([each["flips"].p for each in found])).mean() <= high  # in steps of 1 / 24: many ties

    def test_signs_flipped_over_vignettes_alone_call_far_too_many(self) -> None:
        found = [study(seed)["margin"] for seed in range(200)]
        assert rejects(np.array([row.p_items for row in found])).mean() > 0.15
        assert np.mean([row.stands_out for row in (corrected([each])[0] for each in found)]) <= 0.08

    def test_a_planted_effect_is_found_and_its_size_is_right(self) -> None:
        rows = [corrected(list(study(seed, values=0.3, planted=3.0).values())) for seed in range(20)]
        margins = [next(row for row in each if row.measure == "margin") for each in rows]
        assert all(row.stands_out for row in margins)
        assert np.mean([row.value for row in margins]) == pytest.approx(3.0, abs=0.2)
        assert np.mean([row.value for each in rows for row in each if row.measure == "signed"]) == pytest.approx(
            3, abs=0.2
        )

    @pytest.mark.parametrize("planted", [-3.0, 3.0])
    def test_a_direction_is_found_either_way(self, planted: float) -> None:
        found = [corrected([study(seed, values=0.3, planted=planted)["signed"]])[0] for seed in range(10)]
        assert all(row.stands_out for row in found)
        assert np.mean([row.value for row in found]) == pytest.approx(planted, abs=0.3)

    def test_one_vignette_alone_does_not_carry_it(self) -> None:
        rng = np.random.default_rng(0)
        base = np.zeros(12)
        own = asked(rng, base, 3, 0.0, noise=0.01)
        margins = own.margins.copy()
        margins[1:, 0] += 50
        swaps = [asked(rng, base, 20, 0.0, noise=0.01)]
        rows = irrelevant_rows("en", "made", Asked(margins, own.choices, own.tokens), CONTRASTS, swaps, 199, rng)
        row = corrected(rows)[0]
        assert row.p == 1 / 200 and row.p_items is not None and row.p_items > 0.2 and not row.stands_out

    def test_numbers_of_a_contrast_by_hand(self) -> None:
        own = Asked(
            np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[0, 1], [0, 2]]), np.array([[9.0, 9.0], [11.0, 11.0]])
        )
        swap = Asked(np.zeros((2, 2)), np.zeros((2, 2), np.int64), np.full((2, 2), 9.0))
        rng = np.random.default_rng(0)
        margin, flips, signed = irrelevant_rows("en", "made", own, [(0, 1)], [swap], 19, rng)
        assert (margin.value, flips.value, signed.value) == (1.5, 0.5, 0.5)
        assert (margin.tokens, margin.swap_tokens, margin.null_mean) == (2.0, 0.0, 0.0)

    def test_draws_are_of_texts_that_differ_in_length_as_the_attribute_s_do(self) -> None:
        """Swaps whose length grows move the margin as length does; the attribute does no more than its own length."""
        rng = np.random.default_rng(1)
        length = np.array([40.0] * 10 + [43.0] * 10)[:, None] * np.ones((1, 12))
        swap = Asked((length - 40) + 0.01 * rng.normal(size=(20, 12)), np.zeros((20, 12), np.int64), length)
        own_length = np.array([40.0, 43.0])[:, None] * np.ones((1, 12))
        own = Asked((own_length - 40) + 0.01 * rng.normal(size=(2, 12)), np.zeros((2, 12), np.int64), own_length)
        longer = irrelevant_rows("en", "made", own, [(0, 1)], [swap], 199, rng)[0]
        assert longer.swap_tokens == 3.0 and longer.p > 0.05
        alike = Asked(swap.margins[:10], swap.choices[:10], swap.tokens[:10])
        short = corrected(irrelevant_rows("en", "made", own, [(0, 1)], [alike], 199, rng))[0]
        assert short.p == 1 / 200 and short.shifted and not short.stands_out

    def test_values_of_two_kinds_of_swap_are_never_compared(self) -> None:
        """Each kind has a level of its own; within a kind nothing moves."""
        rng = np.random.default_rng(2)
        swaps = [Asked(np.full((3, 6), level), np.zeros((3, 6), np.int64), np.ones((3, 6))) for level in (0.0, 9.0)]
        own = Asked(rng.normal(size=(3, 6)), np.zeros((3, 6), np.int64), np.ones((3, 6)))
        assert irrelevant_rows("en", "made", own, CONTRASTS, swaps, 99, rng)[0].null_high == 0.0

    def test_more_values_than_any_swap_has_is_an_error(self) -> None:
        rng = np.random.default_rng(0)
        own, swap = asked(rng, np.zeros(6), 3, 1.0), asked(rng, np.zeros(6), 2, 1.0)
        with pytest.raises(DataError, match="an attribute of 3 values needs a swap of as many; the largest has 2"):
            irrelevant_rows("en", "made", own, CONTRASTS, [swap], 19, rng)


class TestRelevant:
    def test_what_follows_by_hand(self) -> None:
        scores = [np.array([-1.0, -3.0, 0.0]), np.array([-2.0, -1.0, 7.0])]
        # x: right 0, y: right 1. ((-1 - -3) - (-2 - -1)) / 2
        assert follows(scores, [0, 1]) == 1.5
        assert follows(scores, [1, 0]) == -1.5
        with pytest.raises(DataError, match="two patients with different answers"):
            follows(scores, [1, 1])

    @pytest.mark.parametrize("studies", TIERS)
    def test_an_answer_that_does_not_follow_is_called_in_five_of_a_hundred(self, studies: int) -> None:
        rng = np.random.default_rng(0)
        p = [relevant_rows("en", {"sex": rng.normal(size=10).tolist()}, 199, rng)[0].p for _ in range(studies)]
        low, high = band(studies)
        assert low <= rejects(np.array(p)).mean() <= high

    def test_all_attributes_together_stand_beside_each(self) -> None:
        rng = np.random.default_rng(0)
        rows = relevant_rows("en", {"sex": [1.0, 2.0, 3.0], "age": [2.0, 2.0, 4.0]}, 999, rng)
        assert [(row.attribute, row.n, row.value) for row in rows] == [
            ("sex", 3, 2.0),
            ("age", 3, 8 / 3),
            ("all", 6, 14 / 6),
        ]
        assert [row.stands_out for row in corrected(rows)] == [False, False, True]  # 1 of 8 flips is no test


class TestGate:
    def answers(self, n: int = 12) -> list[list[int]]:
        return [[i % 4, (i + 1) % 4] for i in range(n)]

    def test_right_answers_open_it_and_a_favourite_letter_does_not(self) -> None:
        rng, answers = np.random.default_rng(0), self.answers()
        known = corrected([gate_row("en", answers, answers, 199, rng)])[0]
        letter = corrected([gate_row("en", [[2, 2]] * 12, answers, 199, rng)])[0]
        blind = corrected([gate_row("en", [[a, a] for a, _ in answers], answers, 199, rng)])[0]
        assert (known.value, known.stands_out) == (1.0, True)
        assert (letter.value, letter.null_mean, letter.stands_out) == (0.25, 0.25, False)
        assert (blind.value, blind.stands_out) == (0.5, True)  # right of one patient each: it answers something

    def test_answers_at_random_pass_in_no_more_than_five_of_a_hundred(self) -> None:
        rng, answers = np.random.default_rng(0), self.answers()
        passed = [
            gate_row("en", rng.integers(0, 4, size=(12, 2)).tolist(), answers, 99, rng).p <= 0.05 for _ in range(300)
        ]
        assert np.mean(passed) <= 0.08


def test_q_is_over_the_attributes_of_a_measure() -> None:
    def row(attribute: str, measure: str, p: float) -> AttributeRow:
        return AttributeRow("en", attribute, "irrelevant", measure, 9, 1, 1.0, None, 0.0, 0.5, p, 0.01)

    rows = corrected(
        [row("a", "margin", 0.01), row("b", "margin", 0.04), row("a", "flips", 0.04), row("a", "right", 0.9)]
    )
    assert [each.q for each in rows] == [0.02, 0.04, 0.04, None]


def test_what_features_tell_apart_is_corrected_over_the_effects_of_a_run() -> None:
    p = (0.001, 0.04, 0.5)
    rows = corrected_carriers([CarrierRow("en", f"a{i}", 1.0, value, 6) for i, value in enumerate(p)])
    assert [row.told_apart_q for row in rows] == pytest.approx([0.003, 0.06, 0.5])
    assert [row.is_told_apart for row in rows] == [True, False, False] and all(row.q is None for row in rows)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.4, "gives way to a wrong one"), (-0.1, "no more than saying nothing")],
    ids=["loses", "gains"],
)
def test_a_claim_that_costs_no_more_than_silence_is_not_said_to_win(value: float, said: str) -> None:
    """Naming the option alone may help the right answer, so that the claim loses against it alone."""
    row = HintRow("en", "user", 12, value, None, value - 0.5, value - 0.3, 0.001, 0.5, 0.1, 0.1, q=0.002)
    [claim] = claims([], [], [row])
    assert said in claim.en and claim.what == "hint"
