"""Tokens per second from text to a trained SAE: `sae-lens-med train` beside SAELens' own runner.

The model is gemma-3-270m, the hook blocks.9.hook_resid_post, the text that of the shipped recipe, cut to what one pass
over it needs; both train on the same number of tokens, in the same batches. SAELens' runner trains its `standard`
architecture with its default settings; this package trains `tied_l1`. Every run has a process of its own, one at a
time; the order turns round with every repeat, and a ratio is made within one repeat.

    whole    trained tokens / seconds from the loaded model to the last step
    steady   1 / (seconds of the model for a token + seconds of a late step for a token + all other seconds for a token)

A late step is one of the last third, an early one of the first: tied_l1 begins dense and becomes sparse as the penalty
takes hold, and SAELens fills a buffer before its first step, so that the whole of a short run tells little about a long
one. "After" is what follows the last step: writing the SAE and, in this package, measuring it on held-out text.

    python benchmarks/train_end_to_end.py --data PATH --json train_end_to_end.json
    python benchmarks/train_end_to_end.py --data PATH --tokens 50000 --d-sae 1024 --batch 1024 --repeats 1

PATH is the folder with the files that the recipe names (`data.sources`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reporting
from reporting import say, tell

HERE = Path(__file__).parent
SPARE = 1.05
"""Text beyond the tokens that are trained on: held-out text and activation sinks are not."""


@dataclass(frozen=True)
class Pipeline:
    label: str
    library: str
    note: str
    dtype: str = "float32"
    """Of the language model."""
    sae: dict[str, Any] = field(default_factory=dict)
    runner: dict[str, Any] = field(default_factory=dict)
    default: bool = True


AUTOCAST = {"autocast": True, "autocast_lm": True}

PIPELINES = {
    "tied-fp32": Pipeline(
        "sae-lens-med, tied_l1, float32", "sae-lens-med", "model and encoding in float32", sae={"bf16_filter": False}
    ),
    "tied-bf16": Pipeline(
        "sae-lens-med, tied_l1, bfloat16",
        "sae-lens-med",
        "model in bfloat16, active features found in bfloat16 (its defaults)",
        dtype="bfloat16",
    ),
    "saelens-fp32": Pipeline("SAELens runner, standard, float32", "sae-lens", "its defaults"),
    "saelens-autocast": Pipeline(
        "SAELens runner, standard, autocast", "sae-lens", "autocast and autocast_lm", runner=AUTOCAST
    ),
    "saelens-bf16": Pipeline(
        "SAELens runner, standard, bfloat16 model + autocast",
        "sae-lens",
        "model in bfloat16, autocast for the SAE",
        dtype="bfloat16",
        runner={"autocast": True},
        default=False,
    ),
    "saelens-compiled": Pipeline(
        "SAELens runner, standard, autocast + compiled",
        "sae-lens",
        "autocast and autocast_lm, compile_sae",
        runner=AUTOCAST | {"compile_sae": True},
        default=False,
    ),
}


def call(what: str, job: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """Run `pipelines.py`; its result, or `{"error": reason}`."""
    description, log = folder / "job.json", folder / "log"
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    description.write_text(json.dumps(job | {"result": str(result)}), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    environment["WANDB_MODE"] = "disabled"
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, str(HERE / "pipelines.py"), what, str(description)]
        code = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {"error": f"ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}"}


def measure(options: argparse.Namespace, d_sae: int, folder: Path) -> dict[str, Any]:
    """All repeats of all pipelines at one size."""
    found: dict[str, Any] = {name: [] for name in options.pipelines}
    errors: dict[str, str] = {}
    for number in range(options.repeats):
        for name in options.pipelines if number % 2 == 0 else reversed(options.pipelines):
            if name in errors:
                continue
            pipeline = PIPELINES[name]
            job = {
                "pipeline": pipeline.library,
                "dtype": pipeline.dtype,
                "sae": pipeline.sae,
                "runner": pipeline.runner,
                "recipe": options.recipe,
                "texts": str(folder / "texts.jsonl"),
                "d_sae": d_sae,
                "text_tokens": options.text_tokens,
                "tokens": options.tokens,
                "batch": options.batch,
                "device": options.device,
                "threads": options.threads,
            }
            result = call("run", job, folder, options.threads)
            if "error" in result:
                errors[name] = result["error"]
                tell(f"{name} failed: {result['error']}")
            else:
                found[name].append(result | {"repeat": number})
                tell(f"d_sae {d_sae}, repeat {number + 1}: {name}: {result['tokens_per_second']:.0f} tokens/s, "
                     f"steady {result['steady_tokens_per_second']:.0f}")  # fmt: skip
    pipelines = {}
    for name, runs in found.items():
        pipeline = PIPELINES[name]
        pipelines[name] = {
            "label": pipeline.label,
            "library": pipeline.library,
            "what": pipeline.note,
            "error": errors.get(name, ""),
            "runs": runs,
        }
        for key in ("tokens_per_second", "steady_tokens_per_second") if runs else ():
            pipelines[name][key] = reporting.summary([r[key] for r in runs])
            pipelines[name][f"{key}_over"] = {
                other: speedup
                for other in options.pipelines
                if PIPELINES[other].library == "sae-lens" and (speedup := _speedup(runs, found[other], key))
            }
    return {"d_sae": d_sae, "pipelines": pipelines}


def _speedup(runs: list[Any], others: list[Any], key: str) -> dict[str, float] | None:
    by_repeat = {r["repeat"]: r[key] for r in others}
    ratios = [r[key] / by_repeat[r["repeat"]] for r in runs if r["repeat"] in by_repeat]
    return reporting.summary(ratios) if ratios else None


def table(size: dict[str, Any]) -> str:
    """One size as a Markdown table; medians over the repeats."""
    pipelines = size["pipelines"]
    fastest = max(
        (n for n, p in pipelines.items() if p["library"] == "sae-lens" and p["runs"]),
        key=lambda n: pipelines[n]["steady_tokens_per_second"]["median"],
        default=None,
    )
    header = [
        "pipeline",
        "whole tokens/s",
        "steady tokens/s",
        "x SAELens fp32, whole",
        "x SAELens fp32, steady",
        "x fastest SAELens, steady",
        "model tokens/s",
        "early step s",
        "late step s",
        "other s",
        "after s",
        "last L0",
        "peak GB",
    ]
    rows, failed = [], []
    for found in pipelines.values():
        if found["error"]:
            failed.append(f"- {found['label']}: failed. {found['error']}")
        if not found["runs"]:
            continue

        def median(key: str, runs: list[Any] = found["runs"]) -> float:
            return statistics.median(r[key] for r in runs)

        model_seconds = median("model_seconds")
        over, steady_over = found["tokens_per_second_over"], found["steady_tokens_per_second_over"]
        rows.append(
            [
                found["label"],
                f"{median('tokens_per_second'):.0f}",
                f"{median('steady_tokens_per_second'):.0f}",
                reporting.ratio(over.get("saelens-fp32")),
                reporting.ratio(steady_over.get("saelens-fp32")),
                reporting.ratio(steady_over.get(fastest)),
                f"{median('model_tokens') / model_seconds:.0f}" if model_seconds else "hidden",
                f"{median('early_step_seconds'):.3g}",
                f"{median('late_step_seconds'):.3g}",
                f"{median('other_seconds'):.3g}",
                f"{median('after_seconds'):.3g}",
                f"{median('l0_last_step'):.0f}",
                f"{median('peak_rss_gb'):.1f}",
            ]
        )
    note = f"\nFastest SAELens: {pipelines[fastest]['label']}." if fastest else ""
    return "\n".join([reporting.markdown(header, rows), note, *failed])


def _arguments() -> argparse.Namespace:
    parser = reporting.parser(__doc__, "pipelines", PIPELINES)
    add = parser.add_argument
    add("--data", required=True, metavar="FOLDER", help="the folder that holds the recipe's text files")
    add("--recipe", default="gemma-3-270m-res", help="model, hook, text and SAE (gemma-3-270m-res)")
    add("--d-sae", type=reporting.numbers, default=[5120, 20480], help="dictionary sizes, with commas (5120,20480)")
    add("--tokens", type=int, default=409_600, help="tokens to train on (409600: 100 steps)")
    add("--repeats", type=int, default=2, help="runs of each pipeline at each size (2)")
    options = parser.parse_args()
    options.pipelines = reporting.chosen(parser, "pipelines", PIPELINES, options.pipelines)
    if not Path(options.data).is_dir():
        parser.error(f"--data: there is no folder {options.data}")
    if options.tokens < 3 * options.batch:
        parser.error("--tokens must make at least three steps")
    options.tokens -= options.tokens % options.batch
    return options


def main() -> None:
    options = _arguments()
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "data")}
    result = reporting.begin("train_end_to_end", options, settings)
    with tempfile.TemporaryDirectory(prefix="train_end_to_end_") as name:
        folder = Path(name)
        job = {
            "recipe": options.recipe,
            "data": str(Path(options.data).resolve()),
            "texts": str(folder / "texts.jsonl"),
            "wanted_tokens": int(SPARE * options.tokens),
        }
        text = call("text", job, folder, options.threads)
        if "error" in text:
            raise SystemExit(f"the text could not be read: {text['error']}")
        if not text["enough"]:
            tell(f"The text holds {text['tokens']} tokens: it will be gone over more than once.")
        result["text"] = text
        options.text_tokens = text["tokens"]
        for d_sae in options.d_sae:
            size = measure(options, d_sae, folder)
            result["sizes"].append(size)
            say(f"\nd_sae {d_sae}, batch {options.batch}, {options.tokens} tokens, {options.repeats} repeats\n")
            say(table(size))
            if options.json:
                reporting.write_result(options.json, result)
    if options.json:
        tell(f"written: {options.json}")


if __name__ == "__main__":
    main()
