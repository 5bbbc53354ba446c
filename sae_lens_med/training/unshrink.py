"""Magnitudes without shrinkage: one gain a feature, fitted after training.

An L1 penalty is paid for every unit of activation, so a trained SAE reads each feature smaller than it is (Wright &
Sharkey 2024, "Addressing Feature Suppression in SAEs"; "shrinkage" in Rajamanoharan et al. 2024, arXiv 2404.16014).
With the dictionary and the active set held fixed, the gains s_j > 0 that reconstruct best are a least-squares problem:

    minimise over s    Σ_t ||x_t - m - Σ_j s_j c_tj d_j||²  +  Σ_j λ_j (s_j - 1)²

c are the features, d_j the decoder's rows, m its bias. The ridge λ_j is worth n₀ firings of feature j at its own mean
square: a feature that fires n times moves n / (n + n₀) of the way, one never seen keeps s = 1. n₀ is the one of
`RIDGES`, or no change at all, that explains most of the variance of every fifth chunk of rows, which is not fitted to:
features that fire rarely are heavy-tailed, and gains fitted too closely to them make other text worse.

The normal equations are solved by conjugate gradients from s = 1 with a diagonal preconditioner. They are never formed
(d_sae² numbers): an iteration is two sparse products with the stored activations. From s = 1 the error on the fitting
rows only falls.

The gains go into the encoder: s_j ReLU(w_j·x + b_j) = ReLU(s_j w_j·x + s_j b_j). The decoder keeps its rows, the SAE
stays SAELens' `standard`, the same features are active on the same inputs (but for float rounding of values at the
threshold). Of a tied SAE the encoder is then tied to the decoder in direction only.

Out of scope: architectures whose active set depends on the values (topk and its kin), and new biases.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, StandardSAE

from sae_lens_med.errors import ConfigError, DataError

FLOOR = 0.1
"""No gain falls below this: a gain of 0 or less would change the active set."""
CEILING = 5.0
"""No gain rises above this: only features that a few values just above the threshold speak for ask for more."""
RIDGES = (1000.0, 300.0, 100.0, 30.0)
"""Strengths of the ridge to choose from, in firings."""

_HOLD_BACK = 5
_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Unshrunk:
    """What the gains do. Explained variance is centred, on the rows fitted to and on those held back, before and
    after."""

    gains: torch.Tensor
    """float32 `[d_sae]`, on the CPU."""
    n_rows: int
    """Rows fitted to."""
    fitted: tuple[float, float]
    held_back: tuple[float, float]
    ridge: float | None
    """The chosen strength; None: every gain is 1, since no other gains explain more of the rows held back."""
    n_at_limit: int
    """Gains that `FLOOR` or `CEILING` holds."""
    n_never_active: int
    """Features active on no row fitted to; their gain is 1."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `metrics.json`; the gains as quantiles over the features."""
        shares = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
        return {
            "n_rows": self.n_rows,
            "explained_variance_fitted": list(self.fitted),
            "explained_variance_held_back": list(self.held_back),
            "ridge": self.ridge,
            "gain_quantiles_05_50_95": torch.quantile(self.gains.double(), shares).tolist(),
            "n_at_limit": self.n_at_limit,
            "n_never_active": self.n_never_active,
        }


