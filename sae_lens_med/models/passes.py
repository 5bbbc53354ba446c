"""What the columns of a forward pass are: stated by whoever runs the model, read by hooks that act on some positions.

A TransformerLens hook sees an activation `[batch, n, d]` and nothing else: not which tokens these are, where in their
text they stand (with a KV cache, n counts only the new ones), what is padding, or what the model wrote itself. This
package's own runs state it:

    with in_pass(Pass(token_ids, position, part, real, generated)):
        model(...)

Outside of such a run `current_pass()` is None, and a hook has only its activation to go by, and what the model was
handed: `watched` keeps the tokens and the attention mask of each forward pass for `current_input()`.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One forward pass; every tensor is `[batch, n]`, on the model's device."""

    token_ids: torch.Tensor
    """Vocabulary ids of the tokens that go in."""
    position: torch.Tensor
    """Place of each token in its own text, from 0; arbitrary at padding."""
    part: torch.Tensor
    """Index into `records.PARTS`; `other` where nothing is known about a token."""
    real: torch.Tensor
    """False at padding."""
    generated: bool = False
    """Whether these tokens were written by the model in this run."""
    last: torch.Tensor | None = None
    """True at the last token of a prompt; None: not stated. The shared beginning of several prompts has none."""


_current: ContextVar[Pass | None] = ContextVar("sae_lens_med_pass", default=None)


@contextlib.contextmanager
def in_pass(this: Pass) -> Iterator[None]:
    """Let hooks read `this` by `current_pass()` while the model runs."""
    token = _current.set(this)
    try:
        yield
    finally:
        _current.reset(token)


def current_pass() -> Pass | None:
    """The forward pass in progress; None when whoever runs the model did not state it."""
    return _current.get()


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """What a model was handed for one forward pass of n columns, as far as it was."""

    token_ids: torch.Tensor | None = None
    """`[batch, n]`."""
    mask: torch.Tensor | None = None
    """`[batch, n or more]`: 0 at padding; its last n columns are those of the pass, the others are in the cache."""


_input: ContextVar[Input | None] = ContextVar("sae_lens_med_input", default=None)

Reader = Callable[[tuple[Any, ...], dict[str, Any]], Input]


def current_input() -> Input:
    """What the model of the pass in progress was handed; empty where nobody watches it."""
    return _input.get() or Input()


@contextlib.contextmanager
def handed(this: Input) -> Iterator[None]:
    """Let hooks read `this` by `current_input()` while the model runs, unless the model itself is handed more."""
    token = _input.set(this)
    try:
        yield
    finally:
        _input.reset(token)


def transformers_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Input:
    """From the arguments of a transformers model's forward."""
    tokens = kwargs.get("input_ids", args[0] if args else None)
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    return Input(
        tokens if isinstance(tokens, torch.Tensor) and tokens.ndim == 2 and not tokens.is_floating_point() else None,
        mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None,
    )


@contextlib.contextmanager
def watched(model: nn.Module, read: Reader = transformers_input) -> Iterator[None]:
    """`watch` for the block."""
    stop = watch(model, read)
    try:
        yield
    finally:
        stop()


def watch(model: nn.Module, read: Reader = transformers_input) -> Callable[[], None]:
    """Let hooks read what `model` is handed, from now until the function that is returned is called."""
    open_passes: list[Token[Input | None]] = []

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own, outer = read(args, kwargs), current_input()
        open_passes.append(_input.set(Input(own.token_ids, outer.mask if own.mask is None else own.mask)))

    def end(*_: Any) -> None:
        _input.reset(open_passes.pop())

    before = model.register_forward_pre_hook(begin, with_kwargs=True)
    after = model.register_forward_hook(end, always_call=True)

    def stop() -> None:
        before.remove()
        after.remove()

    return stop
