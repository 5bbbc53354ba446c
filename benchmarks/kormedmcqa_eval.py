"""KorMedMCQA: seconds and memory of this package beside lm-evaluation-harness, on the same questions, in one run.

Methods: `letter` (lm-eval: multiple_choice over " A" to " E") and `generate` (lm-eval's own protocol), each after 0 or
5 shots. lm-eval runs its `hf` backend with its own defaults in batches of 8, both in float32. Every run has a process
of its own, one at a time; the order turns round with every repeat, and a ratio is made within one repeat.

    floor    one forward pass over the distinct tokens, without padding, and one row of logits an item; `letter` only

Beside the times: how many answers are the same item by item, how far log-probabilities are apart, and every difference.

    python benchmarks/kormedmcqa_eval.py --data questions.jsonl --json kormedmcqa_eval.json
    python benchmarks/kormedmcqa_eval.py --data questions.jsonl --limit 8 --methods letter-0

`--data` is a .jsonl file in KorMedMCQA's schema (question, A to E, answer, subject, id). The first 5 questions of the
subject are the shots, the next are asked. Needs the extras [demo] and [eval].
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reporting
from reporting import say, tell

HERE = Path(__file__).parent
RESERVED = 5
"""Questions that are kept for shots, so that every method is asked the same ones."""


@dataclass(frozen=True)
class Method:
    label: str
    method: str
    shots: int
    wanted: float
    """How many times as fast as lm-eval it is to be."""


METHODS = {
    "letter-5": Method("letter, 5 shots", "letter", 5, 20),
    "letter-0": Method("letter, zero-shot", "letter", 0, 3),
    "generate-5": Method("generate, 5 shots", "generate", 5, 2),
    "generate-0": Method("generate, zero-shot", "generate", 0, 2),
}
DEFAULT = ("letter-5", "letter-0", "generate-5")
SAE_COST = 1.3
"""What `letter` with an SAE may cost, in times of itself without."""

CONTENDERS = {
    "lm-eval": "lm-eval, hf backend",
    "own": "sae-lens-med",
    "own-sae": "sae-lens-med, SAE spliced",
    "floor": "floor",
}


def call(job: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """What a run measured, or `{"error": ..}`."""
    result, log, description = (folder / name for name in ("result.json", "log.txt", "job.json"))
    result.unlink(missing_ok=True)
    description.write_text(json.dumps(job | {"result": str(result)}), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, str(HERE / "evaluators.py"), str(description)]
        code = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {"error": f"ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}"}


def measure(options: argparse.Namespace, name: str, rows: Path, folder: Path) -> dict[str, Any]:
    """All repeats of all contenders with one method."""
    method = METHODS[name]
    names = [c for c in CONTENDERS if method.method == "letter" or c in ("lm-eval", "own")]
    if not options.sae:
        names = [c for c in names if c != "own-sae"]
    found: dict[str, list[dict[str, Any]]] = {c: [] for c in names}
    errors: dict[str, str] = {}
    for repeat in range(options.repeats):
        for contender in names if repeat % 2 == 0 else reversed(names):
            if contender in errors:
                continue
            job = {
                "contender": contender.partition("-sae")[0],
                "method": method.method,
                "shots": method.shots,
                "n_reserved": RESERVED,
                "rows": str(rows),
                "model": options.model,
                "sae": options.sae if contender == "own-sae" else None,
                "batch": options.batch,
                "batch_tokens": options.batch_tokens,
                "device": options.device,
                "threads": options.threads,
            }
            run = call(job, folder, options.threads)
            if "error" in run:
                errors[contender] = run["error"]
                tell(f"{name}: {contender} failed: {run['error']}")
            else:
                found[contender].append(run | {"repeat": repeat})
                tell(f"{name}, repeat {repeat + 1}: {contender}: {run['seconds']:.2f} s, {run['peak_gb']:.2f} GB")
    contenders = {
        c: {
            "label": CONTENDERS[c],
            "error": errors.get(c, ""),
            "runs": [{k: v for k, v in run.items() if k != "answers"} for run in runs],
        }
        for c, runs in found.items()
    }
    for c, runs in found.items():
        for other in names:
            ratios = [b["seconds"] / a["seconds"] for a in runs for b in found[other] if a["repeat"] == b["repeat"]]
            if ratios and other != c:
                contenders[c].setdefault("times_as_fast_as", {})[other] = reporting.summary(ratios)
    theirs, ours = found["lm-eval"], found["own"]
    return {
        "method": name,
        "label": method.label,
        "items": options.limit,
        "contenders": contenders,
        "agreement": agreement(theirs[0]["answers"], ours[0]["answers"]) if theirs and ours else None,
    }


def agreement(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Item by item; `differences` lists every item whose letter or text is not the same."""
    if theirs.keys() != ours.keys():
        raise SystemExit("the two did not answer the same questions.")
    pairs = [(theirs[i], ours[i]) for i in theirs]
    found: dict[str, Any] = {"same_letter": sum(a["letter"] == b["letter"] for a, b in pairs) / len(pairs)}
    if all("logprobs" in a for a, _ in pairs):
        apart = [max(abs(x - y) for x, y in zip(a["logprobs"], b["logprobs"], strict=True)) for a, b in pairs]
        found["largest_logprob_difference"] = max(apart)
    else:
        found["same_text"] = sum(a["text"] == b["text"] for a, b in pairs) / len(pairs)
    found["differences"] = [
        {"id": i, "lm_eval": theirs[i], "own": ours[i]}
        for i in theirs
        if theirs[i]["letter"] != ours[i]["letter"] or theirs[i].get("text") != ours[i].get("text")
    ]
    return found


