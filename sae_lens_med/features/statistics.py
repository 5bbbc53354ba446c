"""What each feature of an SAE does over a set of texts, and random features that do as much.

Over the tokens that count (special tokens and activation sinks left out, by the rule of `collect`), for c = encode(x):

    maximum      = max c            the unit of `steer` and `clamp`
    mean         = mean c           also over tokens where the feature is off; what `ablate` to the mean puts
    firing_rate  = share of tokens with c > 0

`matched_random` draws the null of an intervention (DESIGN: no number without its null): sets of features that fire as
often and as strongly as the given ones. Distance is Euclidean in (ln firing rate, ln mean where it fires), so that 0.7
is a factor of 2 in one of them. A feature that never fires matches others that never fire.

Out of scope: statistics by part of a text, transcoders, SAEs with negative activations.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sae_lens_med.errors import ConfigError, DataError, ModelError, ReleaseError, StudyError
from sae_lens_med.features.rules import (
    CALIBRATION_ITEMS,
    ENCODE_VALUES,
    SaeAtHook,
    flat_input,
    require_sae,
    require_settings,
    special_ids,
)
from sae_lens_med.models.bridge import MedBridge, default_batch_tokens
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.records import IntArray
from sae_lens_med.runs.files import atomic_path, json_sha256
from sae_lens_med.runs.progress import progress_bar

FORMAT = 1
FloatArray = npt.NDArray[np.float32]

_ARRAYS = ("maximum", "mean", "firing_rate")
_SAE_KEYS = ("source", "sae_id", "sha256", "hook_name")


class HasTokens(Protocol):
    """What is read of a text: `records.Prompt` and `inference.TokenText` have it."""

    @property
    def token_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStatistics:
    """Maximum, mean and firing rate of every feature of one SAE over one set of texts."""

    maximum: FloatArray
    """`[d_sae]`, greatest activation, >= 0; 0 for a feature that never fired."""
    mean: FloatArray
    """`[d_sae]`, mean activation over all tokens that count, >= 0."""
    firing_rate: FloatArray
    """`[d_sae]`, share of the tokens that count at which the feature is above 0."""
    n_tokens: int
    """Tokens that count, > 0."""
    sae: dict[str, Any]
    """`source`, `sae_id`, `sha256`, `hook_name`."""
    model: dict[str, Any]
    """`MedBridge.provenance`."""
    data_sha256: str
    """Of the texts' token ids, in order."""
    exclusion: dict[str, Any]
    """`rule` in words, `sink_multiple`, `median_norm`, `sink_threshold`, and how many `special_tokens` and
    `activation_sinks` were left out."""

    def __post_init__(self) -> None:
        d_sae = len(self.maximum)
        for name in _ARRAYS:
            array: FloatArray = getattr(self, name)
            if array.shape != (d_sae,) or array.dtype != np.float32 or not d_sae:
                raise DataError(
                    f"feature statistics: {name} is {array.dtype} {array.shape}, expected float32 ({d_sae},)."
                )
            if not np.isfinite(array).all() or (array < 0).any():
                raise DataError(f"feature statistics: {name} has values that are negative or not finite.")
        if (self.firing_rate > 1).any():
            raise DataError("feature statistics: a firing rate is above 1.")
        if ((self.firing_rate > 0) != (self.mean > 0)).any() or ((self.firing_rate > 0) != (self.maximum > 0)).any():
            raise DataError("feature statistics: a feature fires without a mean or a maximum above 0, or the reverse.")
        if self.n_tokens < 1:
            raise DataError(f"feature statistics need at least one token that counts, got {self.n_tokens}.")
        if missing := [key for key in _SAE_KEYS if key not in self.sae]:
            raise DataError(f"feature statistics: the SAE's identity has no {', '.join(missing)}.")

    @property
    def d_sae(self) -> int:
        """How many features there are."""
        return len(self.maximum)

    @property
    def mean_when_active(self) -> npt.NDArray[np.float64]:
        """`[d_sae]`, mean activation over the tokens at which the feature fires; 0 for one that never did."""
        rate = self.firing_rate.astype(np.float64)
        return np.divide(self.mean.astype(np.float64), rate, out=np.zeros_like(rate), where=rate > 0)

    def require_sae(self, loaded_sae: SaeAtHook) -> None:
        """Raise `ReleaseError` when these are the statistics of another SAE."""
        if self.sae["sha256"] != loaded_sae.sha256 or self.d_sae != int(loaded_sae.sae.cfg.d_sae):
            raise ReleaseError(
                f"these feature statistics belong to the SAE {self.sae['source']}, not to {loaded_sae.source}; "
                "compute them again with this SAE."
            )

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; what is not an array is JSON in its header."""
        about = {
            "format": FORMAT,
            "n_tokens": self.n_tokens,
            "sae": self.sae,
            "model": self.model,
            "data_sha256": self.data_sha256,
            "exclusion": self.exclusion,
        }
        text = json.dumps(about, ensure_ascii=False, allow_nan=False)
        with atomic_path(Path(path)) as temporary:
            save_file({name: getattr(self, name) for name in _ARRAYS}, temporary, metadata={"statistics": text})

    @classmethod
    def load(cls, path: Path, loaded_sae: SaeAtHook | None = None) -> "FeatureStatistics":
        """The inverse of `save`. With `loaded_sae`, statistics of another SAE are refused (`ReleaseError`).

        Raises `StudyError` for a file that is missing, damaged or of another format.
        """
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {})["statistics"])
                if about["format"] != FORMAT:
                    raise StudyError(f"{path} has format {about['format']!r}, but this version reads {FORMAT}.")
                found = cls(
                    **{name: file.get_tensor(name) for name in _ARRAYS},
                    n_tokens=int(about["n_tokens"]),
                    sae=dict(about["sae"]),
                    model=dict(about["model"]),
                    data_sha256=str(about["data_sha256"]),
                    exclusion=dict(about["exclusion"]),
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, DataError) as error:
            raise StudyError(
                f"{path} does not contain feature statistics ({error}); delete it to compute them again."
            ) from error
        if loaded_sae is not None:
            found.require_sae(loaded_sae)
        return found


@torch.no_grad()
def feature_statistics(
    model: MedBridge,
    loaded_sae: SaeAtHook,
    texts: Sequence[HasTokens],
    *,
    batch_tokens: int | None = None,
    sink_multiple: float = 5.0,
    progress: bool = True,
) -> FeatureStatistics:
    """Maximum, mean and firing rate of every feature over `texts`.

    Args:
        model: run up to the SAE's hook only, without hooks that are attached to it.
        loaded_sae: the SAE in float32, with its identity; its activations are >= 0.
        texts: prompts or other token texts, each run on its own.
        batch_tokens: most tokens of a batch, padding included. Changes speed and memory, not the result.
        sink_multiple: a token is a sink when its norm is above this multiple of the median norm over the tokens of
            the first 32 texts that are not special; > 1.
        progress: show a progress bar on stderr.

    Raises `DataError` when there is no token that counts, `ModelError` for a hook or width that does not fit and for a
    text longer than the model's context, `ReleaseError` for an SAE that cannot be used here.
    """
    batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
    require_settings(batch_tokens, sink_multiple)
    require_sae(loaded_sae)
    token_ids = [list(text.token_ids) for text in texts]
    if not token_ids:
        raise DataError("there are no texts to compute feature statistics over.")
    if (longest := max(map(len, token_ids))) > model.cfg.n_ctx:
        raise ModelError(
            f"a text has {longest} tokens, more than the {model.cfg.n_ctx} that {model.provenance['name']} takes; "
            "leave it out."
        )
    never = special_ids(model)
    reader = ResidualReader(model, [loaded_sae.hook_name])
    counts = {"special_tokens": 0, "activation_sinks": 0}
    sums = _Sums(loaded_sae)
    with _bar(progress, len(token_ids)) as advance:
        # The first texts' activations are held until the rule that they give is known.
        held = list(_activations(reader, loaded_sae, token_ids[:CALIBRATION_ITEMS], batch_tokens))
        norms = [_norms(x)[~np.isin(ids, never)] for ids, x in held]
        if not sum(map(len, norms)):
            raise DataError("the first texts have only special tokens; use texts with words in them.")
        median = float(np.median(np.concatenate(norms)))
        threshold = sink_multiple * median
        rest = _activations(reader, loaded_sae, token_ids[CALIBRATION_ITEMS:], batch_tokens)
        for ids, x in _drained(held, rest):
            special = np.isin(ids, never)
            sink = (_norms(x) > threshold) & ~special
            counts["special_tokens"] += int(special.sum())
            counts["activation_sinks"] += int(sink.sum())
            sums.add(x[torch.from_numpy(~(special | sink)).to(x.device)])
            advance()
    if not sums.n_tokens:
        raise DataError("no token of these texts counts: all are special tokens or activation sinks.")
    maximum, mean, rate = sums.result()
    n_first = min(CALIBRATION_ITEMS, len(token_ids))
    return FeatureStatistics(
        maximum=maximum,
        mean=mean,
        firing_rate=rate,
        n_tokens=sums.n_tokens,
        sae={key: getattr(loaded_sae, key) for key in _SAE_KEYS},
        model=dict(model.provenance),
        data_sha256=texts_sha256(texts),
        exclusion={
            "rule": (
                f"special tokens, and activation sinks: norm > {sink_multiple:g} x {median:.6g}, the median norm over "
                f"the tokens that are not special of the first {n_first} texts"
            ),
            "sink_multiple": sink_multiple,
            "median_norm": median,
            "sink_threshold": threshold,
            **counts,
        },
    )


def texts_sha256(texts: Sequence[HasTokens]) -> str:
    """The identity of texts for `FeatureStatistics.data_sha256`."""
    return json_sha256([[int(i) for i in text.token_ids] for text in texts])


@dataclass(frozen=True, slots=True, eq=False)
class MatchedSets:
    """Random feature sets, position by position matched with the given features."""

    features: IntArray
    """`[len(features)]`, the given ones."""
    sets: IntArray
    """`[n_sets, len(features)]`; column j stands for `features[j]`."""
    fold: npt.NDArray[np.float64]
    """`[n_sets, len(features)]`, by which factor (>= 1) the drawn feature differs from the given one: the greater of
    that in firing rate and that in mean activation where it fires; 1 for features that never fire."""


def matched_sets(
    stats: FeatureStatistics,
    features: Sequence[int],
    n_sets: int,
    rng: np.random.Generator,
    *,
    neighbours: int | None = None,
) -> MatchedSets:
    """Feature sets that fire as often and as strongly as `features`.

    For each given feature, its `neighbours` nearest features in (ln firing rate, ln mean where it fires), the given
    ones left out, are its pool. A set takes one of each pool, uniformly at random, none twice; no two sets are of the
    same features.

    Args:
        stats: over the texts that the intervention will be measured on.
        features: distinct indices in [0, d_sae).
        n_sets: how many sets, >= 1.
        rng: the same state gives the same sets.
        neighbours: size of a pool; twice `n_sets` when not given, and always at least that plus the features to match.

    Raises `ConfigError` for indices out of range or given twice, `DataError` when the SAE has too few other features
    that fire (or never fire, as the given ones do) for that many sets.
    """
    given = np.asarray(list(features), dtype=np.int64)
    _require_features(given, stats.d_sae)
    if n_sets < 1:
        raise ConfigError(f"matched random features need at least one set, got {n_sets}.")
    rate = stats.firing_rate.astype(np.float64)
    with np.errstate(divide="ignore"):
        place = np.stack([np.log(rate), np.log(stats.mean_when_active)], axis=1)
    place[rate == 0] = 0.0
    size = (2 * n_sets if neighbours is None else max(neighbours, n_sets)) + len(given) - 1
    pools = []
    for feature in given.tolist():
        alike = np.setdiff1d(np.flatnonzero((rate > 0) == (rate[feature] > 0)), given)
        distance = np.linalg.norm(place[alike] - place[feature], axis=1)
        pool = alike[np.argsort(distance, kind="stable")[:size]]
        if len(pool) < n_sets + len(given) - 1:
            how = "fire" if rate[feature] > 0 else "never fire"
            raise DataError(
                f"{len(pool)} other features {how} on these {stats.n_tokens} tokens, too few for {n_sets} sets that "
                f"match {len(given)} features ({feature} among them); ask for fewer sets, or compute the statistics "
                "over more texts."
            )
        pools.append(pool)
    sets = np.array(list(_drawn(pools, n_sets, rng)), dtype=np.int64)
    apart = np.abs(place[sets] - place[given][None]).max(axis=-1)
    return MatchedSets(features=given, sets=sets, fold=np.exp(apart))


def matched_random(
    stats: FeatureStatistics,
    features: Sequence[int],
    n_sets: int,
    rng: np.random.Generator,
    *,
    neighbours: int | None = None,
) -> IntArray:
    """`[n_sets, len(features)]`: `matched_sets` without the distances."""
    return matched_sets(stats, features, n_sets, rng, neighbours=neighbours).sets


def _drawn(pools: Sequence[IntArray], n_sets: int, rng: np.random.Generator) -> Iterator[list[int]]:
    # A pool has at least n_sets + len(pools) - 1 features: the first place of a set always has n_sets free ones, so
    # that new sets never run out.
    seen: set[frozenset[int]] = set()
    while len(seen) < n_sets:
        chosen: list[int] = []
        for pool in pools:
            chosen.append(int(rng.choice(np.setdiff1d(pool, chosen))))
        if frozenset(chosen) not in seen:
            seen.add(frozenset(chosen))
            yield chosen


def _require_features(given: IntArray, d_sae: int) -> None:
    if not len(given):
        raise ConfigError("there are no features to match.")
    for feature in given.tolist():
        if not 0 <= feature < d_sae:
            raise ConfigError(f"feature {feature} does not exist: the SAE has features 0 to {d_sae - 1}.")
    if len(set(given.tolist())) < len(given):
        raise ConfigError("a feature is given twice; name each one once.")


class _Sums:
    """Running maximum, sum and count of activations, in float64 where they add up."""

    def __init__(self, loaded_sae: SaeAtHook) -> None:
        self.sae, self.source = loaded_sae.sae, loaded_sae.source
        d_sae, device = int(self.sae.cfg.d_sae), self.sae.device
        self.maximum = torch.zeros(d_sae, device=device)
        # mps has no float64; there and everywhere the sums are kept beside the data, on the CPU.
        self.total = torch.zeros(d_sae, dtype=torch.float64)
        self.fires = torch.zeros(d_sae, dtype=torch.int64)
        self.n_tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Count the activations of float32 `x` `[n, d_in]`."""
        with flat_input(self.sae):
            for part in x.split(max(1, ENCODE_VALUES // len(self.maximum))):
                acts = self.sae.encode(part)
                if (acts < 0).any() or not torch.isfinite(acts).all():
                    raise ReleaseError(
                        f"the SAE {self.source} gives activations that are negative or not finite; only SAEs whose "
                        "features are either off or above 0 can be used here."
                    )
                if len(part):
                    self.maximum = torch.maximum(self.maximum, acts.amax(0))
                self.total += acts.sum(0).cpu().double()
                self.fires += (acts > 0).sum(0).cpu()
        self.n_tokens += len(x)

    def result(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Maximum, mean, firing rate."""
        mean, rate = self.total / self.n_tokens, self.fires.double() / self.n_tokens
        maximum = self.maximum.cpu().numpy().astype(np.float32)
        return maximum, mean.numpy().astype(np.float32), rate.numpy().astype(np.float32)


def _activations(
    reader: ResidualReader, loaded_sae: SaeAtHook, token_ids: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    """Each text with its float32 activations `[n, d_in]`; shortest texts first."""
    hook, d_in = loaded_sae.hook_name, int(loaded_sae.sae.cfg.d_in)
    for batch in _batches(token_ids, batch_tokens):
        for ids, found in zip(batch, reader.read(batch)[hook], strict=True):
            x = found.flatten(1).to(loaded_sae.sae.device, torch.float32)
            if x.shape[1] != d_in:
                raise ModelError(
                    f"this SAE has d_in {d_in}, but {hook} of {reader.model.provenance['name']} has width "
                    f"{x.shape[1]}; it belongs to another model or hook."
                )
            if not torch.isfinite(x).all():
                raise ModelError(
                    f"a text gives activations at {hook} that are not finite; load the model in float32 or bfloat16."
                )
            # A view would keep its whole batch alive while it is held.
            yield ids, x.clone()


def _batches(token_ids: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[Sequence[int]]]:
    batch: list[Sequence[int]] = []
    for ids in sorted((ids for ids in token_ids if ids), key=len):
        if batch and (len(batch) + 1) * len(ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _drained(
    held: list[tuple[Sequence[int], torch.Tensor]], rest: Iterable[tuple[Sequence[int], torch.Tensor]]
) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    """First what is held, which is let go, then the rest."""
    while held:
        yield held.pop(0)
    yield from rest


def _norms(x: torch.Tensor) -> npt.NDArray[np.float64]:
    return x.norm(dim=-1).cpu().numpy().astype(np.float64)


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Any]:
    with progress_bar(shown) as bar:
        task = bar.add_task("feature statistics", total=total)
        yield lambda: bar.advance(task)
