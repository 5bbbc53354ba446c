"""The read-outs of a map against scikit-learn, against geometry that was planted, and under their null."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import silhouette_samples

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.geometry import (
    cosine_distances,
    decade_r2,
    nearest,
    order_contrasts,
    over_layers,
    permuted,
    retrieval,
    scaled,
    silhouettes,
)


def labels_of(n: int, k: int, draws: int, seed: int = 0) -> np.ndarray:
    own = np.arange(n) % k
    return permuted(own, np.zeros(n, dtype=np.int64), draws, np.random.default_rng(seed)).astype(np.int64)


class TestSilhouettes:
    @pytest.mark.parametrize("k", [2, 5, 11])
    def test_are_those_of_scikit_learn(self, k: int) -> None:
        x = np.random.default_rng(k).normal(size=(33, 6))
        distances, labels = cosine_distances(x), labels_of(33, k, 4)
        for got, own in zip(silhouettes(distances, labels), labels, strict=True):
            theirs = np.asarray(silhouette_samples(distances, own, metric="precomputed"))
            np.testing.assert_allclose(got, theirs, atol=1e-12)

    def test_a_row_whose_label_nobody_shares_does_not_count(self) -> None:
        distances = cosine_distances(np.random.default_rng(0).normal(size=(5, 3)))
        got = silhouettes(distances, np.array([[0, 0, 1, 1, 2]]))[0]
        assert np.isnan(got[4]) and not np.isnan(got[:4]).any()

    def test_rows_that_lie_on_each_other_have_zero(self) -> None:
        assert (silhouettes(np.zeros((4, 4)), np.array([[0, 0, 1, 1]])) == 0).all()

    @pytest.mark.parametrize("own", [[0, 0, 0], [0, 1, 2]])
    def test_labels_that_group_nothing_are_refused(self, own: list[int]) -> None:
        with pytest.raises(DataError, match="two labels or more"):
            silhouettes(np.zeros((3, 3)), np.array([own]))


def test_nearest_is_the_share_of_nearest_neighbours_with_the_same_label() -> None:
    x = np.random.default_rng(1).normal(size=(20, 5))
    distances, labels = cosine_distances(x), labels_of(20, 4, 3)
    away = distances + np.diag([np.inf] * 20)
    for got, own in zip(nearest(distances, labels), labels, strict=True):
        np.testing.assert_allclose(got, own[away.argmin(1)] == own)


def test_neighbours_equally_near_share() -> None:
    distances = np.ones((3, 3)) - np.eye(3)
    np.testing.assert_allclose(nearest(distances, np.array([[0, 0, 1]]))[0], [0.5, 0.5, 0])


class TestDecades:
    AGES = np.arange(10.0, 100.0)

    def test_a_line_is_found_where_a_decade_was_never_seen(self) -> None:
        x = scaled(np.outer(self.AGES, np.ones(3)) + np.random.default_rng(0).normal(size=(90, 3)), standardise=True)
        assert decade_r2(x, self.AGES[None])[0] > 0.95

    def test_digits_are_no_line(self) -> None:
        """What a model that only reads digits has: one direction for each first and each second digit."""
        digits = np.zeros((90, 20))
        digits[np.arange(90), self.AGES.astype(int) // 10] = 1
        digits[np.arange(90), 10 + self.AGES.astype(int) % 10] = 1
        x = scaled(digits, standardise=False)
        folds = np.arange(90) % 10  # left out at random they are read off
        errors = 0.0
        for fold in range(10):
            out = folds == fold
            fit = np.linalg.lstsq(np.c_[x[~out], np.ones((~out).sum())], self.AGES[~out], rcond=None)[0]
            errors += ((np.c_[x[out], np.ones(out.sum())] @ fit - self.AGES[out]) ** 2).sum()
        assert 1 - errors / ((self.AGES - self.AGES.mean()) ** 2).sum() > 0.9
        assert decade_r2(x, self.AGES[None])[0] < 0.1

    def test_two_decades_are_refused(self) -> None:
        with pytest.raises(DataError, match="three decades"):
            decade_r2(np.zeros((20, 2)), np.arange(10.0, 30.0)[None])


class TestOrder:
    GROUPS = np.repeat([0, 1, 2], 8)
    RANKS = np.tile(np.arange(8), 3)

    @staticmethod
    def seen(curve: np.ndarray) -> tuple[float, float]:
        """Of three groups of eight along the same curve, each elsewhere."""
        rng = np.random.default_rng(0)
        x = np.concatenate([curve + 3 * rng.normal(size=curve.shape[1:]) for _ in range(3)])
        distances = np.linalg.norm(x[:, None] - x[None], axis=2).round(9)
        line, circle = order_contrasts(distances, TestOrder.RANKS[None], TestOrder.GROUPS)
        return float(line[0]), float(circle[0])

    def test_a_line_has_order_and_no_circle(self) -> None:
        line, circle = self.seen(np.c_[np.arange(8.0), np.zeros(8)])
        assert line > 0.95 and circle < -0.3

    def test_a_ring_is_a_circle_more_than_a_line(self) -> None:
        turn = 2 * np.pi * np.arange(8) / 8
        line, circle = self.seen(np.c_[np.cos(turn), np.sin(turn)])
        steps = np.abs(np.subtract.outer(range(8), range(8)))[np.triu_indices(8, 1)]
        overlap = np.corrcoef(rankdata(steps), rankdata(np.minimum(steps, 8 - steps)))[
            0, 1
        ]  # a ring has so much of a line
        assert line == pytest.approx(overlap) and circle == pytest.approx(1 - overlap)

    def test_points_without_order_have_neither(self) -> None:
        found = [self.seen(np.random.default_rng(seed).normal(size=(8, 6))) for seed in range(20)]
        assert np.abs(np.mean(found, axis=0)).max() < 0.15

    def test_groups_of_three_are_refused(self) -> None:
        with pytest.raises(DataError, match="four concepts"):
            order_contrasts(np.zeros((3, 3)), np.arange(3)[None], np.zeros(3, dtype=np.int64))


def test_a_massive_dimension_changes_nothing_that_is_standardised() -> None:
    x = np.random.default_rng(3).normal(size=(30, 8))
    massive = x.copy()
    massive[:, 2] = 1000 + 50 * massive[:, 2]
    labels = labels_of(30, 5, 1)
    same = [silhouettes(cosine_distances(scaled(each, standardise=True)), labels) for each in (x, massive)]
    np.testing.assert_allclose(same[0], same[1], atol=1e-9)
    raw = [silhouettes(cosine_distances(scaled(each, standardise=False)), labels) for each in (x, massive)]
    assert np.abs(raw[0] - raw[1]).max() > 0.1


def test_permutations_stay_within_groups_and_begin_with_what_is_there() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1])
    drawn = permuted(np.arange(6), groups, 50, np.random.default_rng(0))
    assert (drawn[0] == np.arange(6)).all()
    assert (np.sort(drawn[:, :3], axis=1) == [0, 1, 2]).all() and (np.sort(drawn[:, 3:], axis=1) == [3, 4, 5]).all()


def test_p_of_a_layer_and_of_the_best_one_hold_without_structure() -> None:
    """200 studies of 6 layers that have nothing to do with the labels; the layers are alike, as layers are."""
    rng = np.random.default_rng(0)
    each, best = [], []
    for study in range(200):
        shared = rng.normal(size=(24, 6))
        layers = [scaled(shared + 0.5 * rng.normal(size=shared.shape), standardise=True) for _ in range(6)]
        labels = labels_of(24, 4, 99, seed=study)
        tested = over_layers(layers, lambda x, labels=labels: silhouettes(cosine_distances(x), labels))
        each.append(tested.p[0])
        best.append(tested.p_best)
    # Binomial 99 % band of 200 at 0.05.
    for p in (each, best):
        assert 3 <= np.count_nonzero(np.array(p) <= 0.05) <= 20


def test_planted_structure_is_found_in_its_layer() -> None:
    rng = np.random.default_rng(5)
    own = np.arange(24) % 4
    layers = [rng.normal(size=(24, 10)) for _ in range(5)]
    layers[3] += 2 * np.eye(4, 10)[own]
    labels = labels_of(24, 4, 199)
    tested = over_layers([scaled(x, standardise=True) for x in layers],
                         lambda x: silhouettes(cosine_distances(x), labels))  # fmt: skip
    assert tested.values.argmax() == 3 and tested.p_best == 1 / 200
    low, high = tested.intervals[3] or (0, 0)
    assert low < tested.values[3] < high


class TestRetrieval:
    def test_is_the_mean_reciprocal_rank_of_both_directions(self) -> None:
        rng = np.random.default_rng(2)
        first, second = rng.normal(size=(12, 5)), rng.normal(size=(12, 5))
        pairs = labels_of(12, 12, 3)
        cosine = (first / np.linalg.norm(first, axis=1)[:, None]) @ (second / np.linalg.norm(second, axis=1)[:, None]).T
        for got, own in zip(retrieval(first, second, pairs), pairs, strict=True):
            for i, j in enumerate(own):
                there = 1 + int((cosine[i] > cosine[i, j]).sum())
                back = 1 + int((cosine[:, j] > cosine[i, j]).sum())
                assert got[i] == pytest.approx((1 / there + 1 / back) / 2)

    def test_a_planted_dictionary_is_found_whatever_sets_the_languages_apart(self) -> None:
        rng = np.random.default_rng(3)
        meaning = rng.normal(size=(30, 16))
        korean = scaled(meaning + 5 + 0.3 * rng.normal(size=meaning.shape), standardise=True)
        english = scaled(2 * meaning - 7 + 0.3 * rng.normal(size=meaning.shape), standardise=True)
        pairs = labels_of(30, 30, 99)
        found = retrieval(korean, english, pairs).mean(1)
        assert found[0] > 0.95 > 0.3 > found[1:].max()
