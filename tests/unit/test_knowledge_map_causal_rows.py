"""Rows of what is done to a model: contrasts with plain statements, medians, nulls that hold what they promise."""

import numpy as np
import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map import patching
from sae_lens_med.knowledge_map.causal_rows import (
    FLOOR,
    Frames,
    lesion_rows,
    patching_rows,
    saliency_rows,
    shares,
)
from sae_lens_med.knowledge_map.measure import MapRow, corrected
from sae_lens_med.knowledge_map.patching import Patched

RNG = np.random.default_rng


def frames(values: np.ndarray, texts: int = 2) -> Frames:
    """Half of the pairs medical, in turn of both texts."""
    n = len(values)
    return Frames(values, np.arange(n) < n // 2, tuple(f"{i % texts}" for i in range(n)))


def one(rows: list[MapRow], read_out: str, scale: str = "relative") -> MapRow:
    return next(row for row in rows if (row.read_out, row.scale) == (read_out, scale))


class TestLesion:
    values = RNG(0).gamma(2, size=(40, 5, 3)) + 3.0 * (np.arange(40) < 20)[:, None, None] * (np.arange(5) == 3)[:, None]

    def test_the_value_is_the_difference_of_the_means_and_the_other_columns_are_told(self) -> None:
        rows = lesion_rows("made", "en", frames(self.values), [frames(self.values[::-1])], 199, RNG(0))
        row, raw = one(rows, "lesion_margin"), one(rows, "lesion_margin", "raw")
        medical, plain = self.values[:20, :, 1].mean(0), self.values[20:, :, 1].mean(0)
        np.testing.assert_allclose(row.values, medical - plain)
        np.testing.assert_allclose(raw.values, medical)
        np.testing.assert_allclose(raw.plain, plain)
        turned = self.values[::-1, :, 1]
        np.testing.assert_allclose(row.random, [turned[:20].mean(0) - turned[20:].mean(0)])
        assert row.n == 20 and all(a < v < b for v, (a, b) in zip(row.values, row.intervals, strict=True))  # type: ignore[misc]  # no None here

    def test_a_planted_depth_is_found_and_no_other(self) -> None:
        rows = corrected(lesion_rows("made", "en", frames(self.values), [], 999, RNG(0)))
        assert [at for at, q in enumerate(one(rows, "lesion_kl").q) if q < 0.05] == [3]
        assert one(rows, "lesion_kl").p_best < 0.01

    def test_what_differs_between_texts_alone_is_no_effect(self) -> None:
        values = RNG(1).gamma(2, size=(40, 5, 3)) + 50.0 * (np.arange(40) % 2)[:, None, None]
        found = Frames(values, np.arange(40) % 4 < 2, tuple("ab"[i % 2] for i in range(40)))
        row = one(lesion_rows("made", "en", found, [], 199, RNG(0)), "lesion_kl")
        assert max(np.subtract(row.null_high, row.null_mean)) < 2  # the 50 are in no draw

    def test_too_few_pairs_give_no_row(self) -> None:
        assert lesion_rows("made", "en", frames(self.values[18:22]), [], 99, RNG(0)) == []

    def test_without_an_effect_p_is_below_a_twentieth_in_a_twentieth_of_the_maps(self) -> None:
        rng = RNG(2)
        p = [
            row.p[1]
            for _ in range(100)
            for row in lesion_rows("made", "en", frames(rng.gamma(1, size=(24, 2, 3))), [], 99, rng)
            if row.scale == "relative"
        ]
        assert len(p) == 300 and 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


class TestSaliency:
    def test_the_value_is_log2_of_the_ratio_of_mean_shares(self) -> None:
        found = RNG(0).gamma(2, size=(20, 4, 2))
        row = one(saliency_rows("made", "en", frames(found), [], 99, RNG(0)), "saliency")
        own = found[..., 0] / found[..., 0].sum(1, keepdims=True)
        np.testing.assert_allclose(row.values, [0, *np.log2(own[:10].mean(0) / own[10:].mean(0))])

    def test_a_gradient_twice_as_large_everywhere_is_nothing(self) -> None:
        found = RNG(0).gamma(2, size=(20, 4, 2))
        found[:10] = 7 * found[10:]
        row = one(saliency_rows("made", "en", frames(found), [], 99, RNG(0)), "saliency")
        np.testing.assert_allclose(row.values, 0, atol=1e-12)

    def test_a_block_without_any_gradient_is_not_infinitely_less(self) -> None:
        found = np.ones((20, 2, 2))
        found[:10, 0] = 0
        assert one(saliency_rows("made", "en", frames(found), [], 99, RNG(0)), "saliency").values[1] == pytest.approx(
            np.log2(FLOOR / 0.5)
        )
        assert not shares(np.zeros((2, 3, 2))).any()


def patched(own: float, n: int = 10, depths: int = 3, donors: float = 0.0, gap: float = 4.0, seed: int = 0) -> Patched:
    """P of the own donor about `own`, of the others about `donors`, at every depth."""
    p = RNG(seed).normal(0, 0.05, size=(n, 2, depths, 3)) + np.array([own, donors, donors])
    ends = np.column_stack([np.full(n, gap), np.zeros(n)])
    return Patched(ends, p * gap)


class TestPatching:
    def test_the_value_is_the_median_of_p_beside_that_of_other_donors(self) -> None:
        model = patched(0.8)
        rows = patching_rows("made", "en", model, patched(0.5, seed=1), [patched(0.1, seed=2)], 999, RNG(0))
        row = one(rows, "patching_last")
        np.testing.assert_allclose(row.values, np.median(model.patched[:, 1, :, 0] / 4, axis=0))
        assert max(map(abs, row.null_mean)) < 0.1 and max(row.p) < 0.01
        assert all(a <= v <= b for v, (a, b) in zip(row.values, row.intervals, strict=True))  # type: ignore[misc]  # no None here
        np.testing.assert_allclose(row.plain, np.median(patched(0.5, seed=1).patched[:, 1, :, 0] / 4, axis=0))
        assert corrected(rows)[0].stands_out == (False, True, True)
        beaten = patching_rows("made", "en", model, patched(0.9, seed=1), [], 999, RNG(0))
        assert corrected(beaten)[0].stands_out == (False, False, False)

    def test_what_plain_pairs_have_as_well_does_not_stand_out_by_rounding(self) -> None:
        """At the concept's tokens P is 1 in the first blocks whatever the pair says."""
        larger, out = 0, 0
        for seed in range(10):
            model, plain = patched(1.0, seed=2 * seed), patched(1.0, seed=2 * seed + 1)
            for row in corrected(patching_rows("made", "en", model, plain, [], 199, RNG(0))):
                assert max(row.q[1:]) < 0.05
                larger += sum(a > b for a, b in zip(row.values[1:], row.plain[1:], strict=True))
                out += sum(row.stands_out)
        assert larger >= 12 and out <= 4  # of 40

    def test_pairs_that_the_model_hardly_tells_apart_do_not_count(self) -> None:
        model = patched(0.8)
        model.ends[:4, 0] = 0.9
        model.patched[:4] = 1e6  # P would be in the millions
        row = one(patching_rows("made", "en", model, patched(0.5), [], 99, RNG(0)), "patching_concept")
        assert (row.n, row.left_out) == (6, 4) and max(row.values) < 1

    def test_a_pair_that_is_told_apart_the_wrong_way_round_counts(self) -> None:
        model = patched(0.8, gap=-4.0)
        assert model.counted.all()
        np.testing.assert_allclose(np.median(model.restored("last")[..., 0]), 0.8, atol=0.05)

    def test_a_control_without_pairs_is_no_control_and_a_model_without_them_no_row(self) -> None:
        none = patched(0.8, gap=0.5)
        rows = patching_rows("made", "en", patched(0.8), none, [none, patched(0.1)], 99, RNG(0))
        assert rows[0].plain == () and len(rows[0].random) == 1
        assert not any(corrected(rows)[0].stands_out)  # beside nothing
        assert patching_rows("made", "en", none, patched(0.8), [], 99, RNG(0)) == []

    def test_pairs_without_another_donor_cannot_be_tested(self) -> None:
        alone = patched(0.8).restored("last")
        alone[:, :, 1:] = np.nan
        with pytest.raises(DataError, match="mismatched donor"):
            patching.tested(alone, 99, RNG(0))

    def test_without_an_effect_p_is_below_a_twentieth_in_no_more_than_a_twentieth_of_the_maps(self) -> None:
        """Levels of pairs differ, of which the null must make nothing; ranks of three donors are coarse."""
        rng = RNG(3)
        p = []
        for _ in range(400):
            restored = rng.normal(size=(12, 1, 3)) + 5 * rng.normal(size=(12, 1, 1))
            restored[:3, :, 2] = np.nan
            p.append(patching.tested(restored, 199, rng).p[0])
        assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08
