"""Time and memory of one training step: tied_l1 beside SAELens, eai-sparsify and dictionary_learning, in one run.

Each contender lives in a process of its own. In every round each takes one turn, in an order that changes from round to
round, and never two at once: times drift from minute to minute, so only what stands side by side in a round is
compared. Ratios are made within a round; their median and range over the rounds are reported.

The result goes to standard output as a Markdown table for each size and, with --json, to a file that also holds every
single time, the hardware, the versions and the command.

    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --peer-python peers/bin/python --json train_step.json
    python benchmarks/train_step.py --d-sae 20480 --l0 64 --rounds 7 --contenders tied,saelens-standard,fp32-product
    python benchmarks/train_step.py --device cuda --json train_step_cuda.json

benchmarks/README.md says how to install the peers and how long it takes.
"""

import argparse
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import reporting
from contenders import CONTENDERS, HOW_TO_INSTALL
from reporting import say, tell

HERE = Path(__file__).parent
TURN_SECONDS = 1200.0
"""A turn that takes longer has failed; compiling is the longest."""
RUNTIME_GB = 0.6
"""What a process with torch and SAELens takes by itself."""


class WorkerEnded(Exception):
    """A worker that gave no answer; the message says what is known."""


class Worker:
    """A contender's process."""

    def __init__(self, contender: str, python: str, device: str, threads: int, log: TextIO) -> None:
        reply, theirs = os.pipe()
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "NUMBA_NUM_THREADS": str(threads),
            "WANDB_MODE": "disabled",
        }
        command = [python, str(HERE / "worker.py"), contender, "--device", device, "--threads", str(threads)]
        self.log = log
        self.process = subprocess.Popen(
            [*command, "--reply-fd", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            pass_fds=[theirs],
            env=environment,
        )
        os.close(theirs)
        self.replies, self.pending = reply, b""

    def ask(self, do: str, **message: Any) -> dict[str, Any]:
        """Give an order and wait for its answer. Raises `WorkerEnded`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **message}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerEnded(self._how_it_ended()) from None
        deadline = time.monotonic() + TURN_SECONDS
        while b"\n" not in self.pending:
            ready, _, _ = select.select([self.replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.end()
                raise WorkerEnded(f"no answer within {TURN_SECONDS:.0f} s")
            received = os.read(self.replies, 65536)
            if not received:
                raise WorkerEnded(self._how_it_ended())
            self.pending += received
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        if code == -9:
            return "the process was killed; most often there was too little memory"
        self.log.flush()
        lines = Path(self.log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"the process ended with code {code}: {lines[-1][:200] if lines else 'it said nothing'}"

    def end(self) -> None:
        """End the process, and wait for it."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Entry:
    """What is known of a contender in one size."""

    name: str
    status: str = "ok"
    reason: str = ""
    seconds: dict[int, float] = field(default_factory=dict)
    """By round."""
    l0: float | None = None
    peak_gb: float | None = None
    peak_above_start_gb: float | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        return self.status == "ok" and bool(self.seconds)

    def fails(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason


class Run:
    """One call of the benchmark."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.workers: dict[str, Worker] = {}
        self.given_up: dict[str, tuple[str, str]] = {}
        """Contenders that cannot run in any size, and why."""

    def size(self, d_sae: int, l0: int) -> list[Entry]:
        """All rounds of one size."""
        options = self.options
        data = self.folder / "workload.safetensors"
        workload = {
            "batch": options.batch, "d_in": options.d_in, "d_sae": d_sae, "l0": l0, "device": options.device,
            "activations": options.activations,
        }  # fmt: skip
        subprocess.run(
            [sys.executable, str(HERE / "workload.py"), str(data), json.dumps(workload)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
        )
        entries = [Entry(name) for name in options.contenders]
        for entry in entries:
            if entry.name in self.given_up:
                entry.fails(*self.given_up[entry.name])
        keep = self._keep(d_sae)
        prepare = {"data": str(data), "l0": l0, "warm_up": options.warm_up}
        for number in range(options.rounds):
            order = [e for e in entries if e.status == "ok"]
            random.Random(number).shuffle(order)
            for entry in order:
                self._turn(entry, number, prepare, keep)
            tell(f"d_sae {d_sae}, L0 {l0}: round {number + 1} of {options.rounds} done")
        if keep:
            for entry in entries:
                if entry.status == "ok":
                    self._ask(entry, "release")
        data.unlink()
        return entries

    def _keep(self, d_sae: int) -> bool:
        """Whether all contenders' weights and optimiser states stay in memory between their turns."""
        options = self.options
        if options.keep != "auto":
            return options.keep == "yes"
        if options.device != "cpu":
            return False
        weights, one_step = 6 * 4e-9 * d_sae * options.d_in, 12 * 4e-9 * options.batch * d_sae
        return len(options.contenders) * (RUNTIME_GB + weights) + one_step < 0.8 * reporting.available_gb()

    def _turn(self, entry: Entry, number: int, prepare: dict[str, Any], keep: bool) -> None:
        if number == 0 or not keep:
            answer = self._ask(entry, "prepare", **prepare)
            if answer is None:
                return
            entry.l0, entry.versions = answer["l0"], answer["versions"]
        time.sleep(0.05)  # threads that spin for a moment after their last turn are asleep by then
        answer = self._ask(entry, "steps", n=self.options.steps_per_turn)
        if answer is None:
            return
        entry.seconds[number] = answer["seconds"]
        entry.peak_gb = max(entry.peak_gb or 0.0, answer["peak_gb"])
        if answer["peak_above_start_gb"] is not None:
            entry.peak_above_start_gb = max(entry.peak_above_start_gb or 0.0, answer["peak_above_start_gb"])
        if not keep:
            self._ask(entry, "release")

    def _ask(self, entry: Entry, do: str, **message: Any) -> dict[str, Any] | None:
        """A contender's answer; None when it failed, which `entry` then tells."""
        worker = self.workers.get(entry.name) or self._start(entry.name)
        try:
            answer = worker.ask(do, **message)
        except WorkerEnded as error:
            answer = {"kind": "failed", "error": str(error)}
        if "error" not in answer:
            return answer
        library = CONTENDERS[entry.name].library
        if answer["error"] == "not installed":
            self.given_up[entry.name] = ("not installed", HOW_TO_INSTALL[library])
            entry.fails(*self.given_up[entry.name])
        elif answer["kind"] == "unavailable":
            self.given_up[entry.name] = ("not available", answer["error"])
            entry.fails(*self.given_up[entry.name])
        else:
            entry.fails("failed", answer["error"])
            tell(f"{entry.name} failed: {answer['error']}")
        self.workers.pop(entry.name).end()
        return None

    def _start(self, name: str) -> Worker:
        options = self.options
        python = options.peer_python if CONTENDERS[name].library in HOW_TO_INSTALL else None
        log = (self.folder / f"{name}.log").open("a", encoding="utf-8")
        worker = Worker(name, python or sys.executable, options.device, options.threads, log)
        self.workers[name] = worker
        return worker

    def end(self) -> None:
        """End every worker."""
        for worker in self.workers.values():
            worker.end()


REFERENCES = ("saelens-standard", "saelens-standard-bf16-compiled", "fp32-product", "bf16-product")
"""What every contender is compared with in the result file, beside the faster eai-sparsify."""
COLUMNS = {
    "cpu": {"x SAELens std": "saelens-standard", "x eai-sparsify": "eai-sparsify", "/ fp32 product": "fp32-product"},
    "cuda": {
        "x SAELens bf16 compiled": "saelens-standard-bf16-compiled",
        "x eai-sparsify": "eai-sparsify",
        "/ bf16 product": "bf16-product",
    },
}
"""What the tables show: x is how many times faster, / how many times as long."""


# --- the result -----------------------------------------------------------------------------------------------------


def fastest_peer(entries: list[Entry]) -> str | None:
    """The faster of the two eai-sparsify contenders."""
    found = [e for e in entries if e.measured and CONTENDERS[e.name].library == "eai-sparsify"]
    return min(found, key=lambda e: statistics.median(e.seconds.values())).name if found else None


def speedup(of: Entry, over: Entry) -> dict[str, float] | None:
    """How many times faster `of` is than `over`, round by round; None where they share no round."""
    rounds = sorted(set(of.seconds) & set(over.seconds))
    return reporting.summary([over.seconds[r] / of.seconds[r] for r in rounds]) if rounds else None


def to_json(entries: list[Entry], d_sae: int, l0: int) -> dict[str, Any]:
    """One size of the result file."""
    by_name = {e.name: e for e in entries if e.measured}
    references: dict[str, str | None] = {name: name for name in REFERENCES}
    references["eai-sparsify"] = fastest_peer(entries)
    contenders: dict[str, Any] = {}
    for entry in entries:
        contender = CONTENDERS[entry.name]
        found: dict[str, Any] = {"label": contender.label, "library": contender.library, "what": contender.note}
        found |= {"status": entry.status, "reason": entry.reason}
        if entry.measured:
            found |= {
                "seconds": [entry.seconds[r] for r in sorted(entry.seconds)],
                **reporting.summary(list(entry.seconds.values())),
                "speedup_over": {
                    name: speedup(entry, by_name[other])
                    for name, other in references.items()
                    if other in by_name and other is not None
                },
                "peak_gb": entry.peak_gb,
                "peak_above_start_gb": entry.peak_above_start_gb,
                "l0": entry.l0,
                "versions": entry.versions,
            }
        contenders[entry.name] = found
    return {"d_sae": d_sae, "l0": l0, "eai_sparsify_is": references["eai-sparsify"], "contenders": contenders}


def table(size: dict[str, Any], device: str) -> str:
    """One size as a Markdown table."""
    memory = "peak GB" if device == "cpu" else "peak GB (GPU)"
    columns = COLUMNS["cpu" if device == "cpu" else "cuda"]
    header = ["step", "min s", "median s", *columns, memory, "L0"]
    rows, left_out = [], []
    for found in size["contenders"].values():
        if "median" not in found:
            left_out.append(f"- {found['label']}: {found['status']}. {found['reason']}")
            continue
        over = found["speedup_over"]
        memory_gb = found["peak_above_start_gb"] if found["peak_above_start_gb"] is not None else found["peak_gb"]
        rows.append(
            [
                found["label"],
                f"{found['min']:.4g}",
                f"{found['median']:.4g}",
                *(
                    reporting.ratio(over.get(of) if title[0] == "x" else _inverse(over.get(of)))
                    for title, of in columns.items()
                ),
                f"{memory_gb:.2f}",
                "" if found["l0"] is None else f"{found['l0']:.1f}",
            ]
        )
    return "\n".join([reporting.markdown(header, rows), *(["", *left_out] if left_out else [])])


def _inverse(value: dict[str, float] | None) -> dict[str, float] | None:
    return {"median": 1 / value["median"], "min": 1 / value["max"], "max": 1 / value["min"]} if value else None


# --- the command ----------------------------------------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = reporting.parser(__doc__, "contenders", CONTENDERS)
    add = parser.add_argument
    add(
        "--d-sae",
        type=reporting.numbers,
        help="dictionary sizes, with commas (cpu: 5120,20480,40960; cuda: 65536,131072)",
    )
    add("--l0", type=reporting.numbers, help="active features a token, with commas (cpu: 16,64,256; cuda: 64)")
    add("--d-in", type=int, help="width of the activations (cpu: 640; cuda: 4096)")
    add("--rounds", type=int, default=5, help="turns of every contender in each size (5)")
    add("--steps-per-turn", type=int, help="steps that a time is the mean of (cpu: 1; cuda: 10)")
    add("--warm-up", type=int, default=1, help="steps before the first that counts, beside what one needs itself (1)")
    add("--activations", metavar="FOLDER", help="harvested activations (`sae-lens-med train --activations`) as x")
    add("--keep", choices=["auto", "yes", "no"], default="auto",
        help="keep every contender's weights in memory between its turns; `no` builds and warms up each time, which "
        "takes twice as long; `auto` decides by the memory that is free")  # fmt: skip
    add("--peer-python", metavar="PATH", help="the Python of the venv that holds eai-sparsify and dictionary-learning")
    add("--quick", action="store_true", help="one small size, two rounds: shows that everything runs, measures nothing")
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    if options.quick:
        options.d_in, options.batch, options.rounds = options.d_in or 64, min(options.batch, 512), 2
        options.d_sae, options.l0 = options.d_sae or [1024], options.l0 or [16]
    options.d_sae = options.d_sae or ([65536, 131072] if on_gpu else [5120, 20480, 40960])
    options.l0 = options.l0 or ([64] if on_gpu else [16, 64, 256])
    options.d_in = options.d_in or (4096 if on_gpu else 640)
    options.steps_per_turn = options.steps_per_turn or (10 if on_gpu else 1)
    options.contenders = reporting.chosen(parser, "contenders", CONTENDERS, options.contenders)
    if options.peer_python is not None and not Path(options.peer_python).is_file():
        parser.error(f"--peer-python: {options.peer_python} does not exist; give the path of a venv's bin/python")
    if min(*options.l0, options.rounds, options.batch, options.d_in, options.threads, options.steps_per_turn) < 1:
        parser.error("sizes, rounds, steps and threads are at least 1")
    if max(options.l0) > min(options.d_sae) // 4:
        parser.error("L0 is at most a quarter of d_sae here: the densest features fire on half of the tokens")
    return options


def main() -> None:
    options = _arguments()
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "peer_python", "activations")}
    settings["x"] = "synthetic" if options.activations is None else "harvested activations"
    result = reporting.begin("train_step", options, settings)
    with tempfile.TemporaryDirectory(prefix="train_step_") as folder:
        run = Run(options, Path(folder))
        try:
            for d_sae in options.d_sae:
                for l0 in options.l0:
                    entries = run.size(d_sae, l0)
                    size = to_json(entries, d_sae, l0)
                    result["sizes"].append(size)
                    say(f"\nd_in {options.d_in}, d_sae {d_sae}, L0 {l0}, batch {options.batch}, {options.device}\n")
                    say(table(size, options.device))
                    if options.json:
                        reporting.write_result(options.json, result)
        finally:
            run.end()
    say("\nx: times faster than, / : times as long as; median (range) over the rounds, each ratio within one round.")
    if options.json:
        tell(f"written: {options.json}")


if __name__ == "__main__":
    main()