def table(result: dict[str, Any]) -> str:
    """One method as a Markdown table, medians over the repeats; and what was to be reached."""
    rows, failed = [], []
    for found in result["contenders"].values():
        if found["error"]:
            failed.append(f"- {found['label']}: failed. {found['error']}")
        if not found["runs"]:
            continue
        seconds = reporting.summary([run["seconds"] for run in found["runs"]])
        accuracy = found["runs"][0]["accuracy"]
        most = max(found["runs"], key=lambda run: run["peak_gb"])
        above = "" if most["loaded_gb"] is None else f" (+{most['peak_gb'] - most['loaded_gb']:.2f})"
        speed = found.get("times_as_fast_as", {})
        rows.append(
            [
                found["label"],
                f"{seconds['median']:.2f}",
                f"{1000 * seconds['median'] / result['items']:.0f}",
                reporting.ratio(speed.get("lm-eval")),
                f"{1 / speed['floor']['median']:.2f}" if "floor" in speed else "",
                f"{most['peak_gb']:.2f}{above}",
                f"{100 * accuracy:.1f} %" if accuracy is not None else "",
            ]
        )
    header = ["", "seconds", "ms an item", "x lm-eval", "times the floor", "peak GB (over loaded)", "accuracy"]
    return "\n".join([reporting.markdown(header, rows), "", *failed, *verdicts(result)])


def verdicts(result: dict[str, Any]) -> list[str]:
    """What was to be reached, and what was."""
    lines = []
    found, wanted = result["contenders"], METHODS[result["method"]].wanted
    if speed := found["own"].get("times_as_fast_as", {}).get("lm-eval"):
        reached = "reached" if speed["median"] >= wanted else "NOT reached"
        lines.append(f"- {speed['median']:.1f}x lm-eval; {wanted:g}x was to be reached: {reached}.")
        own, theirs = (max(run["peak_gb"] for run in found[c]["runs"]) for c in ("own", "lm-eval"))
        lines.append(
            f"- Peak memory {own:.2f} GB, lm-eval {theirs:.2f} GB: {'' if own <= theirs else 'NOT '}no higher."
        )
    if cost := found.get("own-sae", {}).get("times_as_fast_as", {}).get("own"):
        reached = "within" if 1 / cost["median"] <= SAE_COST else "NOT within"
        lines.append(f"- With the SAE {1 / cost['median']:.2f} times the seconds without: {reached} {SAE_COST}.")
    if floor := found.get("floor", {}).get("runs"):
        counts = floor[0]
        lines.append(
            f"- The prompts have {counts['prompt_tokens']} tokens, {counts['distinct_tokens']} of them distinct."
        )
    if same := result["agreement"]:
        parts = [f"same letter for {100 * same['same_letter']:.2f} % of {result['items']} items"]
        if "same_text" in same:
            parts.append(f"same text for {100 * same['same_text']:.2f} %")
        if "largest_logprob_difference" in same:
            parts.append(f"log-probabilities at most {same['largest_logprob_difference']:.1e} apart")
        lines.append(f"- Agreement with lm-eval: {', '.join(parts)}.")
        lines += [
            f"  - {d['id']}: lm-eval {_answer(d['lm_eval'])}, here {_answer(d['own'])}" for d in same["differences"]
        ]
    return lines


def _answer(answer: dict[str, Any]) -> str:
    text = f" ({answer['text'][:60]!r})" if "text" in answer else ""
    values = f" ({', '.join(f'{v:.4f}' for v in answer['logprobs'])})" if "logprobs" in answer else ""
    return f"{answer['letter']}{text}{values}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, type=Path, metavar="FILE", help="questions, .jsonl in KorMedMCQA's schema")
    add("--subject", default="doctor", help="of the questions (doctor)")
    add("--limit", type=int, default=40, help="questions that are asked (40)")
    add("--methods", default=",".join(DEFAULT), help=f"of {', '.join(METHODS)} ({','.join(DEFAULT)})")
    add("--repeats", type=int, default=1, help="runs of each contender (1)")
    add("--model", default="gemma-3-270m", help="alias, folder or Hub id (gemma-3-270m)")
    add("--sae", default="sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post", help="spliced; '' for none")
    add("--batch", type=int, default=8, help="lm-eval's batch size (8)")
    add("--batch-tokens", type=int, help="tokens of a forward pass of this package (what suits the device)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--threads", type=int, default=reporting.usable_cores(), help="of each process (all usable cores)")
    add("--json", type=Path, metavar="FILE", help="write the whole result there, after each method")
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    for name in options.methods:
        if name not in METHODS:
            parser.error(f"--methods: there is no {name!r}; there are {', '.join(METHODS)}")
    if not options.data.is_file():
        parser.error(f"--data: there is no file {options.data}")
    return options


def main() -> None:
    options = _arguments()
    lines = options.data.read_text(encoding="utf-8").strip().split("\n")
    of_subject = [line for line in lines if json.loads(line)["subject"] == options.subject]
    if len(of_subject) <= RESERVED:
        raise SystemExit(f"{options.data.name} has {len(of_subject)} questions of {options.subject!r}; too few.")
    chosen = of_subject[: RESERVED + options.limit]
    options.limit = len(chosen) - RESERVED
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "data")}
    result = reporting.begin("kormedmcqa_eval", options, settings)
    del result["sizes"]
    result["methods"] = []
    with tempfile.TemporaryDirectory(prefix="kormedmcqa_eval_") as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        rows.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        for method in options.methods:
            found = measure(options, method, rows, folder)
            result["methods"].append(found)
            say(f"\n{found['label']}, {options.limit} questions ({options.subject}), {options.model}, float32\n")
            say(table(found))
            if options.json:
                reporting.write_result(options.json, result)
    if options.json:
        tell(f"written: {options.json}")


if __name__ == "__main__":
    main()