@torch.no_grad()
def unshrink(
    sae: SAE[Any],
    batches: Iterable[torch.Tensor],
    *,
    ridges: Sequence[float] = RIDGES,
    tolerance: float = 1e-3,
    max_iterations: int = 50,
) -> Unshrunk:
    """Fit the gains on `batches` and multiply them into `sae.W_enc` and `sae.b_enc`.

    Args:
        sae: an inference SAE of SAELens' `standard` architecture, as training exports it.
        batches: float `[n_i, d_in]` each, activations as the model gives them, in random order; their features are
            kept in sparse form, about 24 · L0 bytes a row.
        ridges: values of n₀ to choose from.
        tolerance: conjugate gradients end when the preconditioned residual has fallen to this share of its start.

    Raises `ConfigError` when the SAE is of another architecture or still scales its input, `DataError` for fewer rows
    than can be split into rows to fit to and rows to hold back.
    """
    if not isinstance(sae, StandardSAE):
        raise ConfigError(f"gains are fitted to SAELens' 'standard' only; this SAE is {sae.cfg.architecture()!r}.")
    if sae.cfg.normalize_activations != "none":
        raise ConfigError(
            f"the SAE scales its input (normalize_activations={sae.cfg.normalize_activations!r}); fold that in first."
        )
    fitted, held_back = _Rows(sae), _Rows(sae)
    chunks = (x for batch in batches for x in batch.split(min(_CHUNK_ROWS, max(1, len(batch) // _HOLD_BACK))))
    for number, x in enumerate(chunks, start=1):
        (held_back if number % _HOLD_BACK == 0 else fitted).add(sae, x)
    if fitted.n < 2 or held_back.n < 2:
        raise DataError(f"gains cannot be fitted to {fitted.n + held_back.n} activations; use several thousand.")
    unchanged = torch.zeros_like(fitted.n_fired)
    best, ridge, at_limit = unchanged, None, unchanged.bool()
    most, change = held_back.explained_variance(unchanged), unchanged
    for strength in ridges:
        change, low = _fit(fitted, strength, change, tolerance, max_iterations)
        explained = held_back.explained_variance(change)
        if explained > most:
            best, ridge, at_limit, most = change, strength, low, explained
    sae.W_enc.mul_((1 + best).to(sae.W_enc.dtype))
    sae.b_enc.mul_((1 + best).to(sae.b_enc.dtype))
    return Unshrunk(
        gains=(1 + best).cpu(),
        n_rows=fitted.n,
        fitted=(fitted.explained_variance(unchanged), fitted.explained_variance(best)),
        held_back=(held_back.explained_variance(unchanged), most),
        ridge=ridge,
        n_at_limit=int(at_limit.sum()),
        n_never_active=int((fitted.n_fired == 0).sum()),
    )


def _fit(
    rows: "_Rows", strength: float, start: torch.Tensor, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """s - 1 for one strength of the ridge, and which gains a limit holds."""
    diagonal = rows.squares * rows.decoder.pow(2).sum(1)
    ridge = strength * diagonal / rows.n_fired.clamp(min=1)
    change, free = start, rows.n_fired > 0
    # A gain at a limit stays there while the others are solved for again; each round fixes at least one more.
    while True:
        change = _solve(rows, diagonal + ridge, ridge, change, free, tolerance, max_iterations)
        beyond = free & ((change < FLOOR - 1) | (change > CEILING - 1))
        if not beyond.any():
            break
        free &= ~beyond
        change = change.clamp(FLOOR - 1, CEILING - 1)
    return change * rows.best_share(change, ridge), (rows.n_fired > 0) & ~free


def _solve(
    rows: "_Rows",
    preconditioner: torch.Tensor,
    ridge: torch.Tensor,
    start: torch.Tensor,
    free: torch.Tensor,
    tolerance: float,
    max_iterations: int,
) -> torch.Tensor:
    """Conjugate gradients for the change of the free gains, from `start`: (G + ridge) change = right side."""
    change = start.clone()
    inverse = torch.where(free, 1 / preconditioner.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    residual = torch.where(free, rows.right_side - rows.normal(change) - ridge * change, 0.0)
    scaled = residual * inverse
    direction, norm = scaled, (residual * scaled).sum()
    enough = tolerance**2 * (rows.right_side.pow(2) * inverse).sum()
    for _ in range(max_iterations):
        if norm <= enough:
            break
        product = torch.where(free, rows.normal(direction) + ridge * direction, 0.0)
        length = norm / (direction * product).sum()
        change = change + length * direction
        residual = residual - length * product
        scaled = residual * inverse
        norm, before = (residual * scaled).sum(), norm
        direction = scaled + norm / before * direction
    return change


class _Rows:
    """The sparse activations of rows, a chunk at a time, and the sums and products that the fit needs."""

    def __init__(self, sae: StandardSAE) -> None:
        self.decoder = sae.W_dec.float()
        self.chunks: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.n = 0
        self.n_fired, self.squares = torch.zeros_like(self.decoder[:, 0]), torch.zeros_like(self.decoder[:, 0])
        self.right_side = torch.zeros_like(self.decoder[:, 0])
        """Σ_t c_tj d_j·(x_t - x̂_t)."""
        self.error = 0.0
        """Σ_t ||x_t - x̂_t||² with every gain at 1."""
        self._sum = torch.zeros(sae.cfg.d_in, dtype=torch.float64, device=self.decoder.device)
        self._sum_of_squares = 0.0

    def add(self, sae: StandardSAE, x: torch.Tensor) -> None:
        x = x.to(sae.device, sae.dtype)
        dense = sae.encode(x)
        error = (x - sae.decode(dense)).float()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            acts, transposed = dense.float().to_sparse_csr(), dense.float().T.contiguous().to_sparse_csr()
        self.chunks.append((acts, transposed))
        self.n += len(x)
        self.n_fired.index_add_(0, acts.col_indices(), torch.ones_like(acts.values()))
        self.squares.index_add_(0, acts.col_indices(), acts.values().pow(2))
        self.right_side += ((transposed @ error) * self.decoder).sum(1)
        self.error += error.double().pow(2).sum().item()
        self._sum += x.double().sum(0)
        self._sum_of_squares += x.double().pow(2).sum().item()

    def normal(self, change: torch.Tensor) -> torch.Tensor:
        """G @ change, where G_jk = Σ_t c_tj c_tk d_j·d_k."""
        scaled, onto = change[:, None] * self.decoder, torch.zeros_like(self.decoder)
        for acts, transposed in self.chunks:
            onto += transposed @ (acts @ scaled)
        return (onto * self.decoder).sum(1)

    def best_share(self, change: torch.Tensor, ridge: torch.Tensor) -> float:
        """The share of `change`, 0 to 1, that lowers the objective most: the limits may have raised it."""
        curvature = (change * (self.normal(change) + ridge * change)).sum()
        return ((change * self.right_side).sum() / curvature).clamp(0, 1).item() if curvature > 0 else 1.0

    def explained_variance(self, change: torch.Tensor) -> float:
        gained = (change * (2 * self.right_side - self.normal(change))).double().sum().item()
        variance = self._sum_of_squares - (self._sum.pow(2).sum() / self.n).item()
        return 1 - (self.error - gained) / variance
