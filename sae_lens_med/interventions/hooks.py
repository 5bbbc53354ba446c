"""`record`, `splice`, `ablate`, `clamp`, `steer`: interventions on SAE features as TransformerLens hooks.

Each returns `(hook_name, fn)` pairs: `model.run_with_hooks(tokens, fwd_hooks=steer(sae, {123: 5.0}))` works, and so
does `with attached(model, pairs): model.generate(...)`. With c = encode(x), decoder rows d_i and the scale s(x) of an
SAE that normalises each token (else 1):

    splice    x' = x̂(c)                      or x̂(c) + (x − x̂(c)) with the error term
    clamp     x' = x + s Σ (v_i − c_i) d_i
    ablate    clamp to 0, to the feature's mean, or to its value at another token
    steer     x' = x + s Σ v_i d_i           v_i in units of the activation, of the feature's maximum, or such that
                                             the step is v_i times as long as x

The error term x − x̂ stays as it is; `error_term=False` of `clamp` and `ablate` leaves it out: x' = x̂(c'). A transcoder
reads at its `hook_name` and acts at its `hook_name_out`.

Several interventions are lists added together. Those at one hook run in the order of the list, each on what the one
before left: two `steer`s add up, and a `clamp` after a `splice` encodes the reconstruction. Positions that the filter
leaves out keep their activation bit for bit; no features, no pairs. SAEs compute in their own dtype; the model gets its
own back.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from sae_lens_med.errors import ConfigError, ModelError, nearest
from sae_lens_med.interventions.dictionary import AnySae, Dictionary
from sae_lens_med.interventions.positions import ALL, Columns, Positions, Seen, read_positions

Pair = tuple[str, Callable[..., torch.Tensor | None]]

SteerUnit = Literal["raw", "max", "norm"]
ClampUnit = Literal["raw", "max"]
AblateMode = Literal["zero", "mean", "resample"]
STEER_UNITS: tuple[SteerUnit, ...] = ("raw", "max", "norm")
CLAMP_UNITS: tuple[ClampUnit, ...] = ("raw", "max")
ABLATE_MODES: tuple[AblateMode, ...] = ("zero", "mean", "resample")

Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""`(x [m, d_in], the activation to change [m, d_out], place of each token in its text [m])` -> the new one."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedPass:
    """Feature activations of one forward pass, at the positions of the filter."""

    acts: torch.Tensor
    """`[m, k]`, in the SAE's dtype, on its device, detached."""
    row: torch.Tensor
    """`[m]`: row in the batch."""
    position: torch.Tensor
    """`[m]`: place in the text, from 0."""


@dataclass(slots=True, eq=False)
class Recording:
    """What `record` writes into, one entry for each forward pass."""

    passes: list[RecordedPass] = field(default_factory=list)

    def text(self, row: int) -> torch.Tensor:
        """`[n, k]`: of one row of the batch, all passes in order. Raises `ConfigError` before the first pass."""
        if not self.passes:
            raise ConfigError("nothing has been recorded yet; run the model with the pairs first.")
        return torch.cat([p.acts[p.row == row] for p in self.passes])


def record(sae: AnySae, into: Recording, *, features: Iterable[int] | None = None, positions: Any = ALL) -> list[Pair]:
    """Write the activations of `features` (None: all) at `positions` into `into`; changes nothing.

    Raises `ConfigError` for a feature that does not exist.
    """
    dictionary = Dictionary(sae)
    chosen = None if features is None else dictionary.features(features)

    def write(activation: torch.Tensor, where: torch.Tensor, seen: Seen) -> None:
        acts, _ = dictionary.acts(activation[where], chosen)
        row = where.nonzero()[:, 0]
        into.passes.append(RecordedPass(acts.detach(), row, seen.position[where]))

    return [(dictionary.hook_in, _Reader(dictionary, read_positions(positions), write))]


