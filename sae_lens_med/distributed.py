"""Several processes that do one job, started by torchrun or `accelerate launch`: who they are and what they exchange.

    torchrun --nproc-per-node N -m sae_lens_med train RECIPE ...
    accelerate launch --multi_gpu --num_processes N -m sae_lens_med train RECIPE ...

A launcher gives each process its `RANK`, `WORLD_SIZE` and `LOCAL_RANK` and the address where they meet. Inside
`initialised()` the collectives below join them: gloo for tensors on the CPU, NCCL for tensors on a GPU. In a single
process, and outside `initialised()`, `ranks()` is rank 0 of 1 and every collective leaves its argument as it is, so
that a caller has one path. What is exchanged are tensors and JSON, no pickles.

accelerate lies underneath. Own code is what it lacks or does otherwise: one group for CPU and GPU tensors, sums in
place (its `reduce` copies, and a gradient may be gigabytes), objects as JSON (its `gather_object` pickles), a barrier
on the CPU (its `wait_for_everyone` needs a GPU for each process where the machine has one), and the next paragraph.

**When a process ends.** Every process beats in the launcher's key-value store twice a second and leaves a word there
when it goes. A process whose collective fails, or that is told to stop, looks who stopped beating or left with an
error, and raises one `DistributedError` that says so. The process group itself would say "connection closed by peer",
or nothing for hours.

Out of scope: starting processes, restarting them, and sharding a model.
"""

import itertools
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sae_lens_med.errors import ConfigError, DistributedError, SaeLensMedError

if TYPE_CHECKING:
    import torch

CONNECT = timedelta(minutes=5)
"""How long processes wait for each other at the start."""
TIMEOUT = timedelta(hours=2)
"""How long a process waits in a collective, at the end of training for rank 0's measuring. A process that died is seen
at once; this ends what hangs."""
BEAT_SECONDS = 0.5
LOOK_SECONDS = 2.5
"""A process that does not beat for so long has ended."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of the job's processes this one is."""

    rank: int
    """0 to world_size - 1; rank 0 prints and writes."""
    world_size: int
    local_rank: int
    """Number of the process on its machine, and of its GPU."""

    @property
    def first(self) -> bool:
        return self.rank == 0


ALONE = Ranks(0, 1, 0)


def ranks() -> Ranks:
    """This process among those that `initialised()` joined; rank 0 of 1 outside it."""
    return ALONE if _job is None else _job.ranks


