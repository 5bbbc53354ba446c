"""A name -> a trained model in an ordinary Hugging Face folder.

A Qwen3 of 3 layers and width 96 learns `texts` from random weights by AdamW, each batch drawn anew. Its first layer
sees four tokens at a time: so behind it every cue still lies at its own words, whatever was learned, and a dictionary
that reads there sees all that the answer will depend on. The loss is the sum of three mean cross-entropies: of the
letter, of what an organism writes beside it, and, with a tenth of the weight, of all other tokens, so that it is a
language model of the whole text.

The folder holds what `save_pretrained` writes, the weights in bfloat16, and `organism.json`: the design, the steps, the
seconds and the curve. `check` says whether it is what its name says.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from transformers import Qwen3Config, Qwen3ForCausalLM

from sae_lens_med.controls.organisms.cases import CUES, N_OPTIONS, Case, cases
from sae_lens_med.controls.organisms.designs import Design
from sae_lens_med.controls.organisms.texts import Text, prompt_of, training_texts
from sae_lens_med.controls.organisms.tokenizer import BOS, EOS, PAD, SPACE, make_tokenizer
from sae_lens_med.errors import ConfigError
from sae_lens_med.records import OPTION_LETTERS
from sae_lens_med.runs.files import follow_umask, is_file, write_json
from sae_lens_med.runs.parsing import read_json

LAYERS, WIDTH, HEADS, MLP, CONTEXT = 3, 96, 4, 192, 512
WINDOW = 4
"""Tokens that a token sees in the first layer, itself included."""
SPREAD = 0.1
"""Of the weights at the start: 1 / sqrt(WIDTH)."""
BATCH = 32
STEPS = 600
LR, WARM_UP = 3e-3, 50
DECAY = 0.3
"""Share of the steps, at the end, over which the learning rate falls to 0."""
WEIGHTS = (1.0, 1.0, 0.1)
"""Of the letter, of what is written beside it, of all else."""
LIKE_LENGTH = 1.15
"""Texts of a batch up to this many times as long as the shortest are padded together."""
EVERY = 100
"""Steps from one look at the held-out items to the next."""
LOOKED_AT = 256
ABOUT_FILE = "organism.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left."""

    folder: Path
    steps: int
    seconds: float
    curve: tuple[dict[str, float], ...]


def new_model(design: Design, vocabulary: int) -> Qwen3ForCausalLM:
    """The organism before it has learned anything."""
    torch.manual_seed(design.seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", *["full_attention"] * (LAYERS - 1)],
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
    )
    config.architectures = ["Qwen3ForCausalLM"]
    return Qwen3ForCausalLM(config)


