"""What the columns of a forward pass are: stated by whoever runs the model, read by hooks that act on some positions.

A TransformerLens hook sees an activation `[batch, n, d]` and nothing else: not which tokens these are, where in their
text they stand (with a KV cache, n counts only the new ones), what is padding, or what the model wrote itself. This
package's own runs state it:

    with in_pass(Pass(token_ids, position, part, real, generated)):
        model(...)

Outside of such a run `current_pass()` is None, and a hook has only its activation to go by.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch


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
