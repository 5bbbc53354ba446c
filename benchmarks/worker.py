"""One contender of `train_step.py` in its own process: does as it is told, one line of JSON at a time.

    standard input   {"do": "prepare", "data": PATH, "l0": 64, "warm_up": 1}, {"do": "steps", "n": 1}, {"do": "release"}
    file descriptor  what the method of that name returns, or {"error": "..", "kind": "unavailable" | "failed"}

It waits on its input between turns, and so does not use the processor.
"""

import argparse
import gc
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import reporting
from contenders import CONTENDERS, Built, Unavailable, Work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--reply-fd", type=int, required=True)
    arguments = parser.parse_args()
    with os.fdopen(arguments.reply_fd, "w", encoding="utf-8") as replies:

        def reply(message: dict[str, Any]) -> None:
            replies.write(json.dumps(message) + "\n")
            replies.flush()

        turns = Turns(arguments.contender, arguments.device, arguments.threads)
        for line in sys.stdin:
            message = json.loads(line)
            try:
                reply(getattr(turns, message.pop("do"))(**message))
            except Unavailable as error:
                reply({"kind": "unavailable", "error": str(error)})
            except Exception as error:  # noqa: BLE001 - whatever a contender raises is its result
                traceback.print_exc()
                first = (str(error).strip() or "no message").splitlines()[0].split(". ")[0]
                reply({"kind": "failed", "error": f"{type(error).__name__}: {first}"[:200]})


class Turns:
    """What the process can be told to do."""

    def __init__(self, contender: str, device: str, threads: int) -> None:
        self.contender = CONTENDERS[contender]
        self.device, self.threads = device, threads
        self.work: Work | None = None
        """Held until the release, so that what is in memory before the contender stays the same."""
        self.built: Built | None = None
        self.memory_before = 0.0

    def prepare(self, data: str, l0: int, warm_up: int) -> dict[str, Any]:
        """Build the contender for a workload and run the steps that do not count."""
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        self.contender.load(self.device)
        self.work = Work(**load_file(data, device=self.device), l0=l0, device=self.device)
        self.memory_before = self._reset_memory()
        self.built = self.contender.build(self.work)
        result = None
        for _ in range(warm_up + self.built.warm_up):
            result = self.built.step()
        measured = self.built.l0(result)
        return {"l0": measured, "versions": reporting.versions()}

    def steps(self, n: int) -> dict[str, Any]:
        """Seconds of one step, the mean of n; and the memory up to now."""
        assert self.built is not None
        self._wait()
        start = time.perf_counter()
        for _ in range(n):
            self.built.step()
        self._wait()
        seconds = (time.perf_counter() - start) / n
        return {"seconds": seconds, **self._memory()}

    def release(self) -> dict[str, Any]:
        """Give the memory back."""
        self.built = self.work = None
        gc.collect()
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        return {}

    def _wait(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()

    def _reset_memory(self) -> float:
        """Begin a new peak; returns what is in use now, in GB."""
        if self.device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 1e9
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return 0.0
        return _status("VmRSS") or 0.0

    def _memory(self) -> dict[str, Any]:
        """Peak since `prepare` began: of the process on a CPU, of the allocated tensors on a GPU."""
        if self.device != "cpu":
            import torch

            peak = torch.cuda.max_memory_allocated() / 1e9
        else:
            peak = _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return {"peak_gb": peak, "peak_above_start_gb": peak - self.memory_before if self.memory_before else None}


def _status(name: str) -> float | None:
    """A value of /proc/self/status in GB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    main()
