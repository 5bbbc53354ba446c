"""The option-letter method: which letter does the model hold likeliest in the answer slot?

For each item one forward pass over its prompt. Each option's letter is scored by the log-probability, over the whole
vocabulary, of the one token that the letter is in the answer slot's own context (`Prompt.letter_token_ids`); the
likeliest is the prediction. Exactly equal best letters are no answer (`ambiguous`), never a coin toss.

Several processes (`distributed`) take the batches in turn, the same batches as one process would make, and each
returns all results.

Out of scope: letters longer than one token (`question_prompt` refuses them) and generated answers.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sae_lens_med import distributed
from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.models import MedBridge, next_token_logprobs
from sae_lens_med.prompts import question_prompt
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, Prompt, require_unique_ids
from sae_lens_med.saes.releases import LoadedSae

MAX_HEAD_ROWS = 64
"""Positions times items of a batch that go through the LM head at most: at 262,144 tokens of vocabulary, 64 MB. Items
of one length share a position, so large sets of questions still run in large batches."""


def evaluate_letters(
    model: MedBridge,
    items: Sequence[McqItem],
    *,
    shots: Sequence[McqItem] = (),
    chat: bool = False,
    enable_thinking: bool = False,
    batch_tokens: int = 8192,
    progress: bool = True,
    sae: LoadedSae | None = None,
    done: Mapping[str, ItemResult] | None = None,
    on_results: Callable[[list[ItemResult]], None] | None = None,
) -> list[ItemResult]:
    """One `ItemResult` per item, in the order of `items`.

    Args:
        model: from `load_model`.
        items: with or without a gold answer; without one, `correct` is None and the item is not scored.
        shots: solved examples put before every question.
        chat: put the prompt into the tokenizer's chat template.
        enable_thinking: of a Qwen3 template; only with `chat`.
        batch_tokens: the most tokens, padding included, of one forward pass. Does not change the results.
        progress: show a bar on stderr.
        sae: attached at its hook for the whole evaluation: its reconstruction replaces the activation (no error term),
            so that the result is what the model answers through the SAE. Special tokens pass by unchanged, because
            SAEs are not trained on them.
        done: results that are already there, by item id; these items are not run. The same in all processes.
        on_results: called with the results of each batch as they come, for writing them down; in each process with
            those of its own batches.

    Raises `ModelError` when a prompt is longer than the model's context or the model gives no number, `DataError`
    when two items share an id, `ConfigError` for a batch size below 1.
    """
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens must be at least 1, got {batch_tokens}.")
    require_unique_ids(list(items), "evaluation")
    results = dict(done or {})
    todo = [item for item in items if item.id not in results]
    tokenizer = model.text_tokenizer
    prompts = [
        question_prompt(item, tokenizer, shots=shots, chat=chat, enable_thinking=enable_thinking) for item in todo
    ]
    for prompt in prompts:
        if len(prompt.token_ids) > model.cfg.n_ctx:
            raise ModelError(
                f"the prompt of item {prompt.item_id!r} has {len(prompt.token_ids)} tokens, more than the "
                f"{model.cfg.n_ctx} that {model.provenance['name']} takes; use fewer shots or leave the item out."
            )
    me = distributed.ranks()
    batches = length_batches([len(p.token_ids) for p in prompts], batch_tokens)[me.rank :: me.world_size]
    own: list[ItemResult] = []
    with _attached(model, sae), _bar(progress and bool(todo) and me.first) as bar:
        task = bar.add_task("answers", total=sum(map(len, batches)))
        for batch in batches:
            chosen = [prompts[i] for i in batch]
            logprobs = next_token_logprobs(model, [p.token_ids for p in chosen], [p.letter_token_ids for p in chosen])
            fresh = [
                letter_result(todo[i], prompt, row) for i, prompt, row in zip(batch, chosen, logprobs, strict=True)
            ]
            own.extend(fresh)
            if on_results is not None:
                on_results(fresh)
            bar.advance(task, len(batch))
    for part in distributed.gather_objects([result.to_dict() for result in own]):
        results |= {values["id"]: ItemResult.from_dict(values) for values in part}
    return [results[item.id] for item in items]


def letter_result(item: McqItem, prompt: Prompt, logprobs: Sequence[float]) -> ItemResult:
    """The answer that `logprobs` (one per option, <= 0) give. Raises `ModelError` when one is not a finite number."""
    if len(logprobs) != len(item.options):
        raise ModelError(
            f"item {item.id!r} has {len(item.options)} options but {len(logprobs)} letters in its prompt "
            f"of {len(prompt.token_ids)} tokens."
        )
    if not all(math.isfinite(value) for value in logprobs):
        raise ModelError(
            f"the model gave {list(logprobs)} as log-probabilities for item {item.id!r}; float16 overflows on some "
            "models: use bfloat16 or float32."
        )
    best = max(logprobs)
    winners = [letter for letter, value in zip(OPTION_LETTERS, logprobs, strict=False) if value == best]
    prediction = winners[0] if len(winners) == 1 else None
    gold = item.gold_letter
    return ItemResult(
        id=item.id,
        subject=item.subject,
        gold=gold,
        prediction=prediction,
        option_logprobs=tuple(logprobs),
        correct=None if gold is None else prediction == gold,
        reason=None if prediction is not None else "ambiguous",
    )


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of `lengths` (tokens per prompt) in batches of like length, longest first.

    A batch has at most `batch_tokens` tokens with padding (one prompt where a prompt alone has more) and at most
    `MAX_HEAD_ROWS` rows times distinct lengths, because `next_token_logprobs` runs the LM head on each item at each
    distinct last position of its batch.
    """
    batches: list[list[int]] = []
    distinct: set[int] = set()
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rows = len(batches[-1]) + 1 if batches else 1
        fits = (
            bool(batches)
            and rows * lengths[batches[-1][0]] <= batch_tokens
            and rows * len(distinct | {lengths[i]}) <= MAX_HEAD_ROWS
        )
        if not fits:
            batches.append([])
            distinct = set()
        batches[-1].append(i)
        distinct.add(lengths[i])
    return batches


@contextlib.contextmanager
def _attached(model: MedBridge, sae: LoadedSae | None) -> Iterator[None]:
    if sae is None:
        yield
        return

    def as_model(activation: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 - TransformerLens' hook signature
        # A float32 SAE in a bfloat16 model: the next layer takes the model's dtype.
        return activation.to(model.cfg.dtype)

    output = model.get_sae_hook_name(sae.sae, internal="hook_sae_output")
    with (
        model.saes([sae.sae], use_error_term=False, exclude_special_tokens=True),
        model.hooks(fwd_hooks=[(output, as_model)]),
    ):
        yield


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
