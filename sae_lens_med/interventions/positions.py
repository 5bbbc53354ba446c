"""Which tokens an intervention acts on.

    positions.ALL   GENERATED   LAST   from_token(12)   in_parts("stem", "option")   not_tokens(ids)   at(mask)
    in_parts("stem") & ~not_tokens([7])

A filter reads `passes.current_pass()`, which this package's own runs state. In anybody else's run it counts by itself,
from the attention mask and the tokens that the model is handed (`attached`, a `MedBridge`, `hf_hooks`), so that a text
counts alike alone and in a batch, padded on either side; without a mask, no column is padding. A pass of one column
right after another of the same batch size, or one whose mask reaches back, continues it (generation with a cache); so
does a pass that repeats the last one and adds one column (without a cache); any other begins a text. What continues a
text are the generated tokens. Filters that need more (`in_parts`, `not_tokens`) raise `ModelError` there. Padding is
never acted on.

Out of scope: hooks that are added to somebody else's bridge or `HookedTransformer` by hand. They see no mask, and count
columns; `attached` adds them and sees it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_lens_med.errors import ConfigError, ModelError, nearest
from sae_lens_med.models.passes import Pass, current_input, current_pass
from sae_lens_med.records import PARTS


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is known of the columns of one forward pass; every tensor is `[batch, n]`."""

    position: torch.Tensor
    """Place of each token in its text, from 0; arbitrary at padding."""
    real: torch.Tensor
    """False at padding."""
    generated: torch.Tensor
    """Whether the model wrote the token in this run, as far as is known."""
    last: torch.Tensor | None
    """The last token of a prompt; None: a pass was stated without it."""
    known_pass: Pass | None
    """What whoever runs the model has stated; None: the rest is counted."""


