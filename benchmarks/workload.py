"""The work that every contender of `train_step.py` gets: activations, a dictionary, and the biases that give an L0.

    x  [batch, d_in]   synthetic: Gaussian with a power-law spectrum, mean norm sqrt(d_in); or harvested activations,
                       centred and scaled to that norm
    M  [d_sae, d_in]   random unit rows
    b  [d_sae]         set so that feature j fires on a share f_j of the batch and the f_j add up to the L0 asked for

f_j is log-normal (sigma 2, at most one half), as in trained dictionaries: few features fire on many tokens, most on one
in a thousand. How uneven the features are is part of the cost of a sparse step.

    python workload.py OUTPUT.safetensors '{"batch": 4096, "d_in": 640, "d_sae": 20480, "l0": 64}'
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

SEED = 0
SPREAD = 2.0
MOST = 0.5


def make(
    batch: int, d_in: int, d_sae: int, l0: float, device: str = "cpu", activations: str | None = None
) -> dict[str, torch.Tensor]:
    """`x`, `M` and `b`, float32, on the CPU."""
    generator = torch.Generator(device).manual_seed(SEED)
    random: dict[str, Any] = {"generator": generator, "device": device}
    if activations is None:
        spectrum = torch.arange(1, d_in + 1, device=device).float().pow(-0.5)
        x = torch.randn(batch, d_in, **random) * spectrum
    else:
        x = _harvested(Path(activations), batch).to(device)
        x = x - x.mean(0)
        d_in = x.shape[1]
    x = x * (d_in**0.5 / x.norm(dim=1).mean())
    M = torch.nn.functional.normalize(torch.randn(d_sae, d_in, **random), dim=1)
    b = _biases(x, M, (SPREAD * torch.randn(d_sae, **random)).exp(), l0)
    return {"x": x.cpu().contiguous(), "M": M.cpu(), "b": b.cpu()}


def _biases(x: torch.Tensor, M: torch.Tensor, weight: torch.Tensor, l0: float) -> torch.Tensor:
    """-mean_j - sd_j·z(f_j); the normal law is not exact, so the L0 is measured and the f_j are corrected."""
    mean = M @ x.mean(0)
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    sd = ((M @ covariance) * M).sum(1).clamp(min=1e-12).sqrt()
    normal = torch.distributions.Normal(0.0, 1.0)
    wanted = float(l0)
    b = torch.zeros(len(M), device=x.device)
    for _ in range(6):
        share = _shares(weight, wanted)
        b = -(mean + sd * normal.icdf((1 - share).clamp(max=1 - 1e-6)))
        found = _l0(x, M, b)
        if abs(found / l0 - 1) < 0.005:
            break
        wanted = min(wanted * l0 / max(found, 1e-3), MOST * len(M))
    return b


def _shares(weight: torch.Tensor, total: float) -> torch.Tensor:
    """min(s·weight, MOST), with s such that they add up to `total`."""
    low, high = 0.0, float(total / weight.min())
    for _ in range(100):
        middle = (low + high) / 2
        if float((middle * weight).clamp(max=MOST).sum()) < total:
            low = middle
        else:
            high = middle
    return (high * weight).clamp(max=MOST)


def _l0(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor) -> float:
    active = 0
    for at in range(0, len(M), 4096):
        active += int((x @ M[at : at + 4096].T > -b[at : at + 4096]).sum())
    return active / len(x)


def _harvested(folder: Path, batch: int) -> torch.Tensor:
    """`batch` rows of the harvested activations in `folder`, at random, without those of unusual norm (sinks)."""
    paths = sorted(folder.rglob("*.safetensors"))
    rows = []
    for path in paths:
        with safe_open(path, "pt") as stored:
            if "activations" in stored.keys():  # noqa: SIM118 - not a dict
                rows.append(stored.get_tensor("activations").float())
        if sum(map(len, rows)) >= 8 * batch:
            break
    if not rows or sum(map(len, rows)) < 2 * batch:
        raise SystemExit(f"{folder} holds fewer than {2 * batch} harvested activations.")
    x = torch.cat(rows)
    norms = x.norm(dim=1)
    x = x[norms < 5 * statistics.median(norms.tolist())]
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))[:batch]]


if __name__ == "__main__":
    save_file(make(**json.loads(sys.argv[2])), sys.argv[1])
