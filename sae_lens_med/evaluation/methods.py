"""The ways to ask a model a multiple-choice question and to read its answer.

    letter             the likeliest option letter in the answer slot, by its log-probability over the whole vocabulary
    option-text        the option whose text is likeliest there, by its log-probability over its length
    generate           lm-evaluation-harness' protocol: greedy text up to a stop string, the answer extracted from it
    cot                greedy reasoning that ends with the answer; shots show their explanations
    self-consistency   several sampled reasonings that vote; their agreement is the confidence

All take 0 or more shots, the plain prompt or the tokenizer's chat template, and a prompt template (`templates`).

`option-text`: log P(text of the option | prompt) is a sum over tokens, which favours short options; it is divided by
the number of the text's characters (lm-evaluation-harness' `acc_norm`), UTF-8 bytes, or tokens. After a plain prompt
the text follows a space, as in the shots; the space counts in the sum, not in characters and bytes, as there.

Exactly equal best options are no answer (`ambiguous`), never a coin toss.

Items run in fixed groups of like length, made from all items whatever is done already, so that neither an interruption
nor the number of processes (`distributed`: they take the groups in turn) changes a result.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sae_lens_med import distributed
from sae_lens_med.errors import DataError, ModelError, UnfitItemsError
from sae_lens_med.evaluation.generation import cut_after_thinking, sample_seed, text_result, vote_result
from sae_lens_med.evaluation.method import NORMALISATIONS, Method, as_method
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import MAX_ROWS, Engine, Generated, TokenText
from sae_lens_med.prompts.templates import Templates
from sae_lens_med.prompts.tokens import continuation_tokens, text_prompt
from sae_lens_med.records import (
    OPTION_LETTERS,
    ItemResult,
    McqItem,
    Prompt,
    require_options,
    require_unique_ids,
)
from sae_lens_med.runs.progress import progress_bar

PASSES = 16
"""Forward passes after which results are written at the latest."""


def run_method(
    engine: Engine,
    items: Sequence[McqItem],
    method: Method | str = "letter",
    *,
    shots: Sequence[McqItem] = (),
    seed: int = 0,
    progress: bool = True,
    done: Mapping[str, ItemResult] | None = None,
    on_results: Callable[[list[ItemResult]], None] | None = None,
) -> list[ItemResult]:
    """One `ItemResult` per item, in the order of `items`.

    Args:
        engine: the model, under the hooks that are to be in force.
        items: with or without a gold answer; without one, `correct` is None and the item is not scored.
        method: a `Method`, or the name of one with its defaults.
        shots: solved examples put before every question.
        seed: of sampling.
        progress: show a bar on stderr.
        done: results that are already there, by item id; these items are not run. The same in all processes.
        on_results: called with the results of each group of items as they come, for writing them down; in each process
            with those of its own groups.

    Raises `UnfitItemsError`, before anything is run, for all items whose prompts are longer than the model's context or
    do not fit the method; `ModelError` when the model gives no number, `DataError` when two items share an id or a
    template does not fit the data, `ConfigError` for a template that fails.
    """
    method = as_method(method)
    require_unique_ids(list(items), "evaluation")
    require_options(items, "accuracy")
    results = dict(done or {})
    asked = ask(engine.model, items, method, shots)
    me = distributed.ranks()
    pending = [[i for i in group if items[i].id not in results] for group in _groups(engine, asked, method)]
    pending = [group for group in pending if group]
    own: list[ItemResult] = []
    with progress_bar(progress and bool(pending) and me.first) as bar:
        mine = pending[me.rank :: me.world_size]
        task = bar.add_task("answers", total=sum(map(len, mine)))
        for group in mine:
            fresh = _answer(engine, [(items[i], asked[i]) for i in group], method, seed)
            own.extend(fresh)
            if on_results is not None:
                on_results(fresh)
            bar.advance(task, len(group))
    for part in distributed.gather_objects([result.to_dict() for result in own]):
        results |= {values["id"]: ItemResult.from_dict(values) for values in part}
    return [results[item.id] for item in items]


@dataclass(frozen=True, slots=True)
class Asked:
    """How an item is put to the model."""

    prompt: Prompt
    stop: tuple[str, ...]
    """What ends its answer."""
    continuations: tuple[tuple[int, ...], ...] = ()
    """`option-text`: the tokens of each option after the prompt."""

    @property
    def tokens(self) -> TokenText:
        """For the engine."""
        return TokenText(self.prompt.token_ids, self.prompt.token_parts)


def ask(model: MedBridge, items: Sequence[McqItem], method: Method, shots: Sequence[McqItem] = ()) -> list[Asked]:
    """The prompt of each item, in order. Raises as `run_method` does."""
    templates = method.templates()
    asked: list[Asked] = []
    refused: dict[str, DataError | ModelError] = {}
    unfit: dict[str, str] = {}
    for item in items:
        try:
            asked.append(_ask(model, item, method, templates, shots))
        except (DataError, ModelError) as error:
            refused[item.id] = error
            unfit[item.id] = str(error).removeprefix(f"item {item.id!r} ").rstrip(".")
            continue
        n_tokens, what = len(asked[-1].prompt.token_ids), "the prompt"
        if asked[-1].continuations:
            n_tokens += max(map(len, asked[-1].continuations)) - 1
            what = "the prompt with the longest option"
        if n_tokens > model.cfg.n_ctx:
            with_shots = f" and {len(shots)} shots" if shots else ""
            unfit[item.id] = (
                f"{what}{with_shots} has {n_tokens} tokens, more than the {model.cfg.n_ctx} that "
                f"{model.provenance['name']} takes"
            )
    if refused and len(refused) == len(items):
        raise next(iter(refused.values()))  # the fault of no item
    if unfit:
        raise UnfitItemsError(unfit)
    return asked


def _ask(model: MedBridge, item: McqItem, method: Method, templates: Templates, shots: Sequence[McqItem]) -> Asked:
    template = templates.of(item)
    rendered = template.render(item, shots)
    prompt = text_prompt(
        item.id,
        rendered.text,
        model.text_tokenizer,
        spans=rendered.spans,
        n_letters=len(item.options) if method.name == "letter" else 0,
        chat=method.chat,
        enable_thinking=method.enable_thinking,
    )
    continuations: tuple[tuple[int, ...], ...] = ()
    if method.name == "option-text":
        space = "" if method.chat else " "
        texts = [space + text for text in item.options]
        continuations = tuple(continuation_tokens(prompt, texts, model.text_tokenizer, chat=method.chat))
    return Asked(prompt, template.stop if method.stop is None else method.stop, continuations)


def best_option(item: McqItem, scores: Sequence[float]) -> ItemResult:
    """The answer that one score per option gives, each <= 0. Raises `ModelError` when one is not a finite number."""
    if len(scores) != len(item.options):
        raise ModelError(f"item {item.id!r} has {len(item.options)} options but {len(scores)} scores.")
    if not all(math.isfinite(value) for value in scores):
        raise ModelError(
            f"the model gave {list(scores)} as log-probabilities for item {item.id!r}; float16 overflows on some "
            "models: use bfloat16 or float32."
        )
    best = max(scores)
    winners = [letter for letter, value in zip(OPTION_LETTERS, scores, strict=False) if value == best]
    prediction = winners[0] if len(winners) == 1 else None
    gold = item.gold_letter
    return ItemResult(
        id=item.id,
        subject=item.subject,
        gold=gold,
        prediction=prediction,
        option_logprobs=tuple(scores),
        correct=None if gold is None else prediction == gold,
        reason=None if prediction is not None else "ambiguous",
    )


def _answer(engine: Engine, asked: Sequence[tuple[McqItem, Asked]], method: Method, seed: int) -> list[ItemResult]:
    tokens = [each.tokens for _, each in asked]
    if method.name == "letter":
        wanted = [each.prompt.letter_token_ids for _, each in asked]
        rows = engine.next_token_logprobs(tokens, wanted)
        return [best_option(item, row) for (item, _), row in zip(asked, rows, strict=True)]
    if method.name == "option-text":
        return _option_texts(engine, asked, method)
    if method.name == "self-consistency":
        n = method.n_samples
        seeds = [sample_seed(seed, item.id, k) for item, _ in asked for k in range(n)]
        drawn = _generate(
            engine, [each for each in asked for _ in range(n)], method, method.sampling_temperature, seeds
        )
        return [vote_result(item, drawn[k * n : (k + 1) * n]) for k, (item, _) in enumerate(asked)]
    texts = _generate(engine, asked, method, 0.0, None)
    return [text_result(item, text) for (item, _), text in zip(asked, texts, strict=True)]


def _generate(
    engine: Engine,
    asked: Sequence[tuple[McqItem, Asked]],
    method: Method,
    temperature: float,
    seeds: list[int] | None,
) -> list[Generated]:
    stop = asked[0][1].stop  # the same in the group
    texts = engine.generate(
        [each.tokens for _, each in asked],
        max_new_tokens=method.most_tokens,
        stop=() if method.enable_thinking else stop,
        temperature=temperature,
        seeds=seeds,
    )
    if not method.enable_thinking:
        return texts
    return [cut_after_thinking(text, stop) for text in texts]


def _option_texts(engine: Engine, asked: Sequence[tuple[McqItem, Asked]], method: Method) -> list[ItemResult]:
    rows = engine.continuation_logprobs([each.tokens for _, each in asked], [each.continuations for _, each in asked])
    results = []
    for (item, _), row in zip(asked, rows, strict=True):
        lengths = {
            "character": [len(text) for text in item.options],
            "byte": [len(text.encode()) for text in item.options],
            "token": [len(values) for values in row],
        }[method.normalisation or NORMALISATIONS[0]]
        results.append(best_option(item, [sum(v) / n for v, n in zip(row, lengths, strict=True)]))
    return results


def _groups(engine: Engine, asked: Sequence[Asked], method: Method) -> list[list[int]]:
    """Indices in groups that are finished, and written, together: same stop strings and like length, longest first; at
    most `MAX_ROWS` texts and `PASSES` forward passes, or one item."""
    each_rows = method.n_samples if method.name == "self-consistency" else 1
    n_shared = _n_shared([a.prompt.token_ids for a in asked])
    groups: list[list[int]] = []
    for stop in dict.fromkeys(a.stop for a in asked):
        of_stop = [i for i, a in enumerate(asked) if a.stop == stop]
        of_stop.sort(key=lambda i: (-len(asked[i].prompt.token_ids), i))
        while of_stop:
            longest = len(asked[of_stop[0]].prompt.token_ids) - n_shared
            rows = min(MAX_ROWS, PASSES * engine.batch_tokens // max(1, longest))
            n = max(1, rows // each_rows)
            groups.append(of_stop[:n])
            of_stop = of_stop[n:]
    return groups


def _n_shared(token_ids: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest beginning that all have."""
    if not token_ids:
        return 0
    return len(os.path.commonprefix([min(token_ids), max(token_ids)]))