def splice(sae: AnySae | Sequence[AnySae], *, error_term: bool = False, positions: Any = ALL) -> list[Pair]:
    """Replace the activation by the SAE's reconstruction.

    Args:
        sae: one, or several at once.
        error_term: add what the SAE fails to reconstruct, so that nothing changes but for rounding.
        positions: a filter (`positions`), or what `read_positions` takes.
    """
    pairs: list[Pair] = []
    for each in sae if isinstance(sae, Sequence) else [sae]:
        dictionary = Dictionary(each)

        def change(x: torch.Tensor, old: torch.Tensor, position: torch.Tensor, of: Dictionary = dictionary) -> Any:
            del position
            found = of.through(x)
            return found + (old.to(found) - found) if error_term else found

        pairs += _pairs(dictionary, change, positions)
    return pairs


def clamp(
    sae: AnySae,
    features: Mapping[int, float],
    *,
    unit: ClampUnit = "raw",
    maximum: Any = None,
    error_term: bool = True,
    positions: Any = ALL,
) -> list[Pair]:
    """Set features to fixed values.

    Args:
        features: value of each; a feature that does not fire is set too.
        unit: `raw`: values of activations; `max`: multiples of the feature's maximum.
        maximum: `[d_sae]`, for `max`: `FeatureStatistics.maximum`.
        error_term: False: the activation becomes the changed reconstruction.
        positions: as in `splice`.

    Raises `ConfigError` for a feature, unit or value that cannot be, and where `maximum` is missing.
    """
    _require_one_of("unit", unit, CLAMP_UNITS)
    dictionary, chosen, values = _values(sae, features)
    if unit == "max":
        values = values * _per_feature("maximum", maximum, dictionary, "unit 'max'", chosen)
    return _edit(dictionary, chosen, lambda c, _: values.to(c).expand_as(c), error_term, positions)


def ablate(
    sae: AnySae,
    features: Iterable[int],
    *,
    mode: AblateMode = "zero",
    mean: Any = None,
    values: Any = None,
    seed: int = 0,
    error_term: bool = True,
    positions: Any = ALL,
) -> list[Pair]:
    """Take away what features tell.

    Args:
        features: indices.
        mode: `zero`: they do not fire; `mean`: they have their mean over a data set everywhere; `resample`: they have
            their values at other tokens, all features of a token together.
        mean: `[d_sae]`, for `mean`: `FeatureStatistics.mean`.
        values: `[rows, d_sae]` or `[rows, len(features)]`, for `resample`: activations at tokens of other texts. Token
            n of every text takes a row that depends on `seed` and n alone, with a cache or without. None: the
            positions of each forward pass are permuted among themselves, so that results depend on what is in it.
        seed: of `resample`.
        error_term: as in `clamp`.
        positions: as in `splice`.

    Raises `ConfigError` for a feature or mode that cannot be, and where `mean` is missing; `ModelError` in a forward
    pass with one position to permute.
    """
    _require_one_of("mode", mode, ABLATE_MODES)
    dictionary = Dictionary(sae)
    chosen = dictionary.features(features)
    if mode == "zero":
        return _edit(dictionary, chosen, lambda c, _: torch.zeros_like(c), error_term, positions)
    if mode == "mean":
        means = _per_feature("mean", mean, dictionary, "mode 'mean'", chosen)
        return _edit(dictionary, chosen, lambda c, _: means.to(c).expand_as(c), error_term, positions)
    if values is None:
        return _edit(dictionary, chosen, _Permuted(seed), error_term, positions)
    table = torch.as_tensor(np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values))
    if table.ndim != 2 or not len(table) or table.shape[1] not in (dictionary.d_sae, len(chosen)):
        raise ConfigError(
            f"resample needs values [rows, d_sae {dictionary.d_sae}] or [rows, {len(chosen)} features], got "
            f"{tuple(table.shape)}."
        )
    if table.shape[1] == dictionary.d_sae:
        table = table[:, list(chosen)]
    return _edit(dictionary, chosen, _Drawn(table.to(dictionary.device), seed), error_term, positions)


