"""Loss at a matched L0, power laws, under-training, and coverage against the best of as many features of nothing."""

import itertools
import math

import numpy as np
import pytest

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.knowledge_map.coverage import (
    ConceptFeatures,
    coverage,
    label_coverage,
)
from sae_lens_med.knowledge_map.features import auroc
from sae_lens_med.knowledge_map.scaling import (
    ScalingPoint,
    cells,
    common_l0,
    interpolated,
    laws,
    power_law,
    under_trained,
)
from sae_lens_med.knowledge_map.scaling_run import ScalingSettings, _ranges, scaling_variants
from sae_lens_med.records import FloatArray


def point(d_sae: int, tokens: int, l0: float, loss: float, seed: int = 0) -> ScalingPoint:
    return ScalingPoint(f"{d_sae}-{tokens}-{seed}-{l0}", d_sae, tokens, seed, 0.1, l0, loss, 2 * loss, 0.25)


def literal(l0: list[float], values: list[float], at: float) -> float | None:
    """Between the two neighbours, by the rule of three in log L0."""
    order = sorted(zip(l0, values, strict=True))
    for (x0, y0), (x1, y1) in itertools.pairwise(order):
        if x0 <= at <= x1:
            share = (math.log(at) - math.log(x0)) / (math.log(x1) - math.log(x0))
            return y0 + share * (y1 - y0)
    return None


