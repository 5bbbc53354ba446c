"""Activations on disk: what is kept, in what order it comes back, and what happens when something ends too early."""

import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lens_med.distributed import Ranks
from sae_lens_med.errors import ConfigError, DataError, ModelError, StudyError
from sae_lens_med.models.bridge import MedBridge, residuals
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.training import harvest as harvesting
from sae_lens_med.training.activations import Activations, Corpus, corpus, shard_path
from sae_lens_med.training.harvest import Harvest, default_folder, harvest, like_length
from sae_lens_med.training.recipe import Recipe, load_recipe
from tests.tiny import HIDDEN, tiny_model

PRE, POST = "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("text")
    rows = [
        {"id": f"t{i}", "text": f"환자 {i}번은 발열과 기침으로 병원에 왔다. The patient has fever {i}. "}
        for i in range(60)
    ]
    (folder / "text.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return load_recipe("tiny", [f"data.folder={folder}", "model.name=tiny", "data.buffer_tokens=450"])


@pytest.fixture(scope="module")
def text(model: MedBridge, recipe: Recipe) -> Corpus:
    return corpus(recipe, model.text_tokenizer, seed=7)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvesting, "SEQUENCES_PER_SHARD", 8)


def sinkless(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, sink_multiple=1e9)


# --- what is kept


def test_the_rows_of_a_shard_are_the_residuals_of_its_sequences(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    acts = harvest(model, text, recipe, {PRE: tmp_path / "pre", POST: tmp_path / "post"})
    special = torch.tensor(model.text_tokenizer.all_special_ids)
    for number, at in enumerate(range(0, len(text.train), 8)):
        part = sorted(text.train[at : at + 8], key=len, reverse=True)
        want: dict[str, list[torch.Tensor]] = {PRE: [], POST: []}
        for ids in part:  # one at a time, without padding, by plain transformers
            states = model.original_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            kept = ~torch.isin(torch.tensor(ids), special)
            want[PRE].append(states[1][0][kept])
            want[POST].append(states[2][0][kept])
        for hook in (PRE, POST):
            rows = torch.cat(want[hook])
            assert acts[hook].rows_per_shard[number] == len(rows)
            torch.testing.assert_close(acts[hook].shard(number).float(), rows, rtol=0.01, atol=0.02)  # bfloat16


def test_hooks_that_are_there_are_not_harvested_again(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    harvest(model, text, recipe, {POST: tmp_path / "post"})
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "post").iterdir()}
    both = harvest(model, text, recipe, {PRE: tmp_path / "pre", POST: tmp_path / "post"})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "post").iterdir()} == before
    alone = harvest(model, text, recipe, {PRE: tmp_path / "alone"})
    for number in range(len(alone[PRE].rows_per_shard)):
        assert torch.equal(both[PRE].shard(number), alone[PRE].shard(number))


