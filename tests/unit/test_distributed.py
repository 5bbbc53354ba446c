"""Ranks, shares and collectives of one process; files that several processes leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from sae_lens_med import distributed
from sae_lens_med.distributed import Ranks
from sae_lens_med.errors import ConfigError, DistributedError


def test_one_process_exchanges_nothing() -> None:
    before = dict(PartialState._shared_state)
    with distributed.initialised() as me, distributed.initialised() as inner:
        assert me == inner == distributed.ranks() == Ranks(0, 1, 0)
        assert not torch.distributed.is_initialized() and before == PartialState._shared_state
        x = torch.arange(6.0).reshape(3, 2)
        assert distributed.all_reduce_sum_(x) is x
        assert distributed.broadcast_(x) is x
        torch.testing.assert_close(distributed.mean_of_rows(x), torch.tensor([2.0, 3.0]))
        assert distributed.any_rank(True)
        assert not distributed.any_rank(False)
        value = {"a": [1, None]}
        assert distributed.broadcast_object(value) is value
        assert distributed.gather_objects(value) == [value]
        assert distributed.local_device("cuda:1") == "cuda:1"
        with distributed.first_before_the_others():
            distributed.barrier()
        distributed.require_others()


@pytest.mark.parametrize(
    "given_",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "1"},
    ],
)
def test_an_environment_that_is_none_is_refused(given_: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given_.items():
        monkeypatch.setenv(name, value)
    said = r"WORLD_SIZE=\w+.*start several processes with torchrun"
    with pytest.raises(ConfigError, match=said), distributed.initialised():
        pass
    assert distributed.reports_error(ConfigError("of the environment"))


def test_a_process_group_of_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", 2), ("RANK", 0), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        with pytest.raises(DistributedError, match="already has a process group"), distributed.initialised():
            pass
    finally:
        torch.distributed.destroy_process_group()


def test_rank_0_reports_an_error_or_the_next_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def who(error: ConfigError | DistributedError) -> list[int]:
        found = []
        for rank in range(3):
            for name, value in (("WORLD_SIZE", 3), ("RANK", rank), ("LOCAL_RANK", rank)):
                monkeypatch.setenv(name, str(value))
            if distributed.reports_error(error):
                found.append(rank)
        return found

    assert who(ConfigError("x")) == [0]
    assert who(DistributedError("x", (1,))) == [0]
    assert who(DistributedError("x", (0,))) == [0, 1]
    assert who(DistributedError("x", (0, 1))) == [0, 1, 2]


def test_processes_that_do_not_find_each_other_say_so(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MASTER_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "sae_lens_med", "models"],
        env=environment | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: rank 0 of 2 cannot reach the others (")
    assert "start all with torchrun" in done.stderr
    assert len(done.stderr.splitlines()) == 1
