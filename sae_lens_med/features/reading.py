"""Texts -> activations at an SAE's hook -> features: the loop that everything which reads features runs.

    texts of like length together -> model up to the hook -> x float32 [n, d_in] -> c = encode(x), a block at a time

Who reads decides what becomes of x and c: `collect` keeps them, `feature_statistics` adds them up.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from sae_lens_med.errors import ModelError, ReleaseError
from sae_lens_med.features.rules import flat_input
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.saes.releases import LoadedSae

ENCODE_VALUES = 2**26
"""Most values of a dense activation matrix at a time (256 MB)."""


class TextToRead(Protocol):
    """One text that the model reads by itself."""

    @property
    def token_ids(self) -> Sequence[int]:
        """All that the model reads, at least one token."""
        ...

    @property
    def first(self) -> int:
        """Only the tokens from here on are wanted."""
        ...

    @property
    def label(self) -> str:
        """What errors call it."""
        ...


T = TypeVar("T", bound=TextToRead)


def read_at_hook(
    reader: ResidualReader, loaded_sae: LoadedSae, texts: Sequence[T], batch_tokens: int
) -> Iterator[tuple[T, torch.Tensor]]:
    """Each text with the float32 activations `[n_wanted, d_in]` at its wanted tokens, shortest texts first.

    `batch_tokens` is the most tokens of a batch, padding included; a longer text is a batch of its own. The activations
    are views of their batch: keep a copy of those that are to outlive it.

    Raises `ModelError` when the model's width at the hook is not the SAE's, or an activation is not finite.
    """
    hook, d_in = loaded_sae.hook_name, int(loaded_sae.sae.cfg.d_in)
    for batch in _batches(texts, batch_tokens):
        for text, found in zip(batch, reader.read([text.token_ids for text in batch])[hook], strict=True):
            # hook_z gives [n, heads, d_head]; the SAE's own flattening is off while it encodes.
            x = found[text.first :].flatten(1).to(loaded_sae.sae.device, torch.float32)
            if x.shape[1] != d_in:
                raise ModelError(
                    f"this SAE has d_in {d_in}, but {hook} of {reader.model.provenance['name']} has width "
                    f"{x.shape[1]}; it belongs to another model or hook."
                )
            if not torch.isfinite(x).all():
                raise ModelError(
                    f"{text.label} gives activations at {hook} that are not finite; load the model in float32 or "
                    "bfloat16."
                )
            yield text, x


def encoded(loaded_sae: LoadedSae, x: torch.Tensor, label: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`x` `[n, d_in]` in blocks of rows, each with its features `[rows, d_sae]`, all >= 0.

    Raises `ReleaseError`, naming the text by `label`, for features that are negative or not finite.
    """
    with flat_input(loaded_sae.sae):
        for part in x.split(max(1, ENCODE_VALUES // int(loaded_sae.sae.cfg.d_sae))):
            acts = loaded_sae.sae.encode(part)
            if (acts < 0).any() or not torch.isfinite(acts).all():
                raise ReleaseError(
                    f"the SAE {loaded_sae.source} gives activations that are negative or not finite ({label}); only "
                    "SAEs whose features are either off or above 0 can be used here."
                )
            yield part, acts


def _batches(texts: Sequence[T], batch_tokens: int) -> Iterator[list[T]]:
    """Texts of like length together, each batch at most `batch_tokens` with padding, or one text alone."""
    batch: list[T] = []
    # Ascending: the last text of a batch is its longest.
    for text in sorted(texts, key=lambda text: len(text.token_ids)):
        if batch and (len(batch) + 1) * len(text.token_ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
