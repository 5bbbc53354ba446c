"""What a knowledge map costs: seconds, CPU seconds and peak memory of each method, in a process of its own.

    python benchmarks/maps.py --json maps.json
    python benchmarks/maps.py --model smollm2-135m --methods lesion,patching --random-models 1

Each method of `sae-lens-med map layers` makes its map of the whole packaged lists or statements, both languages, in a
folder of its own, which is thrown away. Beside the whole stand what opening the model alone takes, and, from the
manifest, the seconds of the parts: the model, the plain frames, the models with permuted weights. What is left is
opening the model twice, permuting its weights, tokenising, and the nulls.

The bound is of all methods together: `LIMIT_SECONDS` on two cores.
"""

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import reporting
from reporting import say, tell

METHODS = ("geometry", "saliency", "lesion", "patching")
LIMIT_SECONDS = 600
"""For gemma-3-270m, both languages, every method, on two cores."""


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    settings = {name: getattr(options, name) for name in ("model", "permutations", "random_models", "pairs", "dtype")}
    result = reporting.begin("maps", options, settings)
    result["sizes"] = [in_process(options, "opening")]
    for method in options.methods.split(","):
        tell(method)
        result["sizes"].append(in_process(options, method))
        if options.json:
            reporting.write_result(options.json, result)
    show(result)
    if options.json:
        reporting.write_result(options.json, result)
        say(f"\n{options.json}")


def arguments() -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--model", "-m", default="gemma-3-270m", help="as `sae-lens-med map layers` takes it (gemma-3-270m)")
    add("--methods", default=",".join(METHODS), help="with commas (all)")
    add("--permutations", type=int, default=1000, help="draws of each null (1000)")
    add("--random-models", type=int, default=3, help="models with permuted weights (3)")
    add("--pairs", type=int, default=8, help="most pairs of a domain, language and frame (8)")
    add("--dtype", default="float32", help="of the weights (float32)")
    add("--threads", type=int, default=reporting.usable_cores(), help="of each process (all usable cores)")
    add("--json", type=Path, metavar="FILE", help="write the whole result there, after each method")
    made.set_defaults(device="cpu")
    return made.parse_args()


def in_process(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """One method, or opening the model alone."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(send, options, method))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise SystemExit(f"{method} ended without a result; see above.") from None
    finally:
        process.join()


def measured(send: Any, options: argparse.Namespace, method: str) -> None:
    """In the process of its own."""
    from sae_lens_med.knowledge_map import MapSettings, make_map, packaged_lists
    from sae_lens_med.models.bridge import load_model

    start = time.perf_counter(), time.process_time()
    parts: dict[str, float] = {}
    if method == "opening":
        load_model(options.model, dtype=options.dtype)
    else:
        settings = MapSettings(
            permutations=options.permutations,
            random_models=options.random_models,
            pairs=options.pairs,
            methods=(method,),
        )
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "map"
            make_map(lambda: load_model(options.model, dtype=options.dtype), packaged_lists(), output, settings)
            for name, about in json.loads((output / "manifest.json").read_text())["parts"].items():
                which = re.sub(
                    r"^.*-(medical-model|model|plain-model|plain|(plain-|medical-)?random-\d+)$", r"\1", name
                )
                which = "random models" if "random" in which else "plain" if "plain" in which else "model"
                parts[which] = round(parts.get(which, 0.0) + about["seconds"], 2)
    send.send(
        {
            "stage": method,
            "seconds": round(time.perf_counter() - start[0], 2),
            "cpu_seconds": round(time.process_time() - start[1], 2),
            "peak_gb": round(peak_gb(), 3),
            "parts": parts,
        }
    )


def peak_gb() -> float:
    """Most memory that this process held, in GB. Not `ru_maxrss`, which a process inherits from its parent."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) / 1e6 if found else float("nan")


def show(result: dict[str, Any]) -> None:
    """The table."""
    whole = [each for each in result["sizes"] if each["stage"] != "opening"]
    total = {
        "stage": "together",
        "seconds": sum(each["seconds"] for each in whole),
        "cpu_seconds": sum(each["cpu_seconds"] for each in whole),
        "peak_gb": max((each["peak_gb"] for each in whole), default=0.0),
        "parts": {},
    }
    result |= {"total": total, "limit_seconds": LIMIT_SECONDS}
    names = ("model", "plain", "random models")
    rows = [
        [each["stage"], f"{each['seconds']:.0f}", f"{each['cpu_seconds']:.0f}", f"{each['peak_gb']:.2f}"]
        + [f"{each['parts'][name]:.0f}" if name in each["parts"] else "" for name in names]
        for each in [*result["sizes"], total]
    ]
    say(reporting.markdown(["", "s", "CPU s", "peak GB", *(f"{name}, s" for name in names)], rows))


if __name__ == "__main__":
    main()