@contextmanager
def initialised() -> Iterator[Ranks]:
    """Join the processes that a launcher started; a no-op where there is one process, or inside another such block.

    While the block runs, SIGINT and SIGTERM raise KeyboardInterrupt, or `DistributedError` where the reason is that
    another process ended (a launcher ends all when one fails). Raises `ConfigError` for an environment that is none.
    """
    global _job
    me = _from_environment() if _job is None else _job.ranks
    if me.world_size == 1:
        yield me
        return
    if _job is not None:
        with _job.blaming_others():
            yield me
        return
    job = _job = _Job(me)
    words = ""
    try:
        with job.signals(), job.blaming_others():
            yield me
    except (DistributedError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        words = str(error) if isinstance(error, SaeLensMedError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        _job = None
        job.close(words)


def reports_error(error: SaeLensMedError) -> bool:
    """Whether this process is the one to tell the user about `error`: rank 0, or the next one where rank 0 ended."""
    try:
        me = _from_environment()
    except ConfigError:  # this is the error
        return True
    ended = error.ended if isinstance(error, DistributedError) else ()
    return all(lower in ended for lower in range(me.rank))


def local_device(device: str) -> str:
    """`cuda` as the GPU of this process (`cuda:LOCAL_RANK`) where there are several processes; else `device` itself.

    Raises `ConfigError` when this machine has fewer GPUs than processes, or when one GPU is named for all.
    """
    import torch

    me = ranks()
    if me.world_size == 1 or not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise ConfigError(
            f"{me.world_size} processes cannot share {device}; use the device cuda, so that each takes its own GPU."
        )
    if me.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {me.rank} cannot find GPU {me.local_rank}: {socket.gethostname()} has {torch.cuda.device_count()}; "
            "start as many processes per machine as it has GPUs (--nproc-per-node), or use the device cpu."
        )
    torch.cuda.set_device(me.local_rank)
    return f"cuda:{me.local_rank}"


def require_others() -> None:
    """Raise `DistributedError` when another process has ended: for callers that wait without a collective. Slow."""
    if _job is not None and (ended := _job.ended()):
        raise _job.naming(ended)


def all_reduce_sum_(tensor: "torch.Tensor") -> "torch.Tensor":
    """Sum over the processes, in place and returned; every process gets the same bits."""
    if _job is not None:
        import torch.distributed as dist

        _job.do(lambda: dist.all_reduce(tensor))
    return tensor


def broadcast_(tensor: "torch.Tensor") -> "torch.Tensor":
    """Rank 0's values for all, in place and returned."""
    if _job is not None:
        from accelerate.utils import broadcast

        _job.do(lambda: broadcast(tensor))
    return tensor


def mean_of_rows(x: "torch.Tensor") -> "torch.Tensor":
    """Mean `[d]` over the rows that all processes hold, for this process's rows `x` `[n, d]`, n >= 1."""
    if _job is None:
        return x.mean(0)
    total = all_reduce_sum_(x.sum(0))
    return total / all_reduce_sum_(x.new_tensor(float(len(x))).float())


def any_rank(flag: bool) -> bool:
    """Whether `flag` holds in any process."""
    if _job is None:
        return flag
    import torch

    return bool(all_reduce_sum_(torch.tensor(int(flag))))


def barrier() -> None:
    """Wait until every process is here."""
    any_rank(False)


def broadcast_object(value: Any = None) -> Any:
    """Rank 0's JSON value, for all; what the others give is not looked at."""
    if _job is None:
        return value
    return _from_bytes(broadcast_(_as_bytes(value if _job.ranks.first else None, _job)))


def gather_objects(value: Any) -> list[Any]:
    """Every process's JSON value, in the order of ranks, for all."""
    if _job is None:
        return [value]
    from accelerate.utils import gather

    own = _as_bytes(value, _job)
    return [_from_bytes(row) for row in _job.do(lambda: gather(own[None]))]


@contextmanager
def first_before_the_others(*, of_machine: bool = False) -> Iterator[None]:
    """Rank 0 runs the block before the others do, who then find what it wrote; or the first of each machine does, for
    a cache that is the machine's."""
    me = ranks()
    is_first = me.local_rank == 0 if of_machine else me.first
    if not is_first:
        barrier()
    yield
    if is_first:
        barrier()


class _Job:
    """The processes of a job, from one of them."""

    def __init__(self, me: Ranks) -> None:
        import torch
        import torch.distributed as dist
        from accelerate import PartialState
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        if dist.is_initialized():
            raise DistributedError(
                "this process already has a process group; enter sae_lens_med.distributed.initialised() before "
                "anything else creates one."
            )
        self.ranks = me
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", timeout=CONNECT))
            # A prefix for each block: under the same one lie the addresses and the words of the one before.
            self.store = PrefixStore(f"sae_lens_med/{next(_number)}", store)
            dist.init_process_group(backend, store=self.store, rank=me.rank, world_size=me.world_size, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise DistributedError(
                f"rank {me.rank} of {me.world_size} cannot reach the others ({_first_line(error)}); start all with "
                "torchrun, with one --rdzv-endpoint for all machines."
            ) from error
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else accelerate sets another number
        PartialState(cpu=True, backend="gloo")  # takes the group that there is; `cpu` leaves the GPU to `local_device`
        self._told_to_stop = False
        self._gone = threading.Event()
        self._beat_thread = threading.Thread(target=self._beat, daemon=True)
        self._beat_thread.start()

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the launcher that holds the store has ended
            while not self._gone.wait(BEAT_SECONDS):
                self.store.add(f"beat/{self.ranks.rank}", 1)

    def do(self, collective: Callable[[], Any]) -> Any:
        """What a collective gives; raise `DistributedError` when it fails."""
        try:
            return collective()
        except RuntimeError as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> DistributedError:
        """What to tell the user after a collective failed with `error`."""
        ended = self.ended()
        if ended:
            return self.naming(ended)
        return DistributedError(
            f"rank {self.ranks.rank} of {self.ranks.world_size} lost its connection to the others "
            f"({_first_line(error)}); {_GO_ON}"
        )

    @contextmanager
    def blaming_others(self) -> Iterator[None]:
        """Turn a KeyboardInterrupt into `DistributedError` when the launcher's reason was that a process ended."""
        try:
            yield
        except KeyboardInterrupt:
            self._told_to_stop = True
            if ended := self.ended():
                raise self.naming(ended) from None
            raise

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM raise KeyboardInterrupt, once: what follows has seconds to end in order."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
            yield
            return

        def stop(number: int, frame: Any) -> None:
            del number, frame
            if not self._told_to_stop:
                self._told_to_stop = True
                raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self, words: str) -> None:
        """Leave the job. `words` is the error that this process ends with, or an empty string."""
        import torch.distributed as dist
        from accelerate import PartialState

        self._gone.set()
        self._beat_thread.join()
        with suppress(RuntimeError):  # where the launcher that holds the store has ended, nobody will read it
            self.store.set(f"left/{self.ranks.rank}", words)
        dist.destroy_process_group()
        PartialState._reset_state()  # it outlives the group, and the next job has another one

    def ended(self) -> dict[int, str]:
        """The ranks that ended without being asked to, each with the error it left, or an empty string."""
        self._told_to_stop = True
        others = [rank for rank in range(self.ranks.world_size) if rank != self.ranks.rank]
        found: dict[int, str] = {}
        try:
            before = {rank: self.store.add(f"beat/{rank}", 0) for rank in others}
            threading.Event().wait(LOOK_SECONDS)
            for rank in others:
                if self.store.check([f"left/{rank}"]):
                    if words := self.store.get(f"left/{rank}").decode():
                        found[rank] = words
                elif self.store.add(f"beat/{rank}", 0) == before[rank]:
                    found[rank] = ""
        except RuntimeError:  # the store is gone: nothing can be known
            return {}
        return found

    def naming(self, ended: dict[int, str]) -> DistributedError:
        """What to tell the user about the ranks that `ended` found, at least one."""
        rank = min(ended)
        which = f"rank {rank}" if len(ended) == 1 else f"ranks {', '.join(map(str, sorted(ended)))}"
        why = f" ({ended[rank]})" if ended[rank] else " without a word (killed, out of memory, or its machine failed)"
        return DistributedError(f"{which} of {self.ranks.world_size} ended{why}; {_GO_ON}", tuple(ended))


_GO_ON = "start the same command again (train: with --resume) to continue from what is on disk."

_job: _Job | None = None
_number = itertools.count()


def _from_environment() -> Ranks:
    """What the launcher says. Raises `ConfigError` for values that do not fit together."""
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if given["WORLD_SIZE"] in (None, "1"):
        return ALONE
    try:
        rank, world_size, local_rank = (int(value or "") for value in given.values())
    except ValueError:
        rank, world_size, local_rank = -1, 0, -1
    if not (0 <= rank < world_size and local_rank >= 0):
        text = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ConfigError(
            f"the environment says {text}, which are not valid ranks; start several processes with torchrun."
        )
    return Ranks(rank, world_size, local_rank)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _as_bytes(value: Any, job: _Job) -> "torch.Tensor":
    """JSON as bytes `[n]`, as many in every process: blanks at the end say nothing."""
    import torch
    from accelerate.utils import pad_across_processes

    data = torch.frombuffer(
        bytearray(json.dumps(value, ensure_ascii=False, allow_nan=False), "utf-8"), dtype=torch.uint8
    )
    return job.do(lambda: pad_across_processes(data, pad_index=ord(" ")))


def _from_bytes(data: "torch.Tensor") -> Any:
    return json.loads(data.numpy().tobytes())
