"""What each feature of an SAE does over a set of texts: how strong it becomes, and how often it fires.

Over the tokens that count (special tokens and activation sinks left out, by the rule of `collect`), for c = encode(x):

    maximum      = max c            the unit of `steer` and `clamp`
    mean         = mean c           also over tokens where the feature is off; what `ablate` to the mean puts
    firing_rate  = share of tokens with c > 0

Random features that do as much, the null of an intervention, are drawn from these by `matched.matched_sets`.

Out of scope: statistics by part of a text, transcoders, SAEs with negative activations.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sae_lens_med.errors import DataError, ModelError, ReleaseError, StudyError
from sae_lens_med.features.reading import encoded, read_at_hook
from sae_lens_med.features.rules import CALIBRATION_ITEMS, require_sae, require_settings, special_ids
from sae_lens_med.models.bridge import MedBridge, default_batch_tokens
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.models.sinks import SINK_MULTIPLE, sink_rule
from sae_lens_med.runs.files import atomic_path, json_sha256
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.saes.releases import LoadedSae

FORMAT = 1
FloatArray = npt.NDArray[np.float32]

_ARRAYS = ("maximum", "mean", "firing_rate")
_SAE_KEYS = ("source", "sae_id", "sha256", "hook_name")


class HasTokens(Protocol):
    """What is read of a text: `records.Prompt` and `inference.TokenText` have it."""

    @property
    def token_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class _Text:
    """One text, read whole."""

    token_ids: Sequence[int]
    first: int = 0
    label: str = "a text"


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
    """`LoadedSae.identity`."""
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

    def require_sae(self, loaded_sae: LoadedSae) -> None:
        """Raise `ReleaseError` when these are the statistics of another SAE."""
        if not loaded_sae.is_that_of(self.sae) or self.d_sae != int(loaded_sae.sae.cfg.d_sae):
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
    def load(cls, path: Path, loaded_sae: LoadedSae | None = None) -> "FeatureStatistics":
        """The inverse of `save`. With `loaded_sae`, statistics of another SAE are refused (`ReleaseError`).

        Raises `StudyError` for a file that is missing, damaged or of another format.
        """
        try:
            with safe_open(path, "numpy") as file:
                about = parse_json((file.metadata() or {})["statistics"])
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
    loaded_sae: LoadedSae,
    texts: Sequence[HasTokens],
    *,
    batch_tokens: int | None = None,
    sink_multiple: float = SINK_MULTIPLE,
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
    to_read = [_Text(list(text.token_ids)) for text in texts]
    if not to_read:
        raise DataError("there are no texts to compute feature statistics over.")
    if (longest := max(len(text.token_ids) for text in to_read)) > model.cfg.n_ctx:
        raise ModelError(
            f"a text has {longest} tokens, more than the {model.cfg.n_ctx} that {model.provenance['name']} takes; "
            "leave it out."
        )
    never = special_ids(model)
    reader = ResidualReader(model, [loaded_sae.hook_name])
    counts = {"special_tokens": 0, "activation_sinks": 0}
    sums = _Sums(loaded_sae)
    read = partial(_read, reader, loaded_sae, batch_tokens)
    with _bar(progress, len(to_read)) as advance:
        # The first texts' activations are held until the rule that they give is known.
        held = list(read(to_read[:CALIBRATION_ITEMS]))
        norms = [_norms(x)[~np.isin(text.token_ids, never)] for text, x in held]
        if not sum(map(len, norms)):
            raise DataError("the first texts have only special tokens; use texts with words in them.")
        rule = sink_rule(norms, sink_multiple, f"the first {min(CALIBRATION_ITEMS, len(to_read))} texts")
        for text, x in _drained(held, read(to_read[CALIBRATION_ITEMS:])):
            special = np.isin(text.token_ids, never)
            sink = (_norms(x) > rule["sink_threshold"]) & ~special
            counts["special_tokens"] += int(special.sum())
            counts["activation_sinks"] += int(sink.sum())
            sums.add(x[torch.from_numpy(~(special | sink)).to(x.device)])
            advance()
    if not sums.n_tokens:
        raise DataError("no token of these texts counts: all are special tokens or activation sinks.")
    maximum, mean, rate = sums.result()
    return FeatureStatistics(
        maximum=maximum,
        mean=mean,
        firing_rate=rate,
        n_tokens=sums.n_tokens,
        sae=loaded_sae.identity,
        model=dict(model.provenance),
        data_sha256=texts_sha256(texts),
        exclusion=rule | counts,
    )


def texts_sha256(texts: Sequence[HasTokens]) -> str:
    """The identity of texts for `FeatureStatistics.data_sha256`."""
    return json_sha256([[int(i) for i in text.token_ids] for text in texts])


class _Sums:
    """Running maximum, sum and count of activations, in float64 where they add up."""

    def __init__(self, loaded_sae: LoadedSae) -> None:
        self.loaded_sae = loaded_sae
        d_sae, device = int(loaded_sae.sae.cfg.d_sae), loaded_sae.sae.device
        self.maximum = torch.zeros(d_sae, device=device)
        # mps has no float64; there and everywhere the sums are kept beside the data, on the CPU.
        self.total = torch.zeros(d_sae, dtype=torch.float64)
        self.fires = torch.zeros(d_sae, dtype=torch.int64)
        self.n_tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Count the activations of float32 `x` `[n, d_in]`."""
        for part, acts in encoded(self.loaded_sae, x, "a text"):
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


def _read(
    reader: ResidualReader, loaded_sae: LoadedSae, batch_tokens: int, texts: Sequence[_Text]
) -> Iterator[tuple[_Text, torch.Tensor]]:
    for text, x in read_at_hook(reader, loaded_sae, [text for text in texts if text.token_ids], batch_tokens):
        # A view would keep its whole batch alive while it is held.
        yield text, x.clone()


def _drained(
    held: list[tuple[_Text, torch.Tensor]], rest: Iterable[tuple[_Text, torch.Tensor]]
) -> Iterator[tuple[_Text, torch.Tensor]]:
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
