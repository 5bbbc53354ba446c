"""Pooling, the script of a token, and the features left out: against loops over dense arrays and by hand."""

import math

import numpy as np
import pytest
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import (
    EXPLANATION_PARTS,
    STEM_PARTS,
    TokenScripts,
    counted_tokens,
    feature_mask,
    idf_weights,
    max_pool,
    token_scripts,
    weighted,
)
from sae_lens_med.records import PARTS, FeatureActs


def _acts(
    dense: np.ndarray,
    item: list[int],
    part: list[str],
    spans: list[tuple[int, int]] | None = None,
    excluded: list[bool] | None = None,
    n_items: int | None = None,
) -> FeatureActs:
    n = len(item)
    starts, ends = zip(*(spans or [(0, 0)] * n), strict=True)
    return FeatureActs(
        item_ids=tuple(f"q{i}" for i in range(n_items or max(item) + 1)),
        acts=sparse.csr_array(dense.astype(np.float32)),
        token_item=np.array(item, dtype=np.int32),
        token_part=np.array([PARTS.index(p) for p in part], dtype=np.uint8),
        token_id=np.zeros(n, dtype=np.int32),
        char_start=np.array(starts, dtype=np.int32),
        char_end=np.array(ends, dtype=np.int32),
        norm=np.ones(n, dtype=np.float32),
        error_norm=np.ones(n, dtype=np.float32),
        excluded=np.array(excluded or [False] * n),
    )


@pytest.mark.parametrize("keep_all", [True, False])
def test_max_pool_equals_a_loop(keep_all: bool) -> None:
    rng = np.random.default_rng(0)
    n, d = 200, 30
    dense = ((rng.random((n, d)) < 0.2) * rng.random((n, d))).astype(np.float32)
    item = rng.integers(0, 6, size=n).tolist()  # tokens of an item need not lie together
    part = rng.choice(PARTS, size=n).tolist()
    excluded = (rng.random(n) < 0.1).tolist()
    kept = np.ones(d, dtype=bool) if keep_all else rng.random(d) < 0.5
    acts = _acts(dense, item, part, excluded=excluded, n_items=7)  # the last item has no token
    for parts in (STEM_PARTS, EXPLANATION_PARTS):
        expected = np.zeros((7, d))
        for t in range(n):
            if part[t] in parts and not excluded[t]:
                expected[item[t]] = np.maximum(expected[item[t]], dense[t] * kept)
        pooled = max_pool(acts, parts, None if keep_all else kept)
        np.testing.assert_array_equal(pooled.toarray(), expected)
        assert (pooled.data > 0).all()


def test_scaffold_and_excluded_tokens_do_not_count() -> None:
    parts = ["stem", "stem", "option", "other", "explanation"]
    acts = _acts(np.eye(5), [0] * 5, parts, excluded=[True, False, False, False, False])
    assert counted_tokens(acts).tolist() == [False, True, False, False, True]
    assert max_pool(acts, STEM_PARTS).toarray().tolist() == [[0, 1, 0, 0, 0]]


def test_idf_by_hand() -> None:
    left = sparse.csr_array(np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    right = sparse.csr_array(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    weights = idf_weights(left, right)
    assert weights.tolist() == pytest.approx([0.0, math.log(5 / 3), math.log(5)])
    np.testing.assert_allclose(weighted(left, weights).toarray(), left.toarray() * weights)


def test_script_of_tokens() -> None:
    question = "당뇨 type 2? ㄱé"
    spans = [(0, 1), (0, 2), (3, 7), (8, 9), (9, 10), (11, 12), (12, 13), (2, 3), (1, 7)]
    part = ["stem"] * 5 + ["option"] * 2 + ["stem"] * 2
    acts = _acts(np.eye(11), [0] * 11, [*part, "explanation", "other"], [*spans, (0, 5), (0, 3)])
    scripts = token_scripts(acts, {"q0": {"question": question, "explanation": "renal"}})
    hangul, latin = [0, 1, 8], [2, 9]  # a token over both scripts is Hangul; options and `other` have none
    assert np.flatnonzero(scripts.hangul).tolist() == hangul
    assert np.flatnonzero(scripts.latin).tolist() == latin


def test_script_of_tokens_needs_the_texts_that_were_run() -> None:
    acts = _acts(np.eye(1), [0], ["explanation"], [(0, 9)])
    with pytest.raises(DataError, match="'q0' has explanation tokens but no explanation text"):
        token_scripts(acts, {"q0": {"question": "x"}})
    with pytest.raises(DataError, match="'q0': a token ends past its explanation text of 5 characters"):
        token_scripts(acts, {"q0": {"question": "x", "explanation": "renal"}})


def _mask_case(n_hangul: int, n_latin: int) -> tuple[FeatureActs, TokenScripts]:
    """Five features: dense; every Hangul token; every Latin token; a Korean topic; a topic in both scripts."""
    n = n_hangul + n_latin
    hangul = np.arange(n) < n_hangul
    dense = np.zeros((n, 5))
    dense[:, 0] = np.arange(n) % 3 != 0
    dense[:, 1] = hangul & (np.arange(n) % 4 == 0)
    dense[:, 2] = ~hangul & (np.arange(n) % 4 == 0)
    dense[:, 3] = hangul & (np.arange(n) % 20 == 0)
    dense[:, 4] = np.arange(n) % 3 == 0
    return _acts(dense, [0] * n, ["stem"] * n), TokenScripts(hangul=hangul, latin=~hangul)


def test_features_of_a_script_are_left_out_and_topics_stay() -> None:
    mask = feature_mask(*_mask_case(600, 400))
    assert mask.dense.tolist() == [True, False, False, False, False]
    assert mask.script.tolist() == [False, True, True, False, False]
    assert mask.kept.tolist() == [False, False, False, True, True]
    assert mask.counts == {"dense_features": 1, "script_features": 2}


@pytest.mark.parametrize(("n_hangul", "n_latin"), [(1000, 0), (0, 1000), (900, 100)])
def test_a_text_of_one_script_has_no_script_features(n_hangul: int, n_latin: int) -> None:
    mask = feature_mask(*_mask_case(n_hangul, n_latin))
    assert mask.counts == {"dense_features": 1, "script_features": 0}
