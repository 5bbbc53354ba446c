"""Models and SAEs that have learned nothing, as controls; their features are measured by the code of the real ones.

- `shuffled_sae`: every feature's direction with its entries in another order, drawn for each feature by itself, encoder
  and decoder alike. A feature keeps its norm and the distribution of its entries; which direction it has is chance.
- `permute_weights`: every weight matrix of the model with its entries in another order, embeddings among them. The
  mean, spread and norm of each matrix stay; vectors (norms' scales, biases) stay as they are (after Heap et al.
  2501.17727, who draw Gaussian weights of the same mean and spread).

In both, a feature would fire on everything or nothing, because the thresholds belong to other directions. `match_rates`
therefore shifts each feature's bias so that it fires on as many tokens as the trained feature does: what is left to
differ is *where* it fires.

Out of scope: training an SAE on the random model; SAEs whose features are gated or depend on other tokens.
"""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sae_lens.saes.jumprelu_sae import JumpReLUSAE
from sae_lens.saes.standard_sae import StandardSAE
from sae_lens.saes.topk_sae import TopKSAE

from sae_lens_med.errors import DataError, ReleaseError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.saes.releases import LoadedSae, weights_sha256

BLOCK_VALUES = 2**25
"""Most values of a block of pre-activations at a time (128 MB)."""


@torch.no_grad()
def shuffled_sae(loaded: LoadedSae, seed: int = 0) -> LoadedSae:
    """A copy of `loaded` with the entries of each feature's direction permuted; see the module.

    Raises `ReleaseError` for an architecture other than `standard`, `jumprelu` and `topk`.
    """
    sae = _copied(loaded)
    random = torch.Generator().manual_seed(seed)
    order = torch.rand(sae.W_dec.shape, generator=random).argsort(dim=1).to(sae.W_dec.device)
    sae.W_dec.copy_(sae.W_dec.gather(1, order))
    sae.W_enc.copy_(sae.W_enc.gather(0, order.T))
    return _named(loaded, sae, f"directions shuffled, seed {seed}")


@torch.no_grad()
def match_rates(loaded: LoadedSae, activations: npt.NDArray[np.float32], rates: npt.NDArray[np.float64]) -> LoadedSae:
    """A copy of `loaded` whose feature f fires on the share `rates[f]` of the rows of `activations`.

    Args:
        loaded: `standard` or `jumprelu`; a `topk` SAE is returned as it is, since it fires k features whatever the
            directions.
        activations: `[n, d_in]`, at the SAE's hook.
        rates: `[d_sae]`, in [0, 1]; 0 makes a feature silent on all of `activations`.

    Raises `DataError` when shapes do not fit, `ReleaseError` for another architecture.
    """
    sae = _copied(loaded)
    d_in, d_sae = sae.W_enc.shape
    if activations.ndim != 2 or activations.shape[1] != d_in or rates.shape != (d_sae,) or not len(activations):
        raise DataError(
            f"firing rates are matched on activations (n, {d_in}) and rates ({d_sae},), got {activations.shape} and "
            f"{rates.shape}."
        )
    if isinstance(sae, TopKSAE):
        return loaded
    x = sae.process_sae_in(torch.from_numpy(activations).to(sae.W_enc.device, torch.float32))
    fire = torch.from_numpy(np.rint(rates * len(x)).astype(np.int64))
    block = max(1, BLOCK_VALUES // len(x))
    for start in range(0, d_sae, block):
        some = slice(start, start + block)
        ordered = (x @ sae.W_enc[:, some] + sae.b_enc[some]).sort(dim=0, descending=True).values
        count = fire[some].clamp(0, len(x)).to(ordered.device)
        last = ordered.gather(0, (count - 1).clamp(min=0)[None])[0]
        after = ordered.gather(0, count.clamp(max=len(x) - 1)[None])[0]
        gap = (last - after).clamp(min=0)
        # Half-way between the last that fires and the first that does not; beyond the ends where there is none.
        level = torch.where(count == 0, after + 1e-3 * (1 + after.abs()), last - gap / 2)
        level = torch.where(count == len(x), last - 1e-3 * (1 + last.abs()), level)
        threshold = sae.threshold[some] if isinstance(sae, JumpReLUSAE) else torch.zeros_like(level)
        sae.b_enc[some] += threshold - level
    return _named(loaded, sae, "firing rates matched")


@torch.no_grad()
def permute_weights(model: MedBridge, seed: int = 0) -> None:
    """Permute the entries of every weight matrix of `model`, in place; its `provenance` says so.

    A matrix that two modules share (tied embeddings) is permuted once. The model cannot be brought back: open another.
    """
    random = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    for _, parameter in sorted(model.named_parameters()):
        if parameter.ndim < 2 or parameter.data_ptr() in seen:
            continue
        seen.add(parameter.data_ptr())
        flat = parameter.detach().reshape(-1)
        order = torch.randperm(flat.numel(), generator=random).to(flat.device)
        parameter.copy_(flat[order].reshape(parameter.shape))
    model.provenance = model.provenance | {"altered": f"entries of every weight matrix permuted, seed {seed}"}


def _copied(loaded: LoadedSae) -> Any:
    sae = loaded.sae
    if not isinstance(sae, StandardSAE | JumpReLUSAE | TopKSAE):
        raise ReleaseError(
            f"the SAE {loaded.source} is a {type(sae).__name__}; controls are made of standard, jumprelu and topk SAEs."
        )
    return copy.deepcopy(sae)


def _named(loaded: LoadedSae, sae: Any, how: str) -> LoadedSae:
    return replace(loaded, sae=sae, source=f"{loaded.source} ({how})", sha256=weights_sha256(sae))
