"""One run of `train_end_to_end.py` in a process of its own: text in memory -> trained SAE on disk.

    python pipelines.py text JOB.json     choose the texts and write them, with their number of tokens
    python pipelines.py run JOB.json      one run; writes what was measured to the job's `result`

Both pipelines train through SAELens' `SAETrainer`, so its `step` is where they are timed, the same for both. The time
that goes to the language model is taken at SAELens' `ActivationsStore.get_activations` and at this package's `harvest`.
The clock starts with the model loaded and the texts in memory, and stops after the last step.
"""

import json
import random
import resource
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reporting
import sae_lens
import torch
from sae_lens import SAETrainer
from sae_lens.training.activations_store import ActivationsStore

from sae_lens_med import load_model
from sae_lens_med.data import training_text
from sae_lens_med.training import run
from sae_lens_med.training.recipe import Recipe, load_recipe, parse_recipe

SEED = 0


@dataclass
class Clock:
    """What happened when, in seconds since the start."""

    start: float = 0.0
    steps: list[tuple[float, float]] = field(default_factory=list)
    harvest_seconds: float = 0.0
    """In the main thread only: what runs beside the training costs no time of its own."""
    harvested_tokens: int = 0
    l0: list[float] = field(default_factory=list)
    """Of the first step and of the last."""

    def now(self) -> float:
        return time.perf_counter() - self.start

    def watch(self, last_step: int) -> None:
        """Put the clock around the step and around the language model."""
        original_step = SAETrainer.step
        original_acts = ActivationsStore.get_activations
        original_harvest = run.harvest

        def step(trainer: Any, batch: torch.Tensor) -> Any:
            begin = self.now()
            output = original_step(trainer, batch)
            self.steps.append((begin, self.now()))
            if len(self.steps) in (1, last_step):
                acts = output.feature_acts
                values = acts.coalesce().values() if acts.is_sparse else acts
                self.l0.append(int((values != 0).sum()) / len(batch))
            return output

        def get_activations(store: Any, batch_tokens: torch.Tensor) -> torch.Tensor:
            begin = self.now()
            acts = original_acts(store, batch_tokens)
            self._harvested(begin, batch_tokens.numel())
            return acts

        def harvest(model: Any, text: Any, *arguments: Any, **named: Any) -> Any:
            begin = self.now()
            found = original_harvest(model, text, *arguments, **named)
            self._harvested(begin, sum(map(len, text.train)))
            return found

        SAETrainer.step = step  # type: ignore[method-assign]
        ActivationsStore.get_activations = get_activations  # type: ignore[method-assign]
        run.harvest = harvest  # type: ignore[assignment]

    def _harvested(self, begin: float, tokens: int) -> None:
        self.harvested_tokens += tokens
        if threading.current_thread() is threading.main_thread():
            self.harvest_seconds += self.now() - begin

    def report(self, batch: int) -> dict[str, Any]:
        """Seconds and tokens per second; the steady state is that of the last third of the steps."""
        n = len(self.steps)
        durations = [end - begin for begin, end in self.steps]
        whole = self.steps[-1][1]
        tokens = n * batch
        late = durations[-max(1, n // 3) :]
        late_step = sum(late) / len(late)
        # Reading, mixing, checkpoints, tokenising; negative only by rounding where harvesting is not beside the steps.
        other = max(0.0, whole - self.harvest_seconds - sum(durations))
        a_token = self.harvest_seconds / self.harvested_tokens + late_step / batch + other / tokens
        return {
            "steps": n,
            "tokens": tokens,
            "seconds": whole,
            "tokens_per_second": tokens / whole,
            "steady_tokens_per_second": 1 / a_token,
            "harvest_seconds": self.harvest_seconds,
            "harvested_tokens": self.harvested_tokens,
            "step_seconds_total": sum(durations),
            "step_seconds_first_third": sum(durations[: max(1, n // 3)]) / max(1, n // 3),
            "step_seconds_last_third": late_step,
            "other_seconds": other,
            "l0_first_step": self.l0[0],
            "l0_last_step": self.l0[-1],
            "step_seconds": durations,
        }


def choose_texts(job: dict[str, Any]) -> None:
    """Texts of the recipe's sources in random order, until they hold the tokens that one pass needs."""
    recipe = load_recipe(job["recipe"], [f"data.folder={job['data']}"])
    paths = [Path(recipe.folder) / source.path for source in recipe.sources]
    texts = list(training_text(paths, recipe.leave_out).dataset["text"])
    random.Random(SEED).shuffle(texts)
    tokenizer = load_model(recipe.model_name).text_tokenizer
    chosen, n_tokens = [], 0
    for at in range(0, len(texts), 256):
        if n_tokens >= job["wanted_tokens"]:
            break
        part = texts[at : at + 256]
        chosen.extend(part)
        n_tokens += sum(len(ids) for ids in tokenizer(part, add_special_tokens=False).input_ids)
    with Path(job["texts"]).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chosen)
    enough = n_tokens >= job["wanted_tokens"]
    Path(job["result"]).write_text(json.dumps({"texts": len(chosen), "tokens": n_tokens, "enough": enough}))


def train_ours(job: dict[str, Any], clock: Clock, folder: Path) -> float:
    """`sae-lens-med train`. Returns the seconds after the last step: export and metrics on held-out text."""
    recipe = our_recipe(job)
    model = load_model(recipe.model_name, device=job["device"], dtype=job["dtype"])
    clock.start = time.perf_counter()
    run.train(recipe, model, folder / "sae", activations=folder / "activations")
    return clock.now() - clock.steps[-1][1]


def our_recipe(job: dict[str, Any]) -> Recipe:
    """The recipe with this run's text, size and length; the warm-ups are a twentieth of the steps each."""
    values = load_recipe(job["recipe"]).to_dict()
    warm_up = max(1, job["tokens"] // job["batch"] // 20)
    text = Path(job["texts"])
    values["model"]["dtype"] = job["dtype"]
    values["data"] |= {"folder": str(text.parent), "sources": [text.name], "heldout": 0.005}
    values["sae"] |= {"d_sae": job["d_sae"], "l1_warm_up_steps": warm_up, **job["sae"]}
    values |= {
        "training_tokens": job["tokens"],
        "train_batch_size_tokens": job["batch"],
        "lr_warm_up_steps": warm_up,
        "lr_decay_steps": 0,
        "n_batches_for_norm_estimate": 10,
        "n_checkpoints": 0,
        "device": job["device"],
    }
    return parse_recipe(values, job["recipe"])


def train_saelens(job: dict[str, Any], clock: Clock, folder: Path) -> float:
    """SAELens' `LanguageModelSAETrainingRunner` with its `standard` architecture and, but for the job, its defaults."""
    import datasets
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
    from sae_lens.saes.standard_sae import StandardTrainingSAEConfig

    recipe = load_recipe(job["recipe"])
    model = load_model(recipe.model_name, device=job["device"], dtype=job["dtype"])
    lines = Path(job["texts"]).read_text(encoding="utf-8").splitlines()
    dataset = datasets.Dataset.from_dict({"text": [json.loads(line)["text"] for line in lines]})
    config = LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(
            d_in=model.cfg.d_model, d_sae=job["d_sae"], device=job["device"], l1_coefficient=1.0
        ),
        model_name=recipe.model_name,
        model_class_name="TransformerBridge",
        hook_name=recipe.runner["hook_name"],
        context_size=recipe.runner["context_size"],
        is_dataset_tokenized=False,
        exclude_special_tokens=True,
        training_tokens=job["tokens"],
        train_batch_size_tokens=job["batch"],
        device=job["device"],
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(folder / "sae"),
        verbose=False,
        **job["runner"],
    )
    clock.start = time.perf_counter()
    bridge: Any = model  # typed as a HookedTransformer upstream, where any bridge works
    LanguageModelSAETrainingRunner(config, override_dataset=dataset, override_model=bridge).run()
    return clock.now() - clock.steps[-1][1]


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    if what == "text":
        choose_texts(job)
        return
    torch.set_num_threads(job["threads"])
    torch.manual_seed(SEED)
    clock = Clock()
    clock.watch(job["tokens"] // job["batch"])
    pipeline = train_ours if job["pipeline"] == "sae-lens-med" else train_saelens
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        after = pipeline(job, clock, Path(folder))
    result = clock.report(job["batch"])
    result["after_seconds"] = after
    result["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if job["device"] != "cpu":
        result["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    result["versions"] = reporting.versions() | {"sae_lens": sae_lens.__version__}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
