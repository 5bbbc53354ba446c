"""Top contexts against a brute-force ranking, and the pieces of text they show."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sae_lens_med.errors import ConfigError
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import CollectedFeatures
from sae_lens_med.records import PARTS, FeatureActs


def made(
    dense: np.ndarray,
    items: list[int],
    parts: list[int],
    which: list[int],
    excluded: list[bool] | None = None,
    spans: list[tuple[int, int]] | None = None,
    texts: dict[str, dict[str, str]] | None = None,
) -> CollectedFeatures:
    n, n_items = len(dense), max(items) + 1
    spans = spans or [(i, i + 1) for i in range(n)]
    ids = tuple(f"q{i}" for i in range(n_items))
    return CollectedFeatures(
        acts=FeatureActs(
            item_ids=ids,
            acts=sparse.csr_array(dense.astype(np.float32)),
            token_item=np.array(items, dtype=np.int32),
            token_part=np.array(parts, dtype=np.uint8),
            token_id=np.zeros(n, dtype=np.int32),
            char_start=np.array([s for s, _ in spans], dtype=np.int32),
            char_end=np.array([e for _, e in spans], dtype=np.int32),
            norm=np.ones(n, dtype=np.float32),
            error_norm=np.ones(n, dtype=np.float32),
            excluded=np.array(excluded or [False] * n),
        ),
        token_text=np.array(which, dtype=np.uint8),
        texts=texts or {name: {"question": "가" * n, "explanation": "나" * n} for name in ids},
        raw_mean_stem=np.zeros((n_items, 2), dtype=np.float32),
        raw_mean_explanation=np.zeros((n_items, 2), dtype=np.float32),
        has_explanation=np.ones(n_items, dtype=bool),
        manifest={},
    )


@st.composite
def collections(draw: st.DrawFn) -> CollectedFeatures:
    tokens = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=30))
    tokens.sort(key=lambda t: t[:2])
    n = len(tokens)
    # Few distinct values: ties are common.
    values = draw(
        st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 2.5]), min_size=4, max_size=4), min_size=n, max_size=n)
    )
    excluded = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return made(np.array(values), [t[0] for t in tokens], [t[2] for t in tokens], [t[1] for t in tokens], excluded)


@settings(max_examples=200, deadline=None)
@given(features=collections(), k=st.integers(1, 4), parts=st.sets(st.sampled_from(PARTS), min_size=1))
def test_ranking_is_that_of_brute_force(features: CollectedFeatures, k: int, parts: set[str]) -> None:
    acts, dense = features.acts, features.acts.acts.toarray()
    got = top_contexts(features, k, window_chars=0, parts=sorted(parts))
    for feature in range(dense.shape[1]):
        best: dict[tuple[int, int, int], tuple[float, int]] = {}
        for token, value in enumerate(dense[:, feature].tolist()):
            group = (int(acts.token_item[token]), int(features.token_text[token]), int(acts.token_part[token]))
            if value <= 0 or acts.excluded[token] or PARTS[group[2]] not in parts:
                continue
            if group not in best or value > best[group][0]:
                best[group] = (value, token)
        ranked = sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0]))[:k]
        expected = [
            (value, acts.item_ids[group[0]], PARTS[group[2]], token, "가나"[group[1]])
            for group, (value, token) in ranked
        ]
        # In `made`, the span of token i is (i, i + 1): what stands before it tells which token it is.
        wide = top_contexts(features, k, window_chars=100, parts=sorted(parts)).get(feature, [])
        assert [(c.value, c.item_id, c.part, len(c.before), c.token) for c in wide] == expected
        assert [c.value for c in got.get(feature, [])] == [e[0] for e in expected]
    assert all(got[feature] for feature in got)
    assert list(got) == sorted(got)


def test_windows_are_pieces_of_the_text() -> None:
    text = "환자는 뇌졸중으로 입원하였다"
    at = text.index("졸")
    features = made(np.array([[2.0]]), [0], [0], [0], spans=[(at, at + 1)], texts={"q0": {"question": text}})
    (context,) = top_contexts(features, window_chars=3)[0]
    shown = {"before": "는 뇌", "token": "졸", "after": "중으로"}
    assert context.to_dict() == {"feature": 0, "value": 2.0, "item_id": "q0", "part": "stem", **shown}
    (whole,) = top_contexts(features, window_chars=1000)[0]
    assert whole.before + whole.token + whole.after == text


@pytest.mark.parametrize("window", range(9))
def test_decomposed_syllables_are_not_cut(window: int) -> None:
    text = unicodedata.normalize("NFD", "간암의 폐전이")
    at = text.index(" ")
    features = made(np.array([[1.0]]), [0], [0], [0], spans=[(at, at + 1)], texts={"q0": {"question": text}})
    (context,) = top_contexts(features, window_chars=window)[0]
    assert context.before + context.token + context.after in text
    for piece in (context.before, context.after):
        assert all("가" <= c <= "힣" for c in unicodedata.normalize("NFC", piece))


def test_explanation_contexts_come_from_the_explanation() -> None:
    features = made(
        np.array([[1.0], [3.0]]), [0, 0], [0, 2], [0, 1], texts={"q0": {"question": "abcd", "explanation": "wxyz"}}
    )
    assert [(c.part, c.token) for c in top_contexts(features)[0]] == [("explanation", "x"), ("stem", "a")]


def test_settings_out_of_range() -> None:
    features = made(np.array([[1.0]]), [0], [0], [0])
    with pytest.raises(ConfigError, match="k must be at least 1"):
        top_contexts(features, 0)
    with pytest.raises(ConfigError, match="did you mean stem"):
        top_contexts(features, parts=["stems"])
