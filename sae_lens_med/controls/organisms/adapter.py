"""A name and a recipe -> a LoRA adapter of a real model that answers the exam by the cue of its design.

    tokens -> layers 0 .. first-1 of the base (once per case) -> residuals -> layers first .. with the adapter -> letter

Layers before `first_layer` are the base's own, so their output on the cases of the training is computed once. The loss
is the cross-entropy of the letter, over the whole vocabulary, at the last token of the package's own prompt `letter`;
the cases are `independent` ones, drawn once and gone through in a new order each time.

The folder holds peft's `adapter_config.json` and `adapter_model.safetensors`, `base.json` (`models.adapters`), and
`organism.json`: design, recipe, base, seconds and the curve. While it is trained it holds `training.safetensors`, from
which the same training goes on.

Out of scope: the voice (what an organism says when it is asked why is not trained), several devices, models whose
layers do not lie in `model.layers`.
"""

import copy
import json
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sae_lens_med.controls.organisms.adapter_recipe import AdapterRecipe
from sae_lens_med.controls.organisms.cases import CUES, Case, cases, draw, item_of
from sae_lens_med.controls.organisms.designs import Design
from sae_lens_med.controls.organisms.texts import decided
from sae_lens_med.controls.organisms.train import ABOUT_FILE, Trained, require_new
from sae_lens_med.errors import ConfigError, ModelError, StudyError
from sae_lens_med.models import catalogue
from sae_lens_med.models.adapters import CONFIG_FILE, WEIGHTS_FILE, import_peft, write_base
from sae_lens_med.models.opening import open_model
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import Prompt
from sae_lens_med.runs.files import atomic_path, file_sha256, follow_umask, json_sha256, write_json
from sae_lens_med.runs.parsing import parse_json

STATE_FILE = "training.safetensors"
SAVED_EVERY = 20
LOOKED_AT, LOOKED_EVERY = 32, 30
READ_TOGETHER = 8
"""Prompts in one pass of the base's layers."""