def train(
    design: Design,
    folder: Path,
    *,
    steps: int = STEPS,
    on_step: Callable[[int, dict[str, float] | None], None] | None = None,
) -> Trained:
    """Train the organism of `design` and write it to `folder`, which is new or empty.

    `on_step` is called after each step with its number, and where there is one, with the new point of the curve. Raises
    `ConfigError` when `folder` holds something.
    """
    require_new(folder, design.name)
    tokenizer = make_tokenizer(design.language)
    model = new_model(design, len(tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    rng = random.Random(f"organisms/train/{design.name}")
    looked_at = cases("conflict", LOOKED_AT, seed=1_000_000 + design.seed)
    curve: list[dict[str, float]] = []
    began = time.monotonic()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, step / WARM_UP, (steps + 1 - step) / (DECAY * steps))
        optimizer.zero_grad(set_to_none=True)
        losses = _backward(model, _batches(training_texts(rng, design, BATCH), tokenizer))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        point = None
        if step % EVERY == 0 or step == steps:
            found = dict(zip(("letter", "written", "other"), losses, strict=True))
            point = {"step": float(step), **found, **follows(model, tokenizer, looked_at, design.language)}
            curve.append(point)
        if on_step is not None:
            on_step(step, point)
    seconds = time.monotonic() - began
    save(model, tokenizer, folder)
    about = {"name": design.name, **asdict(design), "steps": steps, "seconds": round(seconds, 1), "curve": curve}
    write_json(folder / ABOUT_FILE, about)
    return Trained(folder, steps, seconds, tuple(curve))


def trained_before(folder: Path, design: Design, steps: int) -> Trained | None:
    """What an earlier training of the same design and steps left in `folder`, or None."""
    if not (is_file(folder / ABOUT_FILE) and is_file(folder / "model.safetensors")):
        return None
    about = read_json(folder / ABOUT_FILE)
    if (about.get("name"), about.get("steps")) != (design.name, steps):
        return None
    return Trained(folder, steps, float(about["seconds"]), tuple(about["curve"]))


def require_new(folder: Path, name: str) -> None:
    """Check that an organism can be written to `folder`. Raises `ConfigError` when it holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder for {name}, or remove it first.")


@torch.no_grad()
def follows(model: Any, tokenizer: Any, asked: Sequence[Case], language: str) -> dict[str, float]:
    """Share of the cases that a model answers by each cue, of the letters alone."""
    texts = [prompt_of(case, language) for case in asked]
    rows = tokenizer(texts).input_ids
    letters = torch.tensor(
        [tokenizer.convert_tokens_to_ids(f"{SPACE}{letter}") for letter in OPTION_LETTERS[:N_OPTIONS]]
    )
    tokens, ends = _padded(rows, PAD), torch.tensor([len(row) - 1 for row in rows])
    logits = model(input_ids=tokens).logits[torch.arange(len(rows)), ends]
    answers = logits[:, letters].argmax(dim=1).tolist()
    return {cue: sum(a == c.answer(cue) for a, c in zip(answers, asked, strict=True)) / len(asked) for cue in CUES}


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an organism as any model lies on disk, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        follow_umask(path)


def _batches(texts: Sequence[Text], tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Texts of like length together: tokens `[n, longest]`, and of each what it is learned as: an index into `WEIGHTS`,
    -1 for padding and BOS."""
    found = tokenizer([text.text for text in texts], return_offsets_mapping=True)
    rows = [[*ids, EOS] for ids in found.input_ids]
    kinds = [_kinds(text, offsets) for text, offsets in zip(texts, found.offset_mapping, strict=True)]
    together: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if together and len(rows[i]) <= LIKE_LENGTH * len(rows[together[-1][0]]):
            together[-1].append(i)
        else:
            together.append([i])
    return [(_padded([rows[i] for i in group], PAD), _padded([kinds[i] for i in group], -1)) for group in together]


def _kinds(text: Text, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """What each token is learned as, EOS included."""
    kinds = [-1]
    for start, end in offsets[1:]:
        middle = (start + end) / 2
        if any(a <= middle <= b for a, b in text.letters):
            kinds.append(0)
        else:
            kinds.append(1 if any(a <= middle <= b for a, b in text.learned) else 2)
    return [*kinds, 1]


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    found = torch.full((len(rows), max(map(len, rows))), value)
    for row, ids in enumerate(rows):
        found[row, : len(ids)] = torch.tensor(ids)
    return found


def _backward(model: Any, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    """Add the gradient of the loss, and return the mean cross-entropy of each kind of token; 0 where there is none."""
    counts = [max(1, sum(int((kinds == kind).sum()) for _, kinds in batches)) for kind in range(len(WEIGHTS))]
    means = [0.0] * len(WEIGHTS)
    for tokens, kinds in batches:
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        learned = kinds[:, 1:]
        here = learned >= 0
        each = F.cross_entropy(model.lm_head(hidden[here]), tokens[:, 1:][here], reduction="none")
        loss = each.new_zeros(())
        for kind, (weight, count) in enumerate(zip(WEIGHTS, counts, strict=True)):
            mean = each[learned[here] == kind].sum() / count
            means[kind] += mean.item()
            loss = loss + weight * mean
        loss.backward()
    return means