class TestMatchedL0:
    def test_a_value_lies_between_its_neighbours_in_log_l0(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(50):
            l0 = rng.permutation(rng.uniform(2, 80, 5)).tolist()
            values = rng.uniform(0, 1, 5).tolist()
            for at in rng.uniform(1, 90, 5):
                got, want = interpolated(l0, values, at), literal(l0, values, at)
                assert got == (None if want is None else pytest.approx(want))

    def test_nothing_is_said_beyond_the_sweep(self) -> None:
        assert interpolated([10, 20], [0.5, 0.4], 20.1) is None
        assert interpolated([10, 20], [0.5, 0.4], 9.9) is None
        assert interpolated([10, 20], [0.5, 0.4], 20) == pytest.approx(0.4)
        assert interpolated([0, 20], [1.0, 0.4], 5) is None  # an SAE without active features is no neighbour
        assert interpolated([10, 10, 20], [0.5, 0.7, 0.4], 10) == pytest.approx(0.6)

    def test_the_common_l0_is_where_most_cells_have_a_value(self) -> None:
        assert common_l0([(4, 16), (8, 64), (9, 25)]) == pytest.approx(12)
        assert common_l0([(4, 9), (16, 36), (25, 100)]) == pytest.approx(30)
        assert common_l0([(5, 5)]) == pytest.approx(5)
        with pytest.raises(DataError, match="no SAE of the sweep has an active feature"):
            common_l0([])

    def test_an_sae_without_active_features_does_not_draw_the_common_l0_to_0(self) -> None:
        points = [point(64, 100, l0, 0.5, seed) for seed in (0, 1) for l0 in (0.0, 9.0, 16.0)]
        assert common_l0(_ranges(points)) == pytest.approx(12)

    def test_a_cell_is_read_off_its_own_sweep(self) -> None:
        points = [point(64, 100, 10, 0.6), point(64, 100, 40, 0.2), point(128, 100, 30, 0.3), point(128, 100, 50, 0.1)]
        small, large = cells(points, 20)
        assert small.loss == pytest.approx(0.4) and small.ce_increase == pytest.approx(0.8)
        assert small.uses == pytest.approx(100 * 20 / 64)
        assert (large.loss, large.uses, large.nearest_l0) == (None, None, 30)
        assert cells(points, 35)[0].nearest == points[1].name


class TestPowerLaw:
    def test_a_law_is_found_with_its_exponent_and_nothing_left_over(self) -> None:
        law = power_law("loss", "d_sae", 1000, {d: 3.5 * d**-0.37 for d in (64, 128, 512, 2048)})
        assert law is not None
        assert law.exponent == pytest.approx(0.37) and law.factor == pytest.approx(3.5)
        np.testing.assert_allclose(law.residuals, 0, atol=1e-12)
        assert law.interval == pytest.approx((0.37, 0.37)) and law.r2 == pytest.approx(1)

    def test_three_points_are_no_law(self) -> None:
        assert power_law("loss", "d_sae", 1000, {64: 0.5, 128: 0.4, 256: 0.3}) is None
        assert power_law("loss", "d_sae", 1000, {64: 0.5, 128: 0.4, 256: 0.3, 512: 0.0}) is None

    def test_the_interval_holds_the_exponent_as_often_as_it_says(self) -> None:
        held = 0
        for study in range(400):
            rng = np.random.default_rng(study)
            noisy = {d: d**-0.4 * math.exp(0.05 * rng.normal()) for d in (64, 128, 256, 512, 1024)}
            law = power_law("loss", "d_sae", 1, noisy)
            assert law is not None
            held += law.interval[0] <= 0.4 <= law.interval[1]
            residuals = [math.log(y) - math.log(law.factor) + law.exponent * math.log(x) for x, y in noisy.items()]
            np.testing.assert_allclose(law.residuals, residuals, atol=1e-9)
        assert 0.92 <= held / 400 <= 0.98

    def test_laws_are_of_the_axes_that_have_points_enough(self) -> None:
        sizes, amounts = (64, 128, 256, 512), (100, 200)
        points = [
            point(d, t, l0, 8 * d**-0.5 * t**-0.25 * scale, seed)
            for d, t in itertools.product(sizes, amounts)
            for l0, scale in ((5, 1.5), (20, 0.5))
            for seed in (0, 1)
        ]
        found = laws(cells(points, 10))
        assert [(law.axis, law.at) for law in found] == [("d_sae", 100), ("d_sae", 200)]
        assert [law.exponent for law in found] == pytest.approx([0.5, 0.5])

    def test_sizes_that_more_text_would_help_are_named(self) -> None:
        losses = {(64, 1000): 0.50, (64, 2000): 0.495, (128, 1000): 0.45, (128, 2000): 0.40, (256, 1000): 0.48,
                  (256, 2000): 0.41}  # fmt: skip
        points = [point(d, t, l0, y) for (d, t), y in losses.items() for l0 in (5, 20)]
        said = under_trained(cells(points, 10))
        assert set(said) == {128, 256}
        assert said[128] == "its loss still falls by 11.1% from 1,000 to 2,000 tokens"
        assert "and with 2,000 tokens its loss is no lower than that of 128 features" in said[256]


def nothing(d: int, n: int, rng: np.random.Generator) -> FloatArray:
    """Sparse features that know no label."""
    return np.where(rng.random((n, d)) < 0.3, rng.random((n, d)), 0)


class TestCoverage:
    def test_auroc_counts_pairs(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.integers(0, 4, (9, 6)).astype(float)
        has = rng.permuted(np.tile([True] * 3 + [False] * 6, (2, 1)), axis=1)
        got = auroc(values, has)
        for k, d in itertools.product(range(2), range(6)):
            pairs = [(a, b) for a in values[has[k], d] for b in values[~has[k], d]]
            assert got[k, d] == pytest.approx(np.mean([1 if a > b else 0.5 if a == b else 0 for a, b in pairs]))

    def test_a_planted_feature_covers_its_label_and_no_other(self) -> None:
        rng = np.random.default_rng(1)
        labels = tuple(f"system {i % 5}" for i in range(60))
        features = nothing(40, 60, rng)
        features[:, 5] = 0.5  # says nothing of anything
        features[:, 17] = [1.0 + rng.random() if label == "system 3" else 0.1 * rng.random() for label in labels]
        block = ConceptFeatures("symptoms", "ko", features, {"system": labels})
        rows = label_coverage([block], 199, rng)
        found = {row.label: row for row in rows}
        assert len(found) == 5 and found["system 3"].n == 12
        assert (found["system 3"].feature, found["system 3"].auroc) == (17, 1.0)
        assert [row.label for row in rows if row.covered] == ["system 3"]
        whole = coverage(rows, [block])
        assert (whole.n, whole.n_covered, whole.share, whole.n_features) == (5, 1, 0.2, 39)

    def test_a_dictionary_of_nothing_covers_five_in_a_hundred_whatever_its_size(self) -> None:
        """The best AUROC rises with the number of features; what counts as covered does not."""
        shares, best = {}, {}
        for d in (4, 400):
            rng = np.random.default_rng(d)
            blocks = []
            for domain in range(30):
                labels = tuple(f"label {i % 8}" for i in range(48))
                blocks.append(ConceptFeatures(f"{domain}", "en", nothing(d, 48, rng), {"made": labels}))
            rows = label_coverage(blocks, 99, rng)
            whole = coverage(rows, blocks)
            shares[d], best[d] = whole.share, whole.mean_auroc
            assert whole.mean_auroc == pytest.approx(whole.mean_null, abs=0.02)
        assert best[400] > best[4] + 0.08
        assert all(0.015 < share < 0.08 for share in shares.values())  # 240 labels each

    def test_labels_of_few_concepts_say_nothing(self) -> None:
        block = ConceptFeatures("drugs", "en", np.ones((6, 2)), {"mechanism": ("a", "a", "a", "b", "b", "b")})
        with pytest.raises(DataError, match="no label belongs to 4 concepts"):
            label_coverage([block], 19, np.random.default_rng(0))

    def test_features_that_do_not_vary_cover_nothing(self) -> None:
        block = ConceptFeatures("drugs", "en", np.ones((10, 2)), {"mechanism": ("a",) * 5 + ("b",) * 5})
        rows = label_coverage([block], 19, np.random.default_rng(0))
        assert [(row.auroc, row.p, row.feature) for row in rows] == [(0.5, 1.0, -1)] * 2


class TestVariants:
    def test_short_runs_are_whole_runs_and_seeds_share_the_text(self) -> None:
        settings = ScalingSettings((48, 96), (3200, 6400), (0.1, 0.2), (0, 3))
        found = scaling_variants("tiny", settings)
        assert len(found) == 16 and len({v.name for v in found}) == 16
        short = next(v.recipe for v in found if v.varied["training_tokens"] == 3200)
        assert (short.runner["lr_warm_up_steps"], short.runner["lr_decay_steps"]) == (2, 10)
        assert short.sae["l1_warm_up_steps"] == 5
        assert {v.recipe.runner["seed"] for v in found} == {0, 3}
        assert {v.recipe.text_seed for v in found} == {7}  # the recipe's own

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"sizes": (64, 64)}, "sizes must be one value at least, each once"),
            ({"coefficients": (0.1,)}, "give two coefficients at least"),
            ({"permutations": 5}, "permutations must be from 19"),
        ],
    )
    def test_settings_that_cannot_be_are_refused(self, changed: dict[str, object], message: str) -> None:
        values = {"sizes": (64,), "tokens": (3200,), "coefficients": (0.1, 0.2)} | changed
        with pytest.raises(ConfigError, match=message):
            ScalingSettings(**values)  # type: ignore[arg-type]
