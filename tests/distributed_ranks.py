"""The jobs of `test_distributed.py` that need no model: `torchrun ... -m tests.distributed_ranks FOLDER JOB`.

They stand apart from `distributed_job` because each process would take seconds to import SAELens for nothing.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_lens_med import distributed


@contextmanager
def noted(folder: Path, name: str) -> Iterator[None]:
    """Write down the error that the block ends with, as `[type, message]` in `FOLDER/NAME.rankR.json`, and go on."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        path = folder / f"{name}.rank{os.environ['RANK']}.json"
        path.write_text(json.dumps([type(error).__name__, str(error)]), encoding="utf-8")


def left_alone(folder: Path) -> None:
    """Rank 1 dies while rank 0 exchanges nothing, and is told to stop by the launcher."""
    with noted(folder, "left-alone"), distributed.initialised() as me:
        if not me.first:
            os._exit(3)
        time.sleep(120)


def ranks(folder: Path) -> None:
    """Two jobs after each other: who the processes are, and what rank 0 says to all, in objects of unequal size."""
    with distributed.initialised() as me:
        found: list[Any] = [distributed.gather_objects([me.rank, me.world_size, me.local_rank])]
    with distributed.initialised() as me:
        said = distributed.broadcast_object(["환자", "x" * 100] if me.first else None)
        found.append(distributed.gather_objects(said))
    if me.first:
        (folder / "ranks.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    assert not distributed.ranks().rank
    {"left-alone": left_alone, "ranks": ranks}[sys.argv[2]](Path(sys.argv[1]))
