"""The folder of collected features: what is written is what is read, and nothing else is accepted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.errors import StudyError
from sae_lens_med.features import store
from sae_lens_med.features.store import join_shards, load_features, open_collection, write_apart
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.lock import LOCK

SETTINGS: dict[str, Any] = {"model": {"name": "m"}, "sae": {"sha256": "a" * 64, "d_sae": 7}, "sink_multiple": 5.0}


def shard_of(dense: np.ndarray, items: list[int], first: int, n_items: int) -> store.Arrays:
    """The arrays of a shard whose tokens have the rows of `dense`; the other arrays hold distinct numbers."""
    n = len(dense)
    fires = dense > 0
    return {
        "data": dense[fires],
        "indices": np.nonzero(fires)[1],
        "indptr": np.concatenate([[0], np.cumsum(fires.sum(1))]),
        "token_item": np.array(items, dtype=np.int32),
        "token_part": np.arange(n) % 4,
        "token_text": np.arange(n) % 2,
        "token_id": np.arange(n) + 100 * first,
        "char_start": np.arange(n),
        "char_end": np.arange(n) + 1,
        "norm": np.arange(n) + 0.5,
        "error_norm": np.arange(n) + 0.25,
        "excluded": np.arange(n) % 3 == 0,
        "raw_mean_stem": np.full((n_items, 5), first, dtype=np.float32),
        "raw_mean_explanation": np.full((n_items, 5), -first, dtype=np.float32),
        "has_explanation": np.arange(n_items) % 2 == 0,
    }


def text(name: str, explanation: str | None = None) -> dict[str, Any]:
    return {"id": name, "question": f"질문 {name}\u2028둘째 줄", "explanation": explanation}


def collection(folder: Path, dense: list[np.ndarray]) -> RunFolder:
    """One item per entry of `dense`, two items per shard."""
    run = open_collection(folder, SETTINGS, len(dense), 2)
    run.begin()
    for first in range(0, len(dense), 2):
        own = dense[first : first + 2]
        items = [first + i for i, d in enumerate(own) for _ in d]
        texts = [text(f"q{first + i}", "설명" if i else None) for i in range(len(own))]
        arrays = shard_of(np.concatenate(own), items, first, len(own))
        write_apart(folder, first // 2, arrays, texts, {"n_tokens": len(items)})
        join_shards(run)
    return run


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=7),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], density: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    dense = [(random.random((n, 7)) * (random.random((n, 7)) < density)).astype(np.float32) for n in lengths]
    folder = tmp_path_factory.mktemp("features")
    collection(folder, dense)
    got = load_features(folder)
    np.testing.assert_array_equal(got.acts.acts.toarray(), np.concatenate(dense))
    assert got.acts.acts.dtype == np.float32
    assert (got.acts.acts.data > 0).all()
    assert got.acts.token_item.tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]
    assert got.acts.item_ids == tuple(f"q{i}" for i in range(len(lengths)))
    assert got.texts["q0"] == {"question": "질문 q0\u2028둘째 줄"}
    assert got.raw_mean_stem.shape == (len(lengths), 5)
    if len(lengths) > 1:
        assert got.texts["q1"]["explanation"] == "설명"
        assert got.has_explanation[:2].tolist() == [True, False]


def test_arrays_keep_their_types(tmp_path: Path) -> None:
    collection(tmp_path, [np.eye(3, 7, dtype=np.float32)] * 3)
    got = load_features(tmp_path)
    for name, kind in store.ARRAYS.items():
        if hasattr(got.acts, name):
            assert getattr(got.acts, name).dtype == kind, name
    assert got.acts.norm.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 0.5, 1.5, 2.5]
    assert got.acts.token_id.tolist() == [0, 1, 2, 3, 4, 5, 200, 201, 202]
    assert got.raw_mean_explanation[:, 0].tolist() == [0, 0, -2]


def test_a_collection_goes_on_as_itself_only(tmp_path: Path) -> None:
    collection(tmp_path, [np.eye(3, 7, dtype=np.float32)])
    assert open_collection(tmp_path, SETTINGS, 1, 2).values["shards"]
    other = SETTINGS | {"sae": {"sha256": "b" * 64, "d_sae": 7}, "sink_multiple": 4.0}
    with pytest.raises(StudyError, match=r"\(sae.sha256: aaaaaaaaaaaa -> bbbbbbbbbbbb; sink_multiple: 5.0 -> 4.0\)"):
        open_collection(tmp_path, other, 1, 2)


def test_unfinished_and_damaged_collections_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="contains no collected features"):
        load_features(tmp_path)
    manifest = collection(tmp_path, [np.eye(3, 7, dtype=np.float32)] * 4).values
    write_json(tmp_path / "manifest.json", manifest | {"shards": manifest["shards"][:1]})
    with pytest.raises(StudyError, match="the features of 2 of 4 items; run the same collection again"):
        load_features(tmp_path)
    write_json(tmp_path / "manifest.json", manifest)
    with (tmp_path / "shard-00001.jsonl").open("a") as handle:
        handle.write("\n")
    for read in (lambda: load_features(tmp_path), lambda: open_collection(tmp_path, SETTINGS, 4, 2)):
        with pytest.raises(StudyError, match=r"shard-00001.jsonl was changed since it was written; delete"):
            read()
    (tmp_path / "shard-00001.jsonl").unlink()
    with pytest.raises(StudyError, match=r"shard-00001.jsonl is missing"):
        load_features(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"shards": 3}, {"shards": [{"sha256": "a"}]}, {"shard_items": 0}, {"n_items": 0}, {"settings": [1]}],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    manifest = collection(tmp_path, [np.eye(3, 7, dtype=np.float32)]).values
    write_json(tmp_path / "manifest.json", manifest | change)
    with pytest.raises(StudyError, match="manifest.json is damaged .*; delete"):
        load_features(tmp_path)


def test_shards_written_apart_are_joined_in_order(tmp_path: Path) -> None:
    """Whoever writes them, and in whatever order: the folder is that of one writer, byte for byte."""
    rng = np.random.default_rng(0)
    dense = [rng.random((3, 7)).astype(np.float32) for _ in range(7)]
    want = tmp_path / "want"
    collection(want, dense)
    folder = tmp_path / "apart"
    run = open_collection(folder, SETTINGS, 7, 2)
    run.begin()
    assert join_shards(run) == [0, 1, 2, 3]

    def write(index: int) -> None:
        own = dense[2 * index : 2 * index + 2]
        items = [2 * index + i for i, d in enumerate(own) for _ in d]
        texts = [text(f"q{2 * index + i}", "설명" if i else None) for i in range(len(own))]
        arrays = shard_of(np.concatenate(own), items, 2 * index, len(own))
        write_apart(folder, index, arrays, texts, {"n_tokens": len(items)})

    write(2)
    assert join_shards(run) == [0, 1, 3]
    assert run.values["shards"] == []
    write(0)
    run = open_collection(folder, SETTINGS, 7, 2)  # as after an interruption
    assert join_shards(run) == [1, 3]
    assert len(run.values["shards"]) == 1
    write(3)
    write(1)
    assert join_shards(run) == []
    found, wanted = ({p.name: p.read_bytes() for p in f.iterdir() if p.name != LOCK} for f in (folder, want))
    assert found == wanted


def test_a_shard_that_is_not_what_its_entry_says_is_refused(tmp_path: Path) -> None:
    run = open_collection(tmp_path, SETTINGS, 2, 2)
    run.begin()
    dense = np.ones((2, 7), np.float32)
    write_apart(tmp_path, 0, shard_of(dense, [0, 1], 0, 2), [text("q0"), text("q1")], {"n_tokens": 2})
    (tmp_path / "shard-00000.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(StudyError, match="shard-00000.jsonl was changed since it was written"):
        join_shards(run)
    (tmp_path / "shard-00000.entry.json").write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="shard-00000.entry.json is damaged"):
        join_shards(open_collection(tmp_path, SETTINGS, 2, 2))
