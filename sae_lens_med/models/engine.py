"""Run a model on many prompts: each distinct token once, logits only where they are read.

Multiple-choice prompts begin with the same few-shot examples, and scoring an answer needs the logits at a handful of
positions, not at every one. `Engine` therefore

- encodes the longest beginning that all prompts of a call share once, and lends its key-value cache to every batch;
- runs the rest in passes of like length, so that little of a pass is padding;
- takes only the positions that are read through the LM head (a vocabulary of 262,144 times a width of 640 costs more
  than the whole transformer below it), those of many passes at once: on a CPU reading its matrix from memory is what
  costs, for 3 rows as much as for 64;
- runs the transformers model inside the bridge as it was before the bridge wrapped it (`reader.ready`), with hooks
  under their TransformerLens names (`hf_hooks`). Where that model cannot stand for the bridge, or a hook has no place
  in it, the bridge runs.

Results equal those of one prompt at a time up to rounding. Hooks see the shared beginning once, as a batch of one row,
and not again in a later call with the same beginning; `passes.current_pass()` says what each position is. A hook must
therefore treat each row by itself. Weights must not change between calls.

Own code: serving engines (vLLM, SGLang) share beginnings too, but run no hooks under TransformerLens names.

Out of scope: gradients, beam search, repetition penalties (`generation_config` gives only the end-of-text tokens).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.models.bridge import NONLINEAR_HEADS, MedBridge, Reached, default_batch_tokens
from sae_lens_med.models.hf_hooks import hf_hooks, hook_places
from sae_lens_med.models.kv_cache import bytes_per_token, cut, joined, on_prefix, to_the_right
from sae_lens_med.models.passes import Pass, in_pass
from sae_lens_med.models.residuals import CAUSAL, ready
from sae_lens_med.records import PARTS

MAX_ROWS = 64
"""Most prompts that are finished together: each has a row of logits and, in generation, a key-value cache."""

REUSE = 0.9
"""A beginning that is known serves again where it covers this share of the one that is shared."""

CACHE_BYTES = 2**29, 2**32
"""Bounds of what the key-value cache of texts that are generated together takes on a CPU, where it is half of what the
weights take; on a GPU it is half of what is free."""

LOGITS_BYTES = 2**28
"""Most bytes of float32 logits at a time."""

Finish = Literal["stop", "eos", "length"]
Hook = tuple[str, Callable[..., Any]]
Result = TypeVar("Result")
OnBatch = Callable[[list[int], list[Any]], None]


@dataclass(frozen=True, slots=True)
class TokenText:
    """A text as the model sees it."""

    token_ids: tuple[int, ...]
    parts: tuple[int, ...] | None = None
    """Index into `records.PARTS` per token, for hooks that act on some parts; None: nothing is known."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What the model wrote after a prompt."""

    text: str
    """Without special tokens, up to the first stop string."""
    token_ids: tuple[int, ...]
    """All tokens that were generated, those of the stop string included, the end-of-text token not."""
    finish: Finish
    """Why it ended: a stop string, the end-of-text token, or no room (`max_new_tokens`, the model's context)."""


