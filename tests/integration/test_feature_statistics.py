"""Feature statistics against a literal loop over tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, ModelError, ReleaseError, StudyError
from sae_lens_med.features.collect import collect
from sae_lens_med.features.statistics import FeatureStatistics, feature_statistics
from sae_lens_med.features.store import load_features
from sae_lens_med.models.bridge import residuals
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.saes.releases import LoadedSae, load_folder
from tests.tiny import save_tiny_sae, tiny_model, tiny_sae

ITEMS = load_items("sample", limit=40).items
MODEL = tiny_model("gemma3")
PROMPTS = [question_prompt(item, MODEL.text_tokenizer) for item in ITEMS]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    folder = tmp_path_factory.mktemp("sae")
    save_tiny_sae(folder, tiny_sae(MODEL))
    return load_folder(folder)


@pytest.fixture(scope="module")
def stats(loaded: LoadedSae) -> FeatureStatistics:
    return feature_statistics(MODEL, loaded, PROMPTS, progress=False)


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
