"""What the benchmarks have in common: arguments, the machine, the versions, statistics over rounds, tables, JSON.

Only the standard library is imported: the process that hands out the turns stays small and starts no threads.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

PACKAGES = (
    "sae-lens-med",
    "sae-lens",
    "transformer-lens",
    "transformers",
    "torch",
    "triton",
    "lm-eval",
    "numba",
    "numpy",
    "eai-sparsify",
    "dictionary-learning",
)

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "asimd", "sve", "bf16")
"""Those that decide how fast a float32 or bfloat16 product is."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY")


class Compared(Protocol):
    """A row of a table: one of the things that are compared."""

    @property
    def label(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def default(self) -> bool:
        """Whether it runs where none are named."""
        ...


def parser(description: str | None, kind: str, known: Mapping[str, Compared]) -> argparse.ArgumentParser:
    """The arguments that every benchmark has; `kind` is what it compares, in the plural, and their option's name."""
    width = max(map(len, known)) + 2
    listed = "\n".join(
        f"  {name:{width}}{c.label}: {c.note}{'' if c.default else ' (not by default)'}" for name, c in known.items()
    )
    made = argparse.ArgumentParser(
        description=description, epilog=f"{kind}:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--batch", type=int, default=4096, help="tokens in a step (4096)")
    add(f"--{kind}", help="names, with commas; `all`; without it, those that are not marked below")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--threads", type=int, default=usable_cores(), help="of each process on the CPU (all usable cores)")
    add("--json", type=Path, metavar="FILE", help="write the whole result there, after each size")
    return made


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them, as an argument's type."""
    return [int(value) for value in text.split(",")]


def chosen(made: argparse.ArgumentParser, kind: str, known: Mapping[str, Compared], given: str | None) -> list[str]:
    """The names that `given` stands for; an unknown one ends the program with a message."""
    if given is None:
        return [name for name, compared in known.items() if compared.default]
    names = list(known) if given == "all" else given.split(",")
    for name in names:
        if name not in known:
            made.error(f"--{kind}: there is no {name!r}; there are {', '.join(known)}")
    return names


def hardware(device: str) -> dict[str, Any]:
    """The machine: processor, what it can do, memory, and the accelerator when `device` is one."""
    info = _cpuinfo()
    found: dict[str, Any] = {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in info.get("flags", "").split()],
        "memory_gb": round(_memory("MemTotal") / 1e6, 1),
        "system": platform.platform(),
    }
    if device.startswith("cuda"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        try:
            found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            found["gpu"] = "unknown (nvidia-smi does not answer)"
    return found


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_gb() -> float:
    """Memory that can be taken now, in GB; infinite where the system does not say."""
    return _memory("MemAvailable") / 1e6 or float("inf")


def busy_share(seconds: float = 1.0) -> float | None:
    """The share of all cores' time that is in use while this process sleeps; None where the system does not say."""

    def sample() -> tuple[int, int] | None:
        try:
            fields = [int(v) for v in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
        except OSError:
            return None
        return sum(fields), fields[3] + fields[4]

    before = sample()
    time.sleep(seconds)
    after = sample()
    if before is None or after is None or after[0] == before[0]:
        return None
    return 1 - (after[1] - before[1]) / (after[0] - before[0])


def versions() -> dict[str, str]:
    """Python and those of `PACKAGES` that are installed where this runs."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def begin(benchmark: str, options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """The first part of a result file; the machine and the versions are said, and whether the machine is free."""
    result = _heading(benchmark, options.device, settings)
    busy = busy_share()
    result["others_used_of_cpu_before"] = busy
    if busy is not None and busy > 0.1:
        tell(f"Other programs use {busy:.0%} of the processor: the times will not be worth much.")
    machine = result["hardware"]
    say(f"{machine['cpu']}, {options.threads} threads, {machine['memory_gb']} GB"
        f"{', ' + machine['gpu'] if 'gpu' in machine else ''}; torch {result['versions'].get('torch')}")  # fmt: skip
    result["sizes"] = []
    return result


def _heading(benchmark: str, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "format": 1,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *map(_short, sys.argv)]),
        "hardware": hardware(device),
        "versions": versions(),
        "environment": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
        "settings": settings,
    }


def _short(argument: str) -> str:
    """Absolute paths say where one user keeps things: only their last part is written down."""
    return f".../{Path(argument).name}" if argument.startswith("/") else argument


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range of some values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(value: dict[str, float] | None) -> str:
    """A `summary` of ratios as a table's cell; empty where there is none."""
    return f"{value['median']:.2f} ({value['min']:.2f}-{value['max']:.2f})" if value else ""


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write JSON at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    body = [list(header), *[list(row) for row in rows]]
    width = [max(len(row[i]) for row in body) for i in range(len(header))]
    rule = ["-" * width[0], *["-" * (w - 1) + ":" for w in width[1:]]]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, width, strict=True))]
             for row in [body[0], rule, *body[1:]]]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def say(text: str = "") -> None:
    """A line of the result, on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """A line about the progress, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def _memory(name: str) -> float:
    """A value of /proc/meminfo in kB; 0 where there is none."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0.0)