def steer(
    sae: AnySae,
    features: Mapping[int, float],
    *,
    unit: SteerUnit = "raw",
    maximum: Any = None,
    positions: Any = ALL,
) -> list[Pair]:
    """Add multiples of decoder directions, whatever the features' own activations.

    Args:
        features: multiple of each; negative steers away.
        unit: `raw`: units of activation; `max`: the feature's maximum; `norm`: the step is that many times as long as
            the activation at the token.
        maximum, positions: as in `clamp`.

    Raises `ConfigError` as `clamp` does.
    """
    _require_one_of("unit", unit, STEER_UNITS)
    dictionary, chosen, values = _values(sae, features)
    if not chosen:
        return []
    if unit == "max":
        values = values * _per_feature("maximum", maximum, dictionary, "unit 'max'", chosen)
    scaled = dictionary.sae.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale")

    def change(x: torch.Tensor, old: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        del position
        rows = dictionary.rows(chosen)
        if unit == "norm":
            rows = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            size = old.to(rows).norm(dim=-1, keepdim=True)
            return _sum(old, (values.to(rows) @ rows) * size)
        step = values.to(rows) @ rows
        scale = dictionary.acts(x, chosen)[1] if scaled else None
        return _sum(old, (step if scale is None else scale * step).expand(len(old), -1))

    return _pairs(dictionary, change, positions)


# --- the edits' common half -----------------------------------------------------------------------------------------


def _edit(
    dictionary: Dictionary,
    chosen: tuple[int, ...],
    target: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    error_term: bool,
    positions: Any,
) -> list[Pair]:
    """`target(c [m, k], position [m])` gives the new activations of the chosen features."""
    if not chosen and error_term:
        return []

    def change(x: torch.Tensor, old: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        if error_term:
            acts, scale = dictionary.acts(x, chosen)
            step = (target(acts, position) - acts) @ dictionary.rows(chosen)
            return _sum(old, step if scale is None else scale * step)

        def edited(acts: torch.Tensor) -> torch.Tensor:
            changed = acts.clone()
            if chosen:
                changed[:, list(chosen)] = target(acts[:, list(chosen)], position)
            return changed

        return dictionary.through(x, edited)

    return _pairs(dictionary, change, positions)


def _sum(old: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """In the wider of the two dtypes, on the model's device."""
    dtype = torch.promote_types(old.dtype, step.dtype)
    return old.to(dtype) + step.to(old.device, dtype)


class _Permuted:
    """Activations of each pass permuted among its positions."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, acts: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        del position
        if len(acts) < 2:
            raise ModelError(
                "resample without values permutes the positions of a forward pass, and this one has a single "
                "position; pass values= from other texts."
            )
        return acts[torch.randperm(len(acts), generator=self._random).to(acts.device)]


class _Drawn:
    """A row of `table` for each place in a text."""

    _BLOCK = 4096

    def __init__(self, table: torch.Tensor, seed: int) -> None:
        self._table, self._seed = table, seed
        self._draws = np.empty(0, dtype=np.int64)

    def __call__(self, acts: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        while len(self._draws) <= int(position.max()):
            random = np.random.default_rng([self._seed, len(self._draws)])
            self._draws = np.append(self._draws, random.integers(len(self._table), size=self._BLOCK))
        rows = torch.from_numpy(self._draws).to(self._table.device)[position.to(self._table.device)]
        return self._table[rows].to(acts)


# --- hooks ----------------------------------------------------------------------------------------------------------


class Hook:
    """A hook function that follows the passes it sees; `begin` makes it forget them."""

    def __init__(self, dictionary: Dictionary, positions: Positions) -> None:
        self.dictionary, self.positions = dictionary, positions
        self._columns = Columns()

    def begin(self) -> None:
        self._columns.begin()

    def _seen(self, flat: torch.Tensor) -> tuple[torch.Tensor, Seen]:
        """The chosen positions `[batch, n]`, and what is known."""
        seen = self._columns.see(flat.shape[0], flat.shape[1], flat.device)
        return self.positions.mask(seen) & seen.real, seen


class _Reader(Hook):
    """Shows `see(activation [batch, n, d_in], where [batch, n], seen)` what passes."""

    def __init__(self, dictionary: Dictionary, positions: Positions, see: Callable[..., None]) -> None:
        super().__init__(dictionary, positions)
        self._see = see

    def __call__(self, activation: torch.Tensor, hook: Any) -> None:
        flat = _flattened(activation, self.dictionary.d_in, hook)
        self._see(flat, *self._seen(flat))


class _Taker:
    """Keeps what a transcoder reads until its output is changed."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        self.taken: torch.Tensor | None = None

    def __call__(self, activation: torch.Tensor, hook: Any) -> None:
        self.taken = _flattened(activation, self.dictionary.d_in, hook)


class _Changer(Hook):
    def __init__(self, dictionary: Dictionary, positions: Positions, change: Change, source: _Taker | None) -> None:
        super().__init__(dictionary, positions)
        self._change, self._source = change, source

    def __call__(self, activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
        flat = _flattened(activation, self.dictionary.d_out, hook)
        x = flat
        if self._source is not None:
            if self._source.taken is None or self._source.taken.shape[:2] != flat.shape[:2]:
                raise ModelError(
                    f"the transcoder's input {self.dictionary.hook_in} did not run before its output "
                    f"{self.dictionary.hook_out}; add both pairs of the intervention."
                )
            x, self._source.taken = self._source.taken, None
        where, seen = self._seen(flat)
        if bool(where.all()):
            new = self._change(x.flatten(0, 1), flat.flatten(0, 1), seen.position.flatten())
            return new.to(activation).view_as(activation)
        if not bool(where.any()):
            return None
        out = flat.clone()
        out[where] = self._change(x[where], flat[where], seen.position[where]).to(out)
        return out.view_as(activation)


def _pairs(dictionary: Dictionary, change: Change, positions: Any) -> list[Pair]:
    chosen = read_positions(positions)
    if dictionary.hook_in == dictionary.hook_out:
        return [(dictionary.hook_out, _Changer(dictionary, chosen, change, None))]
    source = _Taker(dictionary)
    return [(dictionary.hook_in, source), (dictionary.hook_out, _Changer(dictionary, chosen, change, source))]


def _flattened(activation: torch.Tensor, width: int, hook: Any) -> torch.Tensor:
    """`[batch, n, width]`, heads side by side."""
    flat = activation.flatten(2) if activation.ndim == 4 else activation
    if flat.ndim != 3 or flat.shape[-1] != width:
        raise ModelError(
            f"the activation at {getattr(hook, 'name', hook)} is {list(activation.shape)}, where this SAE needs "
            f"[batch, n, {width}]; it belongs to another model or hook."
        )
    return flat


# --- arguments ------------------------------------------------------------------------------------------------------


def _values(sae: AnySae, features: Mapping[int, float]) -> tuple[Dictionary, tuple[int, ...], torch.Tensor]:
    if not isinstance(features, Mapping):
        raise ConfigError(f"features must be {{index: value}}, got {features!r}.")
    dictionary = Dictionary(sae)
    chosen = dictionary.features(features)
    for feature, value in features.items():
        if not isinstance(value, int | float | np.number) or not np.isfinite(value):
            raise ConfigError(f"the value of feature {feature} must be a finite number, got {value!r}.")
    values = torch.tensor([float(value) for value in features.values()], device=dictionary.device)
    return dictionary, chosen, values


def _per_feature(
    name: str, given: Any, dictionary: Dictionary, needed_by: str, chosen: tuple[int, ...]
) -> torch.Tensor:
    if given is None:
        raise ConfigError(
            f"{needed_by} needs {name}=, the {name} of each feature over a data set; compute it with "
            f"sae_lens_med.features.statistics.feature_statistics(model, sae, texts).{name}."
        )
    array = torch.as_tensor(np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given))
    if array.shape != (dictionary.d_sae,):
        raise ConfigError(f"{name} must have d_sae = {dictionary.d_sae} values, got {list(array.shape)}.")
    return array[list(chosen)].to(dictionary.device, torch.float32)


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known) or '.'}")