def test_a_hook_with_heads_and_one_only_the_bridge_has(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    hook = "blocks.1.attn.hook_z"
    acts = harvest(model, text, recipe, {hook: tmp_path / "z"})[hook]
    ids = max(text.train[:8], key=len)
    [want] = residuals(model, [ids], hook)
    torch.testing.assert_close(acts.shard(0)[0].float(), want[1].flatten(), rtol=0.02, atol=0.02)  # 0 is BOS


def test_activations_of_something_else_are_refused(
    recipe: Recipe, model: MedBridge, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(model, text, recipe, {POST: tmp_path / "acts"})
    with pytest.raises(StudyError, match=r"other settings \(model\.name: .* -> "):
        harvest(tiny_model("gemma3", seed=1), text, recipe, {POST: tmp_path / "acts"})
    less = dataclasses.replace(text, train=text.train[:-1])
    with pytest.raises(StudyError, match=r"\(rows: .* -> .*; sequences: \d+ -> \d+\)"):
        harvest(model, less, recipe, {POST: tmp_path / "acts"})
    other = dataclasses.replace(text, sha256="0")
    with pytest.raises(StudyError, match=rf'\(hook_name: "{POST}" -> "{PRE}"; text_sha256: \w+ -> "0"\)'):
        harvest(model, other, recipe, {PRE: tmp_path / "acts"})
    with monkeypatch.context() as changed:
        changed.setattr(harvesting, "SEQUENCES_PER_SHARD", 9)
        with pytest.raises(StudyError, match=r"\(rows: .* -> .*; sequences_per_shard: 8 -> 9\)"):
            harvest(model, text, recipe, {POST: tmp_path / "acts"})
    with pytest.raises(ModelError, match="has no hook"):
        harvest(model, text, recipe, {"blocks.9.hook_resid_post": tmp_path / "x"})
    with pytest.raises(DataError, match="does not contain harvested activations; use a folder"):
        Activations(tmp_path / "nothing", 5.0, 100)


def test_the_default_folder_tells_models_texts_and_hooks_apart(model: MedBridge, text: Corpus) -> None:
    folders = {
        default_folder(model, text, POST),
        default_folder(model, text, PRE),
        default_folder(tiny_model("gemma3", seed=1), text, POST),
        default_folder(model, dataclasses.replace(text, sha256="0"), POST),
        default_folder(model, dataclasses.replace(text, train=text.train[:-1]), POST),  # more of it held out
    }
    assert len(folders) == 5


def test_the_norm_of_a_row_is_computed_in_float32(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    harvest(model, text, recipe, {POST: tmp_path / "acts"})
    shard = load_file(shard_path(tmp_path / "acts", 0))
    torch.testing.assert_close(shard["norm"], shard["activations"].float().norm(dim=-1), rtol=1e-6, atol=0)


def test_a_disk_that_is_too_small_is_told_before_the_model_runs(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = model.text_tokenizer.all_special_ids
    needed = sum(i not in special for ids in text.train for i in ids) * HIDDEN * 2
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(harvesting.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            Harvest(model, text, recipe, {POST: tmp_path / "acts"})
            continue
        with pytest.raises(ConfigError, match=r"GB are free; choose a folder on a larger disk with --activations, or"):
            Harvest(model, text, recipe, {POST: tmp_path / "acts"})


def test_a_shard_that_cannot_be_written_leaves_none(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(_: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(harvesting, "save_file", torn)
    with (
        pytest.raises(OSError, match="no space left"),
        Harvest(model, text, recipe, {POST: tmp_path / "acts"}) as running,
    ):
        running.until(1)
    assert [p.name for p in (tmp_path / "acts").iterdir()] == ["manifest.json"]


def test_all_hooks_are_waited_for(model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path) -> None:
    harvest(model, text, recipe, {POST: tmp_path / "post"})
    with Harvest(model, text, recipe, {POST: tmp_path / "post", PRE: tmp_path / "pre"}) as running:
        running.until(2)
        assert all(shard_path(tmp_path / "pre", number).is_file() for number in range(2))


# --- order


def rows_of(acts: Activations) -> list[tuple[float, ...]]:
    return [tuple(row) for n in range(len(acts.rows_per_shard)) for row in acts.shard(n).float().tolist()]


def take(batches: Iterator[torch.Tensor], n: int) -> list[torch.Tensor]:
    return list(itertools.islice(batches, n))


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    """7 shards of rows that are their own number, one row of which is a sink; three windows."""
    folder = tmp_path_factory.mktemp("acts")
    rows = [30, 31, 29, 30, 10, 50, 30]
    at = 0
    for number, n in enumerate(rows):
        x = torch.arange(at, at + n).float()[:, None].repeat(1, 2).bfloat16()  # below 256: exact in bfloat16
        norm = torch.ones(n)
        if number == 5:
            norm[7] = 5.1
        save_file({"activations": x, "norm": norm}, shard_path(folder, number))
        at += n
    (folder / "manifest.json").write_text(json.dumps({"rows": rows}))
    found = Activations(folder, 5.0, 80)
    assert found.n_windows == 3
    return found


def numbers(batches: list[torch.Tensor]) -> list[float]:
    return [row for batch in batches for row in batch[:, 0].tolist()]


def test_batches_are_a_function_of_seed_and_step(acts: Activations) -> None:
    with closing(acts.batches(8, seed=3)) as batches:
        want = take(batches, 80)
    assert all(b.shape == (8, 2) and b.dtype == torch.float32 for b in want)
    for first in (1, 10, 11, 25, 26, 60):
        with closing(acts.batches(8, seed=3, first_step=first)) as batches:
            assert all(map(torch.equal, take(batches, 4), want[first : first + 4])), first
    with closing(acts.batches(8, seed=4)) as batches:
        assert numbers(take(batches, 5)) != numbers(want[:5])


def test_pass_0_takes_windows_in_shard_order_and_every_pass_each_row_once_at_most(acts: Activations) -> None:
    # Windows are shards 0-2, 3-4 and 5-6: 90, 40 and 80 rows, one of which (187 - 50 ... row 137) is a sink.
    per_window = [90 // 8, 40 // 8, 79 // 8]
    with closing(acts.batches(8, seed=3)) as batches:
        windows = [numbers(take(batches, n)) for n in per_window]
        later = numbers(take(batches, 20))
    for found, (start, end) in zip(windows, [(0, 90), (90, 130), (130, 210)], strict=True):
        assert len(set(found)) == len(found)
        assert set(found) <= set(range(start, end)) - {137}
    assert windows[0] != sorted(windows[0])
    assert len(set(later)) == len(later)
    assert 137 not in later
    first_window = set(later[:80])
    assert not first_window <= set(range(90))  # other shards make a window in a later pass
    assert acts.summary() == {"kept": 209, "sinks": 1, "median_norm": 1.0, "sink_threshold": 5.0}


@pytest.mark.parametrize("world", [2, 3])
def test_the_parts_of_the_ranks_are_the_batch(acts: Activations, world: int) -> None:
    with closing(acts.batches(8, seed=3, first_step=9)) as batches:
        want = take(batches, 30)
    parts = []
    for rank in range(world):
        with closing(acts.batches(8, seed=3, first_step=9, rank=rank, world_size=world)) as batches:
            parts.append(take(batches, 30))
    for step, batch in enumerate(want):
        assert torch.equal(torch.cat([part[step] for part in parts]), batch)
        assert [len(part[step]) for part in parts] == [len(p) for p in np.array_split(range(8), world)]


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="what is mapped is read from Linux' /proc")
def test_the_shards_of_two_windows_are_mapped_at_most(acts: Activations) -> None:
    most = 0
    with closing(acts.batches(8, seed=3)) as batches:
        for _ in range(60):
            next(batches)
            maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
            most = max(most, len({line.split()[-1] for line in maps if str(acts.folder) in line}))
    assert 2 <= most <= 3 + 2  # the shards of two windows: that which ends and that which begins


def test_every_window_and_every_pass_has_an_order_of_its_own(tmp_path: Path) -> None:
    made = {"two": ([20, 20, 20, 20], 40), "one": ([40], 40)}
    for name, (rows, _) in made.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"rows": rows}))
        for number, n in enumerate(rows):
            x = torch.arange(number * n, (number + 1) * n).float()[:, None]
            save_file({"activations": x.bfloat16(), "norm": torch.ones(n)}, shard_path(tmp_path / name, number))
    two, one = (Activations(tmp_path / name, 5.0, buffer) for name, (_, buffer) in made.items())
    with closing(two.batches(8, seed=3)) as batches:
        first, second = numbers(take(batches, 5)), numbers(take(batches, 5))
    assert sorted(first) == sorted(row - 40 for row in second)
    assert first != [row - 40 for row in second]
    with closing(one.batches(8, seed=3)) as batches:
        passes = [tuple(numbers(take(batches, 5))) for _ in range(3)]
    assert len(set(passes)) == 3 and {tuple(sorted(rows)) for rows in passes} == {tuple(range(40))}


def test_the_windows_of_later_passes_depend_on_the_seed(acts: Activations) -> None:
    windows = {tuple(map(tuple, acts._windows(seed, 1))) for seed in range(5)}
    assert len(windows) > 1
    assert {tuple(map(tuple, acts._windows(seed, 0))) for seed in range(5)} == {((0, 1, 2), (3, 4), (5, 6))}


def test_sinks_are_those_beyond_the_first_windows_median(tmp_path: Path) -> None:
    """What the later windows hold must not matter: a run that trains while they are harvested knows the first alone."""
    (tmp_path / "manifest.json").write_text('{"rows": [20, 20]}')
    for number, norm in enumerate((1.0, 10.0)):
        x = torch.full((20, 1), float(number))
        save_file({"activations": x.bfloat16(), "norm": torch.full((20,), norm)}, shard_path(tmp_path, number))
    acts = Activations(tmp_path, 5.0, 20)
    with closing(acts.batches(4, seed=3)) as batches:
        assert set(numbers(take(batches, 30))) == {0.0}
    assert acts.summary() == {"kept": 20, "sinks": 20, "median_norm": 1.0, "sink_threshold": 5.0}


def test_no_batch_is_an_error(acts: Activations) -> None:
    with (
        closing(acts.batches(100, seed=3)) as batches,
        pytest.raises(
            ConfigError, match=r"209 activations in 3 windows do not fill a batch of 100; .*data\.buffer_tokens"
        ),
    ):
        next(batches)


def test_threads_end_with_their_generator(acts: Activations) -> None:
    before = threading.active_count()
    batches = acts.batches(8, seed=3)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


# --- harvest and training together


def test_batches_are_the_same_while_the_harvest_runs(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    with (
        Harvest(model, text, recipe, {POST: tmp_path / "a"}) as running,
        closing(running.activations[POST].batches(64, seed=1)) as batches,
    ):
        early = take(batches, 60)
    done = harvest(model, text, recipe, {POST: tmp_path / "b"})[POST]
    assert done.n_windows > 2
    with closing(done.batches(64, seed=1)) as batches:
        assert all(map(torch.equal, early, take(batches, 60)))


def test_on_a_cpu_only_what_is_asked_for_is_harvested(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    with Harvest(model, text, recipe, {POST: tmp_path / "a"}) as running:
        acts = running.activations[POST]
        with closing(acts.batches(64, seed=1)) as batches:
            next(batches)
            time.sleep(0.5)
        there = [n for n in range(running.n_shards) if shard_path(tmp_path / "a", n).is_file()]
        assert there == list(range(acts.first_window))
        assert running.state() == f"harvesting ({8 * acts.first_window} of {len(text.train)} sequences)"
    with pytest.raises(DataError, match=r"is missing \d+ of \d+ shards: its harvest was interrupted"):
        Activations(tmp_path / "a", 5.0, 1500)


def test_an_interrupted_harvest_goes_on(model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path) -> None:
    with Harvest(model, text, recipe, {POST: tmp_path / "a"}) as running:
        running.until(2)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    assert len(kept) == 3  # and the manifest
    resumed = harvest(model, text, recipe, {POST: tmp_path / "a"})[POST]
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())
    assert rows_of(resumed) == rows_of(harvest(model, text, recipe, {POST: tmp_path / "b"})[POST])


def test_what_goes_wrong_in_the_harvest_reaches_the_one_who_waits(recipe: Recipe, text: Corpus, tmp_path: Path) -> None:
    broken = tiny_model("gemma3")
    broken.blocks[1].mlp.out.original_component.weight.fill_(torch.nan)
    with Harvest(broken, text, recipe, {POST: tmp_path / "a"}) as running:
        with (
            closing(running.activations[POST].batches(8, seed=1)) as batches,
            pytest.raises(ModelError, match="not finite; load it in float32 or bfloat16"),
        ):
            next(batches)
        with pytest.raises(ModelError, match="not finite"):
            running.until(1)
    assert not shard_path(tmp_path / "a", 0).is_file()


def test_a_wait_can_be_ended(model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path) -> None:
    other = Ranks(1, 2, 1)  # the shards of rank 0 never come

    def stop() -> None:
        raise KeyboardInterrupt

    Harvest(model, text, recipe, {POST: tmp_path / "a"}, me=Ranks(0, 2, 0))  # begins the folder
    before = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        Harvest(model, text, recipe, {POST: tmp_path / "a"}, me=other) as running,
        closing(running.activations[POST].batches(8, seed=1, while_waiting=stop)) as batches,
    ):
        next(batches)
    assert threading.active_count() == before


def test_what_will_never_come_is_told(model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path) -> None:
    said = "was not harvested: the harvest has ended"
    with Harvest(model, text, recipe, {POST: tmp_path / "a"}) as running:
        running.until(running.n_shards)
        running._thread.join()
        shard_path(tmp_path / "a", 0).unlink()  # somebody tidies up
        with pytest.raises(DataError, match=said):
            running.activations[POST].shard(0)
    Harvest(model, text, recipe, {POST: tmp_path / "b"}, me=Ranks(0, 2, 0))  # begins the folder
    with Harvest(model, text, recipe, {POST: tmp_path / "b"}, me=Ranks(1, 2, 1)) as other:
        pass
    with pytest.raises(DataError, match=said):
        other.activations[POST].shard(0)  # rank 0's


def test_a_harvest_that_is_left_ends_at_the_next_batch(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvesting, "SEQUENCES_PER_SHARD", 1000)
    read, begun, go_on = ResidualReader.read, threading.Event(), threading.Event()
    n_read: list[int] = []

    def slow(self: ResidualReader, token_ids: Sequence[Sequence[int]]) -> dict[str, list[torch.Tensor]]:
        n_read.append(len(token_ids))
        begun.set()
        go_on.wait(60)
        return read(self, token_ids)

    monkeypatch.setattr(ResidualReader, "read", slow)
    small = dataclasses.replace(recipe, harvest_batch_tokens=64)
    running = Harvest(model, text, small, {POST: tmp_path / "a"})
    with running:
        waiting = threading.Thread(target=lambda: pytest.raises(DataError, running.until, 1))
        waiting.start()
        begun.wait(60)
        running._closing = True
        go_on.set()
    waiting.join()
    assert len(n_read) == 1 and sum(n_read) < len(text.train)


def test_ranks_share_the_harvest(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = harvest(model, text, recipe, {POST: tmp_path / "whole"})[POST]
    plain, read = ResidualReader.read, []

    def counted(self: ResidualReader, token_ids: Sequence[Sequence[int]]) -> dict[str, list[torch.Tensor]]:
        read.extend(map(len, token_ids))
        return plain(self, token_ids)

    monkeypatch.setattr(ResidualReader, "read", counted)
    folders = {POST: tmp_path / "shared"}
    with (
        Harvest(model, text, recipe, folders, me=Ranks(0, 2, 0)) as first,
        Harvest(model, text, recipe, folders, me=Ranks(1, 2, 1)) as second,
    ):
        waiting = threading.Thread(target=second.until, args=(second.n_shards,))
        waiting.start()
        first.until(first.n_shards)
        waiting.join()
        assert sorted(read) == sorted(map(len, text.train))  # each sequence once
        assert second.activations[POST].rows_per_shard == whole.rows_per_shard
        for number in range(first.n_shards):
            assert torch.equal(first.activations[POST].shard(number), whole.shard(number))


def test_batches_of_sequences_are_filled_by_length() -> None:
    sequences = [tuple(range(n)) for n in (3, 10, 4, 9, 1, 2, 20)]
    assert list(like_length(sequences, 20)) == [[6], [1, 3], [2, 0, 5, 4]]


def test_shards_that_are_made_together_are_the_same(
    model: MedBridge, recipe: Recipe, text: Corpus, tmp_path: Path
) -> None:
    """As on a GPU: batches of sequences of several shards, some of which are there already at one of the hooks."""
    want = harvest(model, text, recipe, {PRE: tmp_path / "pre", POST: tmp_path / "post"})
    folders = {PRE: tmp_path / "pre3", POST: tmp_path / "post3"}
    with Harvest(model, text, recipe, {POST: folders[POST]}) as running:
        running.until(2)
    together = Harvest(model, text, recipe, folders)
    together._together, together._takes_turns = 3, False
    with together:
        together.until(together.n_shards)
    for hook, acts in together.activations.items():
        for number in range(together.n_shards):
            got, exact = acts.shard(number).float(), want[hook].shard(number).float()
            torch.testing.assert_close(got, exact, rtol=0.01, atol=0.01)  # other batches: other rounding