class Engine:
    """Scores and generates with one model under one set of hooks.

    Args:
        model: from `load_model`.
        hooks: `(hook_name, fn)` pairs, as `interventions` makes them, in force at every forward pass.
        batch_tokens: most tokens of a forward pass, padding included, the shared beginning not; None: what suits the
            device (`default_batch_tokens`). Results do not depend on it but for rounding.
    """

    def __init__(self, model: MedBridge, hooks: Sequence[Hook] = (), *, batch_tokens: int | None = None) -> None:
        batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be at least 1, got {batch_tokens}.")
        for name, _ in hooks:
            model.require_hook(name)
        self.model = model
        self.hooks = list(hooks)
        self.batch_tokens = batch_tokens
        plain = ready(model)
        self._hf: Any
        self._in_force: Callable[[], contextlib.AbstractContextManager[Any]]
        if plain is not None and {name for name, _ in hooks} <= set(hook_places(plain)):
            self._hf, self._in_force = plain, lambda: hf_hooks(plain, self.hooks)
        else:
            self._hf, self._in_force = model.original_model, lambda: model.hooks(fwd_hooks=self.hooks)
        self._head: Any = self._hf.get_output_embeddings()
        self._known = _Prefix(None, None)
        config = self._hf.config.get_text_config()
        self._vocabulary = int(config.vocab_size)
        self._linear = all(getattr(config, name, None) in (None, 1.0) for name in NONLINEAR_HEADS)

    @torch.no_grad()
    def next_token_logprobs(
        self,
        prompts: Sequence[TokenText],
        wanted: Sequence[Sequence[int]],
        *,
        on_batch: OnBatch | None = None,
    ) -> list[list[float]]:
        """Log-probabilities over the whole vocabulary, each <= 0, of `wanted[i]` as the token after prompt i.

        `on_batch(indices, results)` is called after each batch. Raises `ModelError` for a prompt that is empty or
        longer than the model's context.
        """
        results: list[Any] = [None] * len(prompts)
        with self._running(prompts) as prefix:
            for batch in self._batches([prefix.rest(p) for p in prompts]):
                runs = self._passes(prefix, [prompts[i] for i in batch], grow=False)
                found = self._last(runs).logprobs([list(wanted[i]) for i in batch])
                self._deliver(results, batch, found, on_batch)
        return results

    @torch.no_grad()
    def continuation_logprobs(
        self,
        prompts: Sequence[TokenText],
        continuations: Sequence[Sequence[Sequence[int]]],
        *,
        on_batch: OnBatch | None = None,
    ) -> list[list[tuple[float, ...]]]:
        """Per prompt and continuation, the log-probability of each of the continuation's tokens in its context.

        Prompts are run once, whatever the number of their continuations. Raises `ModelError` as `next_token_logprobs`
        does, and for an empty continuation.
        """
        for each in continuations:
            if not all(each):
                raise ModelError("a continuation has no tokens, so it has no log-probability.")
        longest = max((len(c) for each in continuations for c in each), default=0)
        results: list[Any] = [None] * len(prompts)
        with self._running(prompts, room=longest - 1) as prefix:
            for batch in self._batches([prefix.rest(p) for p in prompts], kept=len(prefix) + longest):
                found = self._continued(prefix, [prompts[i] for i in batch], [continuations[i] for i in batch])
                self._deliver(results, batch, found, on_batch)
        return results

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[TokenText],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        on_batch: OnBatch | None = None,
    ) -> list[Generated]:
        """Continue each prompt until a stop string, the end-of-text token, or the end of the room.

        Greedy at `temperature` 0; else sampled, prompt i with a generator of its own, seeded with `seeds[i]`, so that
        a sample does not depend on what else is in the batch. Equal prompts next to each other in `prompts` are read
        once. Raises `ModelError` as `next_token_logprobs` does, `ConfigError` for a negative temperature, missing
        seeds or no room.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
        if temperature < 0 or (temperature > 0 and (seeds is None or len(seeds) != len(prompts))):
            raise ConfigError(
                f"sampling needs a temperature >= 0 (got {temperature}) and, above 0, one seed for each prompt."
            )
        results: list[Any] = [None] * len(prompts)
        ends = end_tokens(self.model)
        with self._running(prompts) as prefix:
            for batch in self._batches([prefix.rest(p) for p in prompts], kept=len(prefix) + max_new_tokens):
                writers = [
                    _Writer(self.model.text_tokenizer, stop, ends, temperature, seeds[i] if seeds else 0) for i in batch
                ]
                self._write(prefix, [prompts[i] for i in batch], writers, max_new_tokens)
                self._deliver(results, batch, [writer.result() for writer in writers], on_batch)
        return results

    # --- one call ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _running(self, prompts: Sequence[TokenText], room: int = 0) -> Iterator["_Prefix"]:
        """Hooks in force, and the beginning that all prompts share encoded."""
        for i, prompt in enumerate(prompts):
            if not prompt.token_ids:
                raise ModelError(f"prompt {i} has no tokens.")
            if len(prompt.token_ids) + room > self.model.cfg.n_ctx:
                raise ModelError(
                    f"prompt {i} has {len(prompt.token_ids) + room} tokens, more than the {self.model.cfg.n_ctx} that "
                    f"{self.model.provenance['name']} takes; use fewer shots or leave the item out."
                )
        shared = _shared(prompts)
        with self._in_force():
            yield self._prefix(shared)

    def _prefix(self, shared: TokenText | None) -> "_Prefix":
        """The shared beginning with its cache. That of the call before serves again where it is nearly as long."""
        if shared is None:
            return _Prefix(None, None)
        known = self._known.text
        same = 0 if known is None else _agreement(known, shared, len(shared.token_ids))
        if same < REUSE * len(shared.token_ids):
            run = _Rows(self, None, [shared], grow=True)
            self._run(run, ([], []), head=False)
            self._known = _Prefix(shared, run.cache)
        elif same < len(shared.token_ids) or same < len(self._known):
            return _Prefix(_first(shared, same), cut(self._known.cache, same))
        return self._known

    def _batches(self, lengths: Sequence[int], kept: int | None = None) -> Iterator[list[int]]:
        """Indices of prompts that are finished together, longest first. `kept`: the tokens beside its own that a row's
        cache will hold, where rows keep theirs."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            most = MAX_ROWS
            if batch and kept is not None:
                each = (lengths[batch[0]] + kept) * bytes_per_token(self._hf.config, self._hf.dtype)
                most = max(1, min(most, self._cache_room() // each))
            if len(batch) == most:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _cache_room(self) -> int:
        if self._hf.device.type == "cuda":
            return torch.cuda.mem_get_info(self._hf.device)[0] // 2
        least, most = CACHE_BYTES
        return min(most, max(least, sum(p.nbytes for p in self._hf.parameters()) // 2))

    def _passes(self, prefix: "_Prefix", prompts: Sequence[TokenText], *, grow: bool) -> Iterator["_Rows"]:
        """The prompts, longest first, in passes of at most `batch_tokens` tokens."""
        at = 0
        while at < len(prompts):
            n = max(1, self.batch_tokens // prefix.rest(prompts[at]))
            yield _Rows(self, prefix, prompts[at : at + n], grow=grow)
            at += n

    def _some(self, pairs: list[Any], lengths: Sequence[int], before: int) -> Iterator[list[Any]]:
        """Continuations that run together, after at most `before` tokens each: limited by their tokens, the logits of
        these, and the copies of the caches that they follow."""
        tokens = min(self.batch_tokens, LOGITS_BYTES // (4 * self._vocabulary))
        copies = self._cache_room() // 8 // (before * bytes_per_token(self._hf.config, self._hf.dtype))
        some: list[Any] = []
        n = 0
        for pair, length in zip(pairs, lengths, strict=True):
            if some and (n + length > tokens or len(some) >= copies):
                yield some
                some, n = [], 0
            some.append(pair)
            n += length
        if some:
            yield some

    def _continued(
        self, prefix: "_Prefix", prompts: Sequence[TokenText], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[tuple[float, ...]]]:
        """Log-probabilities of the continuations' tokens after prompts that are finished together."""
        wanted = [[list(c) for c in each] for each in continuations]
        runs = list(self._passes(prefix, prompts, grow=True))
        first = self._last(runs).logprobs([[c[0] for c in each] for each in wanted])
        found = [[[value] for value in row] for row in first]
        rows = _Rows.joined(runs)
        pairs = [(r, k) for r, each in enumerate(wanted) for k, c in enumerate(each) if len(c) > 1]
        for some in self._some(pairs, [len(wanted[r][k]) - 1 for r, k in pairs], int(rows.lengths.max())):
            after = rows.followed_by([r for r, _ in some], [wanted[r][k][:-1] for r, k in some])
            head = self._run(after, after.every)
            flat = head.logprobs([[token] for r, k in some for token in wanted[r][k][1:]])
            values = iter(value for (value,) in flat)
            for r, k in some:
                found[r][k].extend(next(values) for _ in wanted[r][k][1:])
        return [[tuple(c) for c in each] for each in found]

    @staticmethod
    def _deliver(results: list[Any], batch: list[int], found: list[Any], on_batch: OnBatch | None) -> None:
        for i, value in zip(batch, found, strict=True):
            results[i] = value
        if on_batch is not None:
            on_batch(batch, found)

    def _last(self, runs: Iterable["_Rows"]) -> "_Head":
        """The LM head at the last position of each row of several passes."""
        heads = [self._run(run, run.last, head=not self._linear) for run in runs]
        hidden = torch.cat([head.hidden for head in heads])
        logits = self._head(hidden[None])[0] if self._linear else torch.cat([head.logits for head in heads])
        return _Head(self, logits.float(), hidden, exact=self._hf.dtype == torch.float32)

    def _run(self, run: "_Rows", read: tuple[list[int], list[int]], *, head: bool = True) -> "_Head":
        """One forward pass; the LM head sees position `(row, column)` for each pair of `read`, or, without `head`, it
        is not run."""
        seen: list[torch.Tensor] = []
        rows, columns = read

        def only(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden = args[0][rows, columns][None]
            seen.append(hidden[0])
            if not head:
                raise Reached
            return (hidden, *args[1:])

        logits = torch.empty(0)
        handle = self._head.register_forward_pre_hook(only)
        try:
            with in_pass(run.what), self._attention(run.padded_left), contextlib.suppress(Reached):
                logits = self._hf(
                    input_ids=run.what.token_ids,
                    attention_mask=run.mask(),
                    position_ids=run.what.position.clamp(max=self.model.cfg.n_ctx - 1),
                    past_key_values=run.cache,
                    use_cache=run.cache is not None,
                ).logits[0]
        finally:
            handle.remove()
        return _Head(self, logits.float(), seen[0], exact=self._hf.dtype == torch.float32)

    @contextlib.contextmanager
    def _attention(self, masked: bool) -> Iterator[None]:
        """`CAUSAL` attention does not take a mask, so rows that are padded at the left need another."""
        if not masked or self._hf.config._attn_implementation != CAUSAL:
            yield
            return
        self._hf.set_attn_implementation("sdpa")
        try:
            yield
        finally:
            self._hf.set_attn_implementation(CAUSAL)

    def _write(
        self, prefix: "_Prefix", prompts: Sequence[TokenText], writers: Sequence["_Writer"], max_new_tokens: int
    ) -> None:
        """Read the prompts, each once, and generate until every writer has finished; rows that have are dropped."""
        texts = list(dict.fromkeys(prompts))
        row_of = {text: row for row, text in enumerate(texts)}
        of = [row_of[prompt] for prompt in prompts]
        runs = list(self._passes(prefix, texts, grow=True))
        logits = self._last(runs).logits[of]
        run = _Rows.joined(runs)
        run.select(of)
        writing = list(writers)
        with self._attention(masked=True):
            while True:
                room = self.model.cfg.n_ctx - run.lengths
                going = [
                    row
                    for row, writer in enumerate(writing)
                    if writer.take(logits[row], last=len(writer.ids) + 1 == max_new_tokens or int(room[row]) < 1)
                ]
                if not going:
                    return
                if len(going) < len(writing):
                    run.select(going)
                    writing = [writing[row] for row in going]
                run = run.followed_by(None, [[writer.ids[-1]] for writer in writing], generated=True)
                logits = self._run(run, run.last).logits


def end_tokens(model: MedBridge) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and those that the model's own settings of generation name."""
    found: list[int | None] = [model.text_tokenizer.eos_token_id]
    config = getattr(model.original_model, "generation_config", None)
    of_model = getattr(config, "eos_token_id", None)
    found.extend(of_model if isinstance(of_model, list) else [of_model])
    return frozenset(token for token in found if token is not None)


# --- parts of a call ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Prefix:
    text: TokenText | None
    cache: Any

    def __len__(self) -> int:
        return 0 if self.text is None else len(self.text.token_ids)

    def rest(self, prompt: TokenText) -> int:
        """Tokens of the prompt after the prefix."""
        return len(prompt.token_ids) - len(self)


class _Rows:
    """The rows of a batch: their tokens in this pass, and the cache of those before."""

    def __init__(self, engine: Engine, prefix: _Prefix | None, prompts: Sequence[TokenText], *, grow: bool) -> None:
        start = len(prefix) if prefix is not None else 0
        self.engine = engine
        self.cache = on_prefix(prefix.cache if prefix is not None else None, grow=grow)
        self.padded_left = False
        self.past = torch.ones(len(prompts), start, dtype=torch.bool, device=engine._hf.device)
        """Which columns before this pass are real."""
        self._set(
            [p.token_ids[start:] for p in prompts],
            torch.full((len(prompts),), start, device=engine._hf.device),
            [None if p.parts is None else p.parts[start:] for p in prompts],
            prompt_ends=prefix is not None,
        )

    def _set(
        self,
        ids: Sequence[Sequence[int]],
        start: torch.Tensor,
        parts: Sequence[Sequence[int] | None],
        generated: bool = False,
        prompt_ends: bool = False,
    ) -> None:
        device = self.engine._hf.device
        longest, pad = max(map(len, ids)), self.engine.model.text_tokenizer.pad_token_id
        tokens = torch.full((len(ids), longest), pad or 0)
        part = torch.full((len(ids), longest), PARTS.index("other"), dtype=torch.uint8)
        for row, (each, its_parts) in enumerate(zip(ids, parts, strict=True)):
            tokens[row, : len(each)] = torch.as_tensor(each)
            if its_parts is not None:
                part[row, : len(each)] = torch.as_tensor(its_parts, dtype=torch.uint8)
        self.counts = [len(each) for each in ids]
        columns = torch.arange(longest, device=device)
        counts = torch.tensor(self.counts, device=device)[:, None]
        real, last = columns[None, :] < counts, columns[None, :] == counts - 1
        last = last if prompt_ends else torch.zeros_like(last)
        self.what = Pass(tokens.to(device), start[:, None] + columns, part.to(device), real, generated, last)
        self.lengths = start + torch.tensor(self.counts, device=device)
        """Tokens of each row's text so far, those of this pass included."""

    @property
    def last(self) -> tuple[list[int], list[int]]:
        """Where each row's last token is."""
        return list(range(len(self.counts))), [count - 1 for count in self.counts]

    @property
    def every(self) -> tuple[list[int], list[int]]:
        """Where each token of each row is, in order."""
        pairs = [(row, column) for row, count in enumerate(self.counts) for column in range(count)]
        return [row for row, _ in pairs], [column for _, column in pairs]

    def mask(self) -> torch.Tensor:
        """`[rows, columns]`: 1 for each real token, those in the cache first."""
        return torch.cat([self.past, self.what.real], dim=1).long()

    def align(self) -> None:
        """After a pass: the rows end together, so that what comes next follows on each."""
        assert self.cache is not None  # made with grow
        self.past = to_the_right(self.cache, self.lengths)
        self.padded_left = True

    @staticmethod
    def joined(runs: Sequence["_Rows"]) -> "_Rows":
        """The rows of several passes, aligned, as one, for what follows on them; the passes' own caches are used up."""
        for run in runs:
            run.align()
        rows, columns = runs[0], max(run.past.shape[1] for run in runs)
        rows.cache = joined([run.cache for run in runs if run.cache is not None], columns)
        rows.past = torch.cat([F.pad(run.past, (columns - run.past.shape[1], 0)) for run in runs])
        rows.lengths = torch.cat([run.lengths for run in runs])
        return rows

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows of the cache, each as often as it is named."""
        assert self.cache is not None
        index = torch.tensor(list(rows), device=self.lengths.device)
        self.cache.batch_select_indices(index)
        self.past, self.lengths = self.past[index], self.lengths[index]

    def followed_by(
        self, rows: Sequence[int] | None, ids: Sequence[Sequence[int]], *, generated: bool = False
    ) -> "_Rows":
        """The next pass: `ids` after these aligned rows. None: after all, in this cache, which grows; otherwise in a
        copy of the rows."""
        after = object.__new__(_Rows)
        after.engine, after.padded_left, after.cache = self.engine, True, self.cache
        past, lengths = self.past, self.lengths
        if rows is None:
            columns = self.cache.get_seq_length() if self.cache is not None else 0
            grown = columns - past.shape[1]
            past = torch.cat([past, past.new_ones(len(past), grown)], dim=1)
        else:
            index = torch.tensor(list(rows), device=lengths.device)
            past, lengths = past[index], lengths[index]
            after.cache = _copied(self.cache, index)
        after.past = past
        after._set(ids, lengths, [None] * len(ids), generated)
        return after


def _copied(cache: Any, rows: torch.Tensor) -> Any:
    """A cache of these rows; the first stays as it is."""
    copy = on_prefix(cache, grow=True)
    assert copy is not None
    copy.batch_select_indices(rows)
    return copy


class _Head:
    """What came out of the LM head at the positions that were read."""

    def __init__(self, engine: Engine, logits: torch.Tensor, hidden: torch.Tensor, exact: bool) -> None:
        self.logits = logits
        self.hidden = hidden
        self._engine, self._exact = engine, exact

    def logprobs(self, wanted: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of `wanted[i]` at position i.

        In a bfloat16 model logits are so coarse that options tie; the wanted ones are computed again in float32 from
        the head's input, where the head is linear.
        """
        normaliser = self.logits.logsumexp(-1)
        weight, bias = self._engine._head.weight, getattr(self._engine._head, "bias", None)
        out = []
        for row, ids in enumerate(wanted):
            values = self.logits[row, list(ids)]
            if not self._exact and self._engine._linear:
                values = weight[list(ids)].float() @ self.hidden[row].float()
                if bias is not None:
                    values = values + bias[list(ids)].float()
            out.append((values - normaliser[row]).clamp(max=0.0).tolist())
        return out


class _Writer:
    """The text of one row as it grows."""

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], ends: frozenset[int], temperature: float, seed: int
    ) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._stop, self._ends, self._temperature = tokenizer, stop, ends, temperature
        # A stop string is looked for in the last tokens only: each holds a byte of it at least.
        self._tail = max((len(s.encode()) for s in stop), default=0) + 8
        self._finish: Finish | None = None
        self._random = torch.Generator().manual_seed(seed) if temperature else None

    def take(self, logits: torch.Tensor, last: bool) -> bool:
        """Choose the next token from `[vocabulary]` logits. False when the text is finished."""
        if self._random is None:
            token = int(logits.argmax())
        else:
            p = torch.softmax(logits.cpu().double() / self._temperature, -1)
            token = int(torch.multinomial(p, 1, generator=self._random))
        if token in self._ends:
            self._finish = "eos"
            return False
        self.ids.append(token)
        tail = self._tokenizer.decode(self.ids[-self._tail :], skip_special_tokens=True)
        if any(s in tail for s in self._stop):
            self._finish = "stop"
        elif last:
            self._finish = "length"
        return self._finish is None

    def result(self) -> Generated:
        text = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        assert self._finish is not None  # every writer is run to its end
        return Generated(text[: min(found)] if found else text, tuple(self.ids), self._finish)


def _shared(prompts: Sequence[TokenText]) -> TokenText | None:
    """The longest beginning of all prompts, same tokens and parts, that leaves each at least one token of its own."""
    if len(prompts) < 2:
        return None
    n = min(len(p.token_ids) for p in prompts) - 1
    first = prompts[0]
    for prompt in prompts[1:]:
        n = _agreement(first, prompt, n)
    return None if n < 1 else _first(first, n)


def _agreement(a: TokenText, b: TokenText, most: int) -> int:
    """How many tokens two texts begin with in common, with the same parts; at most `most`."""
    if (a.parts is None) != (b.parts is None):
        return 0
    for i, pair in enumerate(zip(a.token_ids[:most], b.token_ids, strict=False)):
        if pair[0] != pair[1] or (a.parts is not None and b.parts is not None and a.parts[i] != b.parts[i]):
            return i
    return min(most, len(a.token_ids), len(b.token_ids))


def _first(text: TokenText, n: int) -> TokenText:
    return TokenText(text.token_ids[:n], None if text.parts is None else text.parts[:n])
