"""Feature statistics against a literal loop over tokens; matched random features against brute force."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, ModelError, ReleaseError, StudyError
from sae_lens_med.features.collect import collect
from sae_lens_med.features.statistics import FeatureStatistics, feature_statistics, matched_random, matched_sets
from sae_lens_med.features.store import load_features
from sae_lens_med.models.bridge import residuals
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.saes.releases import LoadedSae, load_folder
from tests.tiny import save_tiny_sae, tiny_model, tiny_sae

ITEMS = load_items("sample", limit=40).items
MODEL = tiny_model("gemma3")
PROMPTS = [question_prompt(item, MODEL.text_tokenizer) for item in ITEMS]
IDENTITY = {"source": "here", "sae_id": "x", "sha256": "00", "hook_name": "blocks.1.hook_resid_post"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    folder = tmp_path_factory.mktemp("sae")
    save_tiny_sae(folder, tiny_sae(MODEL))
    return load_folder(folder)


@pytest.fixture(scope="module")
def stats(loaded: LoadedSae) -> FeatureStatistics:
    return feature_statistics(MODEL, loaded, PROMPTS, progress=False)


def synthetic(rate: Any, when_active: Any) -> FeatureStatistics:
    """Statistics with the given firing rates and means where the features fire."""
    rate, active = np.asarray(rate, np.float32), np.asarray(when_active, np.float32)
    return FeatureStatistics(
        maximum=np.where(rate > 0, 3 * active, 0).astype(np.float32),
        mean=rate * active,
        firing_rate=rate,
        n_tokens=1000,
        sae=IDENTITY,
        model={"name": "m"},
        data_sha256="00",
        exclusion={},
    )


def test_statistics_are_those_of_a_loop_over_tokens(loaded: LoadedSae, stats: FeatureStatistics) -> None:
    special = {i for i, t in MODEL.text_tokenizer.added_tokens_decoder.items() if t.special}
    rows = {}
    for prompt in PROMPTS:  # one at a time, through the bridge
        [x] = residuals(MODEL, [prompt.token_ids], loaded.hook_name)
        rows[prompt.item_id] = x
    first = [
        float(row.norm())
        for prompt in PROMPTS[:32]
        for token, row in zip(prompt.token_ids, rows[prompt.item_id], strict=True)
        if token not in special
    ]
    threshold = 5.0 * float(np.median(first))
    counted = [
        row
        for prompt in PROMPTS
        for token, row in zip(prompt.token_ids, rows[prompt.item_id], strict=True)
        if token not in special and float(row.norm()) <= threshold
    ]
    with torch.no_grad():
        acts = loaded.sae.encode(torch.stack(counted)).double()
    assert stats.n_tokens == len(counted)
    assert stats.exclusion["special_tokens"] == len(PROMPTS)  # Gemma's BOS
    np.testing.assert_allclose(stats.maximum, acts.amax(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats.mean, acts.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats.firing_rate, (acts > 0).double().mean(0), atol=2 / len(counted))


def test_the_rule_is_that_of_collect(loaded: LoadedSae, stats: FeatureStatistics, tmp_path: Path) -> None:
    """Questions alone: the same median, sinks and sums as a collection of the same items."""
    bare = [replace(item, explanation=None, explanation_source=None, explanation_spans=()) for item in ITEMS]
    for multiple in (5.0, 1.2):  # the second makes sinks
        folder = tmp_path / str(multiple)
        found = load_features(collect(MODEL, loaded, bare, output=folder, sink_multiple=multiple, progress=False))
        mine = feature_statistics(MODEL, loaded, PROMPTS, sink_multiple=multiple, progress=False)
        for key in ("median_norm", "sink_threshold"):
            assert mine.exclusion[key] == pytest.approx(found.manifest["exclusion"][key], rel=1e-5)
        kept = found.acts.acts[~found.acts.excluded]
        assert mine.n_tokens == kept.shape[0]
        np.testing.assert_allclose(mine.mean, kept.mean(axis=0), rtol=1e-4, atol=1e-6)
        if multiple < 2:
            assert mine.exclusion["activation_sinks"] > 0


def test_batches_do_not_change_statistics(loaded: LoadedSae, stats: FeatureStatistics) -> None:
    alone = feature_statistics(MODEL, loaded, PROMPTS, batch_tokens=1, progress=False)
    np.testing.assert_allclose(alone.mean, stats.mean, rtol=1e-4, atol=1e-6)
    assert (alone.n_tokens, alone.data_sha256) == (stats.n_tokens, stats.data_sha256)


def test_what_is_saved_is_read_back_and_only_for_its_sae(
    loaded: LoadedSae, stats: FeatureStatistics, tmp_path: Path
) -> None:
    path = tmp_path / "statistics.safetensors"
    stats.save(path)
    back = FeatureStatistics.load(path, loaded)
    for name in ("maximum", "mean", "firing_rate"):
        np.testing.assert_array_equal(getattr(back, name), getattr(stats, name))
    for name in ("n_tokens", "sae", "model", "data_sha256", "exclusion"):
        assert getattr(back, name) == getattr(stats, name)
    with pytest.raises(ReleaseError, match="belong to the SAE .*, not to other; compute them again"):
        FeatureStatistics.load(path, replace(loaded, sha256="ff", source="other"))


def test_damaged_statistics_are_refused_in_one_sentence(stats: FeatureStatistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    with pytest.raises(StudyError, match="does not contain feature statistics"):
        FeatureStatistics.load(path)
    path.write_bytes(b"\x00" * 30)
    with pytest.raises(StudyError, match="does not contain feature statistics"):
        FeatureStatistics.load(path)
    stats.save(path)
    arrays = load_file(path)
    save_file(arrays, path)  # without its header
    with pytest.raises(StudyError, match="'statistics'.*delete it to compute them again"):
        FeatureStatistics.load(path)
    for name, bad, message in (
        ("mean", np.full(64, np.nan, np.float32), "mean has values that are negative or not finite"),
        ("maximum", np.zeros(3, np.float32), "expected float32"),
        ("firing_rate", np.full(64, 2, np.float32), "a firing rate is above 1"),
        ("mean", np.zeros(64, np.float32), "fires without a mean"),
        ("n_tokens", 0, "at least one token that counts"),
    ):
        with pytest.raises(DataError, match=message):
            replace(stats, **{name: bad})


def test_errors_say_what_to_do(loaded: LoadedSae) -> None:
    with pytest.raises(DataError, match="no texts"):
        feature_statistics(MODEL, loaded, [], progress=False)
    with pytest.raises(ModelError, match="3000 tokens, more than the 2048"):
        feature_statistics(MODEL, loaded, [replace_ids(3000)], progress=False)
    with pytest.raises(ConfigError, match="sink_multiple"):
        feature_statistics(MODEL, loaded, PROMPTS, sink_multiple=1.0, progress=False)


def replace_ids(n: int) -> Any:
    return replace(PROMPTS[0], token_ids=(5,) * n, char_spans=((0, 0),) * n, token_parts=(3,) * n)


RATES = st.lists(st.floats(1e-4, 1.0), min_size=40, max_size=80)


@settings(max_examples=40, deadline=None)
@given(rates=RATES, n_sets=st.integers(1, 8), size=st.integers(1, 4), seed=st.integers(0, 9))
def test_matched_sets_hold_what_they_promise(rates: list[float], n_sets: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stats = synthetic(rates, rng.lognormal(size=len(rates)))
    features = rng.choice(len(rates), size, replace=False).tolist()
    found = matched_sets(stats, features, n_sets, np.random.default_rng(seed))
    assert found.sets.shape == (n_sets, size)
    assert not np.isin(found.sets, features).any()
    assert all(len(set(row)) == size for row in found.sets.tolist())
    assert len({frozenset(row) for row in found.sets.tolist()}) == n_sets
    again = matched_random(stats, features, n_sets, np.random.default_rng(seed))
    np.testing.assert_array_equal(found.sets, again)
    # Each drawn feature is among the 2 n + size - 1 nearest, by a literal search.
    rate, active = stats.firing_rate.astype(float), stats.mean_when_active
    for j, feature in enumerate(features):
        others = [i for i in range(len(rates)) if i not in features]
        others.sort(key=lambda i: (np.log(rate[i] / rate[feature])) ** 2 + (np.log(active[i] / active[feature])) ** 2)
        assert set(found.sets[:, j]) <= set(others[: 2 * n_sets + size - 1])
        for s, drawn in enumerate(found.sets[:, j]):
            fold = max(max(a[drawn] / a[feature], a[feature] / a[drawn]) for a in (rate, active))
            assert found.fold[s, j] == pytest.approx(fold, rel=1e-6)


def test_features_match_their_own_kind() -> None:
    """Two clouds of features a hundredfold apart, and features that never fire: each is matched with its own."""
    rate = np.concatenate([np.full(30, 0.3), np.full(30, 0.003), np.zeros(30)])
    stats = synthetic(rate, np.linspace(1, 1.1, 90))
    sets = matched_random(stats, [0, 40, 70], 10, np.random.default_rng(0))
    assert (sets[:, 0] < 30).all()
    assert ((sets[:, 1] >= 30) & (sets[:, 1] < 60)).all()
    assert (sets[:, 2] >= 60).all()


def test_the_draw_is_uniform_over_the_pool() -> None:
    stats = synthetic(np.full(30, 0.1), np.geomspace(1, 2, 30))
    rng = np.random.default_rng(1)
    drawn = np.concatenate([matched_random(stats, [0], 1, rng, neighbours=5).ravel() for _ in range(3000)])
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4, 5]
    assert (abs(counts - 600) < 120).all()


def test_what_cannot_be_matched_is_an_error() -> None:
    stats = synthetic([0.1] * 6 + [0.0] * 2, [1.0] * 8)
    with pytest.raises(DataError, match="1 other features never fire on these 1000 tokens, too few for 4 sets"):
        matched_random(stats, [7], 4, np.random.default_rng(0))
    with pytest.raises(DataError, match="5 other features fire"):
        matched_random(stats, [0], 6, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="feature 8 does not exist: the SAE has features 0 to 7"):
        matched_random(stats, [8], 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="given twice"):
        matched_random(stats, [1, 1], 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="at least one set"):
        matched_random(stats, [1], 0, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="no features"):
        matched_random(stats, [], 1, np.random.default_rng(0))
