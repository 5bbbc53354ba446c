"""Parts of a collection: equal to the same rows of the whole, and no file is read that is not what it says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from sae_lens_med.errors import NotFoundError, StudyError
from sae_lens_med.features.part import CollectedPart, FeaturePart
from sae_lens_med.features.store import TOKEN_ARRAYS, CollectedFeatures, load_features, shard_paths
from sae_lens_med.runs.files import write_json
from tests.unit.test_features_store import collection

D_SAE = 7


def dense(lengths: list[int], density: float = 0.4, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = [(n, D_SAE) for n in lengths]
    return [(random.random(s) * (random.random(s) < density)).astype(np.float32) for s in shapes]


def require_equal(part: CollectedPart, whole: CollectedFeatures, rows: np.ndarray, items: slice) -> None:
    np.testing.assert_array_equal(part.acts.acts.toarray(), whole.acts.acts[rows].toarray())
    assert part.acts.acts.dtype == np.float32
    for name in set(TOKEN_ARRAYS) - {"token_item", "token_text"}:
        np.testing.assert_array_equal(getattr(part.acts, name), getattr(whole.acts, name)[rows])
    np.testing.assert_array_equal(part.acts.token_item, whole.acts.token_item[rows] - items.start)
    np.testing.assert_array_equal(part.token_text, whole.token_text[rows])
    np.testing.assert_array_equal(part.has_explanation, whole.has_explanation[items])
    assert part.acts.item_ids == whole.acts.item_ids[items]
    assert part.texts == {name: whole.texts[name] for name in part.acts.item_ids}


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=7),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
    start=st.integers(0, 6),
    size=st.integers(0, 6),
)
def test_every_item_and_shard_is_that_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], density: float, seed: int, start: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("features")
    collection(folder, dense(lengths, density, seed))
    whole, part = load_features(folder), FeaturePart(folder)
    assert (part.n_items, part.d_sae, part.complete, part.broken) == (len(lengths), D_SAE, True, {})
    for number in range(len(lengths)):
        rows = np.flatnonzero(whole.acts.token_item == number)
        require_equal(part.item(number), whole, rows, slice(number, number + 1))
        require_equal(
            part.item(number, start, start + size), whole, rows[start : start + size], slice(number, number + 1)
        )
        assert part.texts(number) == (f"q{number}", whole.texts[f"q{number}"])
    for index in range(part.n_shards):
        items = part.items_of(index)
        rows = np.flatnonzero(np.isin(whole.acts.token_item, items))
        require_equal(part.shard(index), whole, rows, slice(items.start, items.stop))
        assert list(part.shard_texts(index)) == [f"q{number}" for number in items]
    part.verify()


def test_an_item_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    collection(tmp_path, dense([2, 3]))
    for number in (-1, 2):
        with pytest.raises(NotFoundError, match=f"features of 2 items, and not of item {number}"):
            FeaturePart(tmp_path).item(number)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def no_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def with_arrays(**changed: np.ndarray):
    def change(path: Path) -> None:
        save_file(load_file(path) | changed, path)

    change.__name__ = ",".join(changed)
    return change


def without_norm(path: Path) -> None:
    arrays = load_file(path)
    del arrays["norm"]
    save_file(arrays, path)


@pytest.mark.parametrize(
    "damage",
    [
        *(Path.unlink, cut, longer, no_header, empty, without_norm),
        with_arrays(excluded=np.zeros(6, np.uint8)),
        with_arrays(token_id=np.zeros(5, np.int32)),
        with_arrays(indices=np.zeros((2, 2), np.int32)),
    ],
)
def test_a_shard_that_contradicts_its_header_or_the_manifest_is_refused_alone(tmp_path: Path, damage) -> None:
    collection(tmp_path, dense([3, 3, 2, 2]))
    damage(shard_paths(tmp_path, 0)[0])
    part = FeaturePart(tmp_path)
    assert list(part.broken) == [0]
    for number in (0, 1):
        with pytest.raises(StudyError, match=r"shard-00000\.safetensors is damaged: .*; run the study again"):
            part.item(number)
    assert part.item(2).acts.item_ids == ("q2",)
    with pytest.raises(StudyError, match="shard-00000"):
        part.verify()


ROWS = {"indptr": np.array([0, 2, 1, 3, 3, 3, 3]), "data": np.ones(3, np.float32), "indices": np.zeros(3, np.int32)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (ROWS, "indptr does not ascend"),
        (ROWS | {"indptr": np.array([0, 1, 2, 9, 9, 9, 9])}, "indptr does not ascend"),
        (ROWS | {"indptr": np.array([1, 1, 2, 3, 3, 3, 3])}, "indptr does not ascend"),
        (ROWS | {"indptr": np.arange(7).clip(0, 3), "indices": np.full(3, D_SAE, np.int32)}, "outside of the 7"),
        (ROWS | {"indptr": np.arange(7).clip(0, 3), "indices": np.full(3, -1, np.int32)}, "outside of the 7"),
        ({"token_part": np.full(6, 9, np.uint8)}, "a part or a text that there is not"),
        ({"token_item": np.array([1, 0, 0, 0, 1, 1], np.int32)}, "not those of its items, in order"),
        ({"token_item": np.array([0, 0, 0, 1, 1, 2], np.int32)}, "not those of its items, in order"),
    ],
)
def test_rows_that_cannot_be_are_refused_when_they_are_read(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    collection(tmp_path, dense([3, 3]))
    with_arrays(**arrays)(shard_paths(tmp_path, 0)[0])
    part = FeaturePart(tmp_path)
    assert not part.broken
    with pytest.raises(StudyError, match=f"shard-00000.*damaged: .*{message}"):
        part.item(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 whole lines"),
        (b'{"id": "q0", "question": "a", "explanation": null}\n', "1 whole lines"),
        (b'{"id": "q0", "question": "a", "explanation": null}\n{"id": "q1"}\n', "not the texts of an item"),
        (b'{"id": "q0", "question": "a", "explanation": null}\n{"id": "q1", "quest', "1 whole lines"),
        (b"[]\n{}\n", "not the texts of an item"),
    ],
)
def test_texts_that_are_not_those_of_the_items_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    collection(tmp_path, dense([3, 3]))
    shard_paths(tmp_path, 0)[1].write_bytes(content)
    with pytest.raises(StudyError, match=message):
        FeaturePart(tmp_path).shard(0)


def test_changed_numbers_are_seen_by_verifying_only(tmp_path: Path) -> None:
    collection(tmp_path, dense([3, 3]))
    path = shard_paths(tmp_path, 0)[0]
    with_arrays(norm=load_file(path)["norm"] + 1)(path)
    part = FeaturePart(tmp_path)
    part.item(0)
    with pytest.raises(StudyError, match=r"shard-00000\.safetensors is missing or was changed"):
        part.verify()


def test_a_shard_that_is_replaced_under_the_reader_is_not_read(tmp_path: Path) -> None:
    collection(tmp_path, dense([3, 3]))
    part = FeaturePart(tmp_path)
    part.item(0)
    path = shard_paths(tmp_path, 0)[0]
    save_file(load_file(path), path)
    with pytest.raises(StudyError, match="changed while it was in use"):
        part.item(0)


def test_an_unfinished_collection_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = collection(tmp_path, dense([2, 2, 2]))
    write_json(tmp_path / "manifest.json", run.values | {"format": 1, "shards": run.values["shards"][:1]})
    part = FeaturePart(tmp_path)
    assert (part.complete, part.n_items) == (False, 2)
    assert part.item(1).acts.item_ids == ("q1",)
    with pytest.raises(NotFoundError):
        part.item(2)