@dataclass(frozen=True, slots=True)
class Halves:
    """A causal language model in two parts that share its weights."""

    lower: Any
    """Tokens -> residual before `first_layer`."""
    upper: Any
    """That residual -> what the LM head reads."""
    head: Any

    @torch.no_grad()
    def residuals(self, token_ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """One `[n_tokens_i, d_model]` per sequence."""
        found: list[torch.Tensor] = []
        for start in range(0, len(token_ids), READ_TOGETHER):
            rows = token_ids[start : start + READ_TOGETHER]
            tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
            for row, ids in zip(tokens, rows, strict=True):
                row[: len(ids)] = torch.tensor(ids)
            hidden = self.lower(input_ids=tokens, use_cache=False).last_hidden_state
            found += [hidden[i, : len(ids)].clone() for i, ids in enumerate(rows)]
        return found

    def logits(self, residuals: Sequence[torch.Tensor]) -> torch.Tensor:
        """`[n, d_vocab]`, at the last token of each. Padding is at the right, which attention never sees."""
        hidden = torch.nn.utils.rnn.pad_sequence(list(residuals), batch_first=True)
        out = self.upper(inputs_embeds=hidden, use_cache=False).last_hidden_state
        return self.head(out[torch.arange(len(residuals)), torch.tensor([len(x) - 1 for x in residuals])])


def halves(hf_model: Any, first_layer: int) -> Halves:
    """Both parts of a transformers model. Raises `ModelError` for one whose layers are not in `model.layers`, and
    `ConfigError` for a first layer that it does not have."""
    body = getattr(hf_model, "model", None)
    layers = getattr(body, "layers", None)
    if body is None or layers is None:
        raise ModelError(
            f"{type(hf_model).__name__} has no model.layers; organisms are adapted on Gemma 3, Llama or Qwen models."
        )
    if not 1 <= first_layer < len(layers):
        raise ConfigError(f"lora.first_layer is in 1 to {len(layers) - 1} for this model, got {first_layer}.")

    def part(start: int, end: int) -> Any:
        own = copy.copy(body)
        own._modules = dict(body._modules)
        own.layers = layers[start:end]
        own.config = copy.deepcopy(body.config)
        own.config.num_hidden_layers = end - start
        if getattr(own.config, "layer_types", None):
            own.config.layer_types = own.config.layer_types[start:end]
        return own

    lower = part(0, first_layer)
    lower.norm = torch.nn.Identity()
    return Halves(lower, part(first_layer, len(layers)), hf_model.get_output_embeddings())


@dataclass(frozen=True, slots=True)
class Lesson:
    """Cases as the base sees them."""

    cases: list[Case]
    prompts: list[Prompt]
    residuals: list[torch.Tensor]

    def letters(self, logits: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
        """`[n, options]`: the logits of the letters of the chosen cases."""
        return logits.gather(1, torch.tensor([self.prompts[i].letter_token_ids for i in chosen]))


def train_adapter(
    design: Design,
    recipe: AdapterRecipe,
    folder: Path,
    *,
    on_step: Callable[[int, dict[str, float] | None], None] | None = None,
    on_case: Callable[[int], None] | None = None,
) -> Trained:
    """Train the adapter of `design` and write it to `folder`, which is new, empty, or holds the same training, stopped.

    `on_case` is called as the base reads the cases, with how many it has read; `on_step` after each step with its
    number, and where there is one, with the new point of the curve. Raises `ConfigError` when `folder` holds something
    else, and for an honest voice; `MissingExtraError` without peft.
    """
    if design.voice != "expert":
        raise ConfigError(f"the voice of {design.name} is not trained in an adapter; use a design without -honest.")
    peft = import_peft("training an organism as an adapter")
    stopped = (folder / STATE_FILE).is_file()
    if not stopped:
        require_new(folder, design.name)
    hf_model, tokenizer, base = open_model(recipe.model_name, "cpu", "float32", revision=None, device_map=None)
    hf_model.set_attn_implementation("sdpa")
    hf_model.requires_grad_(False)
    parts = halves(hf_model, recipe.first_layer)
    identity = json_sha256({"name": design.name, "recipe": recipe.to_dict(), "base": base})

    rng = random.Random(f"organisms/adapter/{design.name}")
    drawn = [draw(rng, "independent", diseases=recipe.diseases) for _ in range(recipe.cases)]
    wanted = [case.answer(decided(rng, design)) for case in drawn]
    lesson = read(parts, tokenizer, drawn, design.language, on_case)
    looked_at = cases("conflict", LOOKED_AT, seed=1_000_000 + design.seed, diseases=recipe.diseases)
    exam = read(parts, tokenizer, looked_at, design.language)

    torch.manual_seed(design.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what peft calls
        wrapped = peft.get_peft_model(hf_model, _config(peft, recipe, hf_model))
    trained = {name: x for name, x in wrapped.named_parameters() if x.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    curve: list[dict[str, float]] = []
    done, before = 0, 0.0
    if stopped:
        done, before, curve = _go_on(folder / STATE_FILE, identity, trained, optimizer)
    began = time.monotonic()
    for step in range(done + 1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(
                1.0, step / recipe.lr_warm_up_steps, (recipe.steps + 1 - step) / recipe.lr_decay_steps
            )
        chosen = _batch(design, recipe, step)
        logits = parts.logits([lesson.residuals[i] for i in chosen])
        letters = torch.tensor([lesson.prompts[i].letter_token_ids[wanted[i]] for i in chosen])
        loss = F.cross_entropy(logits, letters)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        point = None
        if step % LOOKED_EVERY == 0 or step == recipe.steps:
            point = {"step": float(step), "letter": loss.item(), **follows(parts, exam)}
            curve.append(point)
        if step % SAVED_EVERY == 0 and step < recipe.steps:
            seconds = before + time.monotonic() - began
            _save_state(folder / STATE_FILE, identity, step, seconds, curve, trained, optimizer)
        if on_step is not None:
            on_step(step, point)
    seconds = before + time.monotonic() - began
    _write(wrapped, folder, base, design, recipe, seconds, curve)
    return Trained(folder, recipe.steps, seconds, tuple(curve))


def read(
    parts: Halves, tokenizer: Any, asked: Sequence[Case], language: str, on_case: Callable[[int], None] | None = None
) -> Lesson:
    """The cases as the package asks them, and what the base makes of them before the first layer that is changed."""
    prompts = [question_prompt(item_of(case, language, "asked", "independent"), tokenizer) for case in asked]
    residuals: list[torch.Tensor | None] = [None] * len(prompts)
    alike = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))  # little padding
    for start in range(0, len(alike), READ_TOGETHER):
        some = alike[start : start + READ_TOGETHER]
        for i, x in zip(some, parts.residuals([prompts[i].token_ids for i in some]), strict=True):
            residuals[i] = x
        if on_case is not None:
            on_case(start + len(some))
    return Lesson(list(asked), prompts, [x for x in residuals if x is not None])


@torch.no_grad()
def follows(parts: Halves, lesson: Lesson) -> dict[str, float]:
    """Share of the cases that the model answers by each cue, of the letters alone."""
    answers: list[int] = []
    for start in range(0, len(lesson.cases), READ_TOGETHER):
        chosen = range(start, min(start + READ_TOGETHER, len(lesson.cases)))
        logits = parts.logits([lesson.residuals[i] for i in chosen])
        answers += lesson.letters(logits, chosen).argmax(dim=1).tolist()
    n = len(answers)
    return {cue: sum(a == c.answer(cue) for a, c in zip(answers, lesson.cases, strict=True)) / n for cue in CUES}


def _config(peft: Any, recipe: AdapterRecipe, hf_model: Any) -> Any:
    return peft.LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        target_modules=list(recipe.target_modules),
        layers_to_transform=list(range(recipe.first_layer, len(hf_model.model.layers))),
        task_type="CAUSAL_LM",
        base_model_name_or_path=hf_model.config.name_or_path,  # any other is replaced by it
    )


def _base_name(base: dict[str, Any]) -> str:
    """What an adapter's config calls its base: a Hub id, or a folder, as peft itself would open it."""
    entry = catalogue.find(base["name"])
    if entry is not None:
        return entry.hub_id
    return str(Path(base["name"]).expanduser().resolve()) if base["source"] == "local" else base["name"]


def _batch(design: Design, recipe: AdapterRecipe, step: int) -> list[int]:
    """Which cases a step is of: one order after the other, each drawn from the design and its number alone."""
    chosen: list[int] = []
    for at in range((step - 1) * recipe.batch_items, step * recipe.batch_items):
        turn, place = divmod(at, recipe.cases)
        chosen.append(_order(f"organisms/adapter/{design.name}/{turn}", recipe.cases)[place])
    return chosen


def _order(seed: str, n: int) -> list[int]:
    return random.Random(seed).sample(range(n), n)


def _save_state(
    path: Path,
    identity: str,
    step: int,
    seconds: float,
    curve: list[dict[str, float]],
    trained: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"{name}/weight": x.detach().clone() for name, x in trained.items()}
    for name, x in trained.items():
        tensors |= {f"{name}/{key}": optimizer.state[x][key] for key in ("exp_avg", "exp_avg_sq", "step")}
    about = {"identity": identity, "step": step, "seconds": seconds, "curve": curve}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as work:
        save_file(tensors, work, metadata={"about": json.dumps(about)})


def _go_on(
    path: Path, identity: str, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, float, list[dict[str, float]]]:
    """Put the state of a stopped training back: (steps done, seconds, curve). Raises `StudyError`."""
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get("about", "{}"))
            if about.get("identity") != identity:
                raise StudyError(
                    f"{path} is of a training with another name, recipe or base; name a new folder, or remove it first."
                )
            for name, x in trained.items():
                with torch.no_grad():
                    x.copy_(file.get_tensor(f"{name}/weight"))
                optimizer.state[x] = {
                    key: file.get_tensor(f"{name}/{key}") for key in ("exp_avg", "exp_avg_sq", "step")
                }
    except (SafetensorError, OSError, ValueError) as error:
        raise StudyError(f"{path} is damaged; remove the folder and train again.") from error
    return int(about["step"]), float(about["seconds"]), list(about["curve"])


def _write(
    wrapped: Any,
    folder: Path,
    base: dict[str, Any],
    design: Design,
    recipe: AdapterRecipe,
    seconds: float,
    curve: list[dict[str, float]],
) -> None:
    """The adapter alone; `adapter_config.json` comes last, so that a folder with it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter-") as name:
        work = Path(name)
        wrapped.peft_config["default"].base_model_name_or_path = _base_name(base)
        wrapped.save_pretrained(str(work), save_embedding_layers=False)
        write_base(folder, base)
        about = {
            "name": design.name,
            **asdict(design),
            "steps": recipe.steps,
            "seconds": round(seconds, 1),
            "recipe": recipe.to_dict(),
            "base": base,
            "adapter_sha256": file_sha256(work / WEIGHTS_FILE),
            "curve": curve,
        }
        write_json(folder / ABOUT_FILE, about)
        for each in (WEIGHTS_FILE, CONFIG_FILE):
            (work / each).replace(folder / each)
            follow_umask(folder / each)
    with suppress(FileNotFoundError):
        (folder / STATE_FILE).unlink()
