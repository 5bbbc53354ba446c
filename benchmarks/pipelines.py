"""One run of `train_end_to_end.py` in a process of its own: text in memory -> trained SAE on disk.

    python pipelines.py text JOB.json     choose the texts and write them, with their number of tokens
    python pipelines.py run JOB.json      one run; writes what was measured to the job's `result`

Both pipelines train through SAELens' `SAETrainer`, so its `step` is where they are timed, the same for both. The clock
starts with the model loaded and the texts in memory, and stops after the last step.

What the language model costs: SAELens' runner calls it between steps, where it can be timed
(`ActivationsStore.get_activations`). This package runs it beside the steps, so the pipeline runs a second time from the
activations that the first run left on disk, and the difference of the two is what the model costs.
"""

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reporting
import sae_lens
import torch
from sae_lens import SAETrainer
from sae_lens.training.activations_store import ActivationsStore

from sae_lens_med import load_model
from sae_lens_med.training.recipe import Recipe, load_recipe, parse_recipe
from sae_lens_med.training.text import training_text

SEED = 0


@dataclass
class Clock:
    """What happened when, in seconds since the start."""

    last_step: int
    start: float = 0.0
    steps: list[tuple[float, float]] = field(default_factory=list)
    model_seconds: float = 0.0
    model_tokens: int = 0
    l0: list[float] = field(default_factory=list)
    """Of the first step and of the last."""

    def now(self) -> float:
        return time.perf_counter() - self.start

    @property
    def whole(self) -> float:
        """Until the end of the last step."""
        return self.steps[-1][1]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The clock is around the step and around SAELens' calls of the language model while the block runs."""
        original_step, original_acts = SAETrainer.step, ActivationsStore.get_activations

        def step(trainer: Any, batch: torch.Tensor) -> Any:
            begin = self.now()
            output = original_step(trainer, batch)
            self.steps.append((begin, self.now()))
            if len(self.steps) in (1, self.last_step):
                acts = output.feature_acts
                values = acts.coalesce().values() if acts.is_sparse else acts
                self.l0.append(int((values != 0).sum()) / len(batch))
            return output

        def get_activations(store: Any, batch_tokens: torch.Tensor) -> torch.Tensor:
            begin = self.now()
            acts = original_acts(store, batch_tokens)
            self.model_seconds += self.now() - begin
            self.model_tokens += batch_tokens.numel()
            return acts

        SAETrainer.step, ActivationsStore.get_activations = step, get_activations  # type: ignore[method-assign]  # timed
        self.start = time.perf_counter()
        try:
            yield
        finally:
            SAETrainer.step = original_step  # type: ignore[method-assign]  # as it was
            ActivationsStore.get_activations = original_acts  # type: ignore[method-assign]  # as it was

    def report(self, batch: int, whole: float, model_seconds: float, model_tokens: int) -> dict[str, Any]:
        """Seconds and tokens per second of a pipeline that took `whole` seconds, of which the model's calls took some.

        The steady state has steps as in the last third; the other seconds (reading, mixing, tokenising) are as found.
        """
        n = len(self.steps)
        durations = [end - begin for begin, end in self.steps]
        third = max(1, n // 3)
        late = sum(durations[-third:]) / third
        tokens = n * batch
        other = max(0.0, whole - model_seconds - sum(durations))
        a_token = model_seconds / model_tokens + late / batch + other / tokens
        return {
            "steps": n,
            "tokens": tokens,
            "seconds": whole,
            "tokens_per_second": tokens / whole,
            "steady_tokens_per_second": 1 / a_token,
            "model_seconds": model_seconds,
            "model_tokens": model_tokens,
            "late_step_seconds": late,
            "early_step_seconds": sum(durations[:third]) / third,
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
    for text in texts:
        if n_tokens >= job["wanted_tokens"]:
            break
        chosen.append(text)
        n_tokens += len(tokenizer(text, add_special_tokens=False).input_ids)
    with Path(job["texts"]).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chosen)
    enough = n_tokens >= job["wanted_tokens"]
    result = json.dumps({"texts": len(chosen), "tokens": n_tokens, "enough": enough})
    Path(job["result"]).write_text(result, encoding="utf-8")


def train_ours(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`sae-lens-med train`, from the text and then from its activations."""
    from sae_lens_med.training.run import train

    recipe = our_recipe(job)
    model = load_model(recipe.model_name, device=job["device"], dtype=job["dtype"])
    clocks, after = [], []
    for name in ("from_text", "from_activations"):
        clock = Clock(job["tokens"] // job["batch"])
        with clock.watching():
            train(recipe, model, folder / name, activations=folder / "activations")
            after.append(clock.now() - clock.whole)
        clocks.append(clock)
    from_text, from_activations = clocks
    model_seconds = max(0.0, from_text.whole - from_activations.whole)
    result = from_activations.report(job["batch"], from_text.whole, model_seconds, job["text_tokens"])
    tokens = result["tokens"]
    return result | {
        "after_seconds": after[0],
        "seconds_from_activations": from_activations.whole,
        "tokens_per_second_from_activations": tokens / from_activations.whole,
    }


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


def train_saelens(job: dict[str, Any], folder: Path) -> dict[str, Any]:
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
    bridge: Any = model  # typed as a HookedTransformer upstream, where any bridge works
    clock = Clock(job["tokens"] // job["batch"])
    with clock.watching():
        LanguageModelSAETrainingRunner(config, override_dataset=dataset, override_model=bridge).run()
        after = clock.now() - clock.whole
    result = clock.report(job["batch"], clock.whole, clock.model_seconds, clock.model_tokens)
    return result | {"after_seconds": after}


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    if what == "text":
        choose_texts(job)
        return
    torch.set_num_threads(job["threads"])
    torch.manual_seed(SEED)
    pipeline = train_ours if job["pipeline"] == "sae-lens-med" else train_saelens
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        result = pipeline(job, Path(folder))
    result["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if job["device"] != "cpu":
        result["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    result["versions"] = reporting.versions() | {"sae_lens": sae_lens.__version__}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