class Columns:
    """Follows the forward passes that one hook sees."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget: the next pass begins a text."""
        self._lengths: torch.Tensor | None = None
        """`[batch]`: real tokens of the text so far."""
        self._tokens: torch.Tensor | None = None
        """Of the whole text, where the last pass held it."""
        self._prompt = 0
        """Columns of the pass that began the text."""

    def see(self, batch: int, n: int, device: torch.device) -> Seen:
        """The pass in progress, of `batch` rows and `n` columns. Raises `ModelError` where another was stated."""
        known = current_pass()
        if known is not None:
            self.begin()
            if known.real.shape != (batch, n):
                raise ModelError(
                    f"the activation has {batch} rows of {n} positions, but the pass in progress has "
                    f"{tuple(known.real.shape)}; an intervention needs the hook to see every position of every row."
                )
            position, real = known.position.to(device), known.real.to(device)
            last = None if known.last is None else known.last.to(device)
            return Seen(position, real, torch.full_like(real, known.generated), last, known)
        return self._counted(batch, n, device)

    def _counted(self, batch: int, n: int, device: torch.device) -> Seen:
        tokens, mask = self._handed(batch, n, device)
        column = torch.arange(n, device=device).expand(batch, n)
        real = torch.ones_like(column, dtype=torch.bool) if mask is None else mask[:, -n:].bool()
        count = real.long().cumsum(1)
        before = 0 if mask is None else mask.shape[1] - n
        if before or (n == 1 and self._lengths is not None and len(self._lengths) == batch):
            start = mask[:, :before].long().sum(1) if mask is not None and before else self._lengths
            assert start is not None
            start = start.to(device)
            self._lengths, self._tokens = start + count[:, -1], None
            generated = torch.full_like(real, n == 1)
            return Seen(start[:, None] + count - 1, real, generated, real & ~generated & _ends(real, column), None)
        if not self._repeats(tokens):
            self._prompt = n
        self._lengths, self._tokens = count[:, -1], tokens
        generated = column >= self._prompt
        return Seen(count - 1, real, real & generated, _ends(real & ~generated, column), None)

    def _handed(self, batch: int, n: int, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Tokens and mask, where they are those of this pass."""
        tokens, mask = current_input().token_ids, current_input().mask
        if tokens is not None and tokens.shape != (batch, n):
            tokens = None
        if mask is not None and (mask.shape[0] != batch or mask.shape[1] < n):
            mask = None
        return tokens, None if mask is None else mask.to(device)

    def _repeats(self, tokens: torch.Tensor | None) -> bool:
        """Whether these are the tokens of the last pass and one more column."""
        old = self._tokens
        if tokens is None or old is None or tokens.shape != (old.shape[0], old.shape[1] + 1):
            return False
        return torch.equal(tokens[:, :-1], old.to(tokens.device))


def _ends(chosen: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """The last chosen column of each row, `[batch, n]`."""
    return chosen & (column == torch.where(chosen, column, -1).amax(1, keepdim=True))


class Positions(ABC):
    """A filter of positions; combine with `&`, `|` and `~`."""

    @abstractmethod
    def mask(self, seen: Seen) -> torch.Tensor:
        """Boolean, `[batch, n]`."""

    def __and__(self, other: "Positions") -> "Positions":
        return _Both(self, other)

    def __or__(self, other: "Positions") -> "Positions":
        return _Either(self, other)

    def __invert__(self) -> "Positions":
        return _Not(self)


@dataclass(frozen=True, slots=True)
class _All(Positions):
    def mask(self, seen: Seen) -> torch.Tensor:
        return torch.ones_like(seen.position, dtype=torch.bool)


@dataclass(frozen=True, slots=True)
class _Generated(Positions):
    def mask(self, seen: Seen) -> torch.Tensor:
        return seen.generated


@dataclass(frozen=True, slots=True)
class _Last(Positions):
    def mask(self, seen: Seen) -> torch.Tensor:
        # A pass may hold the beginning of a prompt only, so the last token of a pass need not end one.
        if seen.last is None:
            if bool(seen.generated.all()):
                return torch.zeros_like(seen.generated)
            raise ModelError(
                "these positions need to know which token ends the prompt, which this forward pass does not state; "
                "use positions.from_token or positions.at."
            )
        return seen.last & ~seen.generated


@dataclass(frozen=True, slots=True)
class _FromToken(Positions):
    n: int

    def mask(self, seen: Seen) -> torch.Tensor:
        return seen.position >= self.n


@dataclass(frozen=True, slots=True)
class _InParts(Positions):
    parts: tuple[int, ...]

    def mask(self, seen: Seen) -> torch.Tensor:
        known = _require_pass(seen, "which part of the prompt a token belongs to")
        return torch.isin(known.part.to(seen.position), torch.tensor(self.parts, device=seen.position.device))


@dataclass(frozen=True, slots=True)
class _NotTokens(Positions):
    ids: tuple[int, ...]

    def mask(self, seen: Seen) -> torch.Tensor:
        known = _require_pass(seen, "which tokens these are")
        return ~torch.isin(known.token_ids.to(seen.position), torch.tensor(self.ids, device=seen.position.device))


@dataclass(frozen=True, slots=True)
class _At(Positions):
    rows: tuple[tuple[bool, ...], ...]

    def mask(self, seen: Seen) -> torch.Tensor:
        batch = len(seen.position)
        if len(self.rows) not in (1, batch):
            raise ModelError(
                f"the mask has {len(self.rows)} rows, the forward pass {batch}; use one row for all texts, or one "
                "for each text of the batch."
            )
        rows = torch.tensor(self.rows, device=seen.position.device).expand(batch, -1)
        inside = seen.position < rows.shape[1]
        return inside & rows.gather(1, seen.position.clamp(0, rows.shape[1] - 1))


@dataclass(frozen=True, slots=True)
class _Both(Positions):
    left: Positions
    right: Positions

    def mask(self, seen: Seen) -> torch.Tensor:
        return self.left.mask(seen) & self.right.mask(seen)


@dataclass(frozen=True, slots=True)
class _Either(Positions):
    left: Positions
    right: Positions

    def mask(self, seen: Seen) -> torch.Tensor:
        return self.left.mask(seen) | self.right.mask(seen)


@dataclass(frozen=True, slots=True)
class _Not(Positions):
    of: Positions

    def mask(self, seen: Seen) -> torch.Tensor:
        return ~self.of.mask(seen)


ALL: Positions = _All()
"""Every token."""
GENERATED: Positions = _Generated()
"""Tokens that the model wrote in this run: from the pass on that takes the first of them in."""
LAST: Positions = _Last()
"""The last token of the prompt, after which the answer comes; `LAST | GENERATED` goes on with each generated one."""


def from_token(n: int) -> Positions:
    """Token `n` of the text (0: the first, BOS included) and all after it. Raises `ConfigError` for n < 0."""
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**31:
        raise ConfigError(f"from_token counts from the text's first token, 0; got {n!r}.")
    return _FromToken(n)


def in_parts(*names: str) -> Positions:
    """Tokens of these parts of the prompt (`records.PARTS`). Raises `ConfigError` for a name that is none."""
    if not names:
        raise ConfigError(f"name at least one part of {', '.join(PARTS)}.")
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"there is no part {name!r}{nearest(name, PARTS) or '.'} Parts: {', '.join(PARTS)}.")
    return _InParts(tuple(PARTS.index(name) for name in names))


def not_tokens(ids: Iterable[int]) -> Positions:
    """Tokens other than these vocabulary ids: `not_tokens(tokenizer.all_special_ids)`."""
    return _NotTokens(tuple(int(i) for i in ids))


def at(mask: Any) -> Positions:
    """Positions of the text where `mask` is True.

    Args:
        mask: boolean array or tensor, `[n]` for every row or `[batch, n]`; False after its end.

    Raises `ConfigError` for anything else.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim not in (1, 2) or not array.size:
        raise ConfigError(f"a mask of positions must be boolean, [n] or [batch, n]; got {array.dtype} {array.shape}.")
    return _At(tuple(tuple(row.tolist()) for row in np.atleast_2d(array)))


_NAMED: dict[str, Positions] = {"all": ALL, "generated": GENERATED, "last": LAST}
_KEYS = ("from", "parts", "not_tokens", "all_of", "any_of", "not")


def read_positions(value: Any, special_ids: Sequence[int] | None = None) -> Positions:
    """A filter from what a file or a command can say.

    Args:
        value: a filter itself; `all`, `generated`, `last`, `not_special` or a part's name (`stem`, ...); or one of
            `{from: n}`, `{parts: [..]}`, `{not_tokens: [..]}`, `{all_of: [..]}`, `{any_of: [..]}`, `{not: ..}`.
        special_ids: what `not_special` leaves out.

    Raises `ConfigError` for anything else.
    """
    if isinstance(value, Positions):
        return value
    if isinstance(value, str):
        if value == "not_special":
            if special_ids is None:
                raise ConfigError(
                    "positions: not_special needs special_ids, the vocabulary ids of the special tokens; pass "
                    "tokenizer.all_special_ids."
                )
            return not_tokens(special_ids)
        if value in PARTS:
            return in_parts(value)
        if value not in _NAMED:
            known = [*_NAMED, "not_special", *PARTS]
            raise ConfigError(
                f"{value!r} is not a kind of positions{nearest(value, known) or '.'} Known: {', '.join(known)}."
            )
        return _NAMED[value]
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(
            f"positions must be a name or one of {', '.join(f'{{{k}: ..}}' for k in _KEYS)}; got {value!r}."
        )
    key, inner = next(iter(value.items()))
    if key not in _KEYS:
        raise ConfigError(f"positions has no key {key!r}{nearest(str(key), _KEYS) or '.'} Known: {', '.join(_KEYS)}.")
    if key == "from":
        return from_token(inner)
    if key == "not":
        return ~read_positions(inner, special_ids)
    if not isinstance(inner, list | tuple) or not inner:
        raise ConfigError(f"positions: {key} needs a non-empty list, got {inner!r}.")
    if key == "parts":
        return in_parts(*map(str, inner))
    if key == "not_tokens":
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in inner):
            raise ConfigError(f"positions: not_tokens needs vocabulary ids, got {inner!r}.")
        return not_tokens(inner)
    filters = [read_positions(each, special_ids) for each in inner]
    found = filters[0]
    for each in filters[1:]:
        found = found & each if key == "all_of" else found | each
    return found


def _require_pass(seen: Seen, what: str) -> Pass:
    if seen.known_pass is None:
        raise ModelError(
            f"these positions need to know {what}, which is not known here; run the model through this package's "
            "Engine or within passes.in_pass(Pass(...)), or use positions.at(mask)."
        )
    return seen.known_pass
