"""Patching: the residual stream of the clean prompt, put into the corrupted one at some tokens of one depth.

    P = (LD patched - LD corrupted) / (LD clean - LD corrupted)      LD = logit(clean answer) - logit(corrupted answer)

0: nothing comes back, 1: all of it. Two sets of tokens: the **concept**'s, and the **last** one, from which the answer
is read. All tokens at once would give 1 at every depth, since all that follows is a function of them: only parts of the
tokens say where something is. At depth 0 (the embedding) the concept's tokens are the whole difference (P = 1) and the
last token is the same in both (P = 0); at the last depth it is the other way round. What is between is the finding.

P is not bounded where LD clean and LD corrupted are near each other: pairs with a difference of at most `LEAST` logits
count neither in the value nor in the null, and their number is told. The value is the median over pairs.

**Null**: instead of the clean prompt's, the same tokens of a prompt with a third concept (`Pair.donors`). p asks
whether the own donor ranks higher among all donors of a pair than any of them would; exact where it makes no difference
whose activations are put in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.geometry import Tested
from sae_lens_med.knowledge_map.pairs import DONORS, Pair
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.statistics import bootstrap_interval, permutation_p

if TYPE_CHECKING:
    import torch

    from sae_lens_med.knowledge_map.block_runs import BlockRuns

SETS = ("concept", "last")
LEAST = 1.0
"""Logits."""


@dataclass(frozen=True, slots=True, eq=False)
class Patched:
    """What patching gave, before anything is divided."""

    ends: FloatArray
    """`[pairs, 2]`: LD clean, LD corrupted."""
    patched: FloatArray
    """`[pairs, set, depth, 1 + donors]`: LD with the own donor, then with the others; NaN where a pair has fewer."""

    @property
    def counted(self) -> BoolArray:
        """`[pairs]`: whose LD differ by more than `LEAST`."""
        return np.abs(self.ends[:, 0] - self.ends[:, 1]) > LEAST

    def restored(self, name: str) -> FloatArray:
        """P `[counted pairs, depth, 1 + donors]` of one of `SETS`."""
        ends = self.ends[self.counted]
        return restored(self.patched[self.counted, SETS.index(name)], ends[:, :1, None], ends[:, 1:, None])


def restored(patched: FloatArray, clean: FloatArray, corrupted: FloatArray) -> FloatArray:
    """P. Raises `DataError` where `clean` and `corrupted` do not differ by more than `LEAST`."""
    if (near := np.abs(clean - corrupted) <= LEAST).any():
        raise DataError(
            f"P is not defined for {int(near.sum())} of {near.size} pairs: the model tells clean and corrupted apart "
            f"by at most {LEAST} logits; leave them out."
        )
    return (patched - corrupted) / (clean - corrupted)


def patch(
    runs: "BlockRuns",
    pairs: Sequence[Pair],
    *,
    donors: bool,
    batch_tokens: int,
    on_batch: Callable[[int], None] = lambda _n: None,
) -> Patched:
    """Every pair at both sets of tokens and at every depth.

    Args:
        runs: of the model.
        pairs: from `pairs`; each of prompts of one length.
        donors: whether the mismatched donors are put in, too.
        batch_tokens: most tokens of a pass.
        on_batch: called with how many pairs are done.

    Raises `DataError` for a pair whose prompts differ in length.
    """
    import torch

    from sae_lens_med.knowledge_map.block_runs import by_length

    for pair in pairs:
        if len({len(pair.clean), len(pair.corrupted), *map(len, pair.donors)}) > 1:
            raise DataError(
                f"{pair.concepts[0]!r} and {pair.concepts[1]!r} have different numbers of tokens ({len(pair.clean)} "
                f"and {len(pair.corrupted)}), so that a token of one has no place in the other; pair names of as many."
            )
    width = 1 + (DONORS if donors else 0)
    ends = np.zeros((len(pairs), 2))
    found = np.full((len(pairs), len(SETS), runs.n_layers + 1, width), np.nan)
    for batch in by_length([len(pair.clean) for pair in pairs], batch_tokens, rows=width):
        chosen = [pairs[i] for i in batch]
        given = [(row, k) for row, pair in enumerate(chosen) for k in range(width) if k <= len(pair.donors)]
        rows = torch.tensor([row for row, _ in given], device=runs.device)
        answers = torch.tensor([pair.answers for pair in chosen], device=runs.device)
        corrupted = runs.tokens([pair.corrupted for pair in chosen])
        source = runs.residuals(runs.tokens([(chosen[r].clean, *chosen[r].donors)[k] for r, k in given]))
        target = runs.residuals(corrupted)
        own = torch.tensor([i for i, (_, k) in enumerate(given) if k == 0], device=runs.device)
        for side, hidden in enumerate((source[-1][own], target[-1])):
            ends[batch, side] = _difference(runs.logits(runs.last(corrupted, runs.n_layers, hidden), answers))
        at = torch.zeros(corrupted.shape, dtype=torch.bool, device=runs.device)
        for row, pair in enumerate(chosen):
            at[row, list(pair.at)] = True
        tokens, at, answers = corrupted[rows], at[rows], answers[rows]
        before = runs.before_last(tokens)
        at_pair, at_donor = np.array([(batch[row], k) for row, k in given]).T
        for depth in range(runs.n_layers + 1):
            mixed = torch.where(at[:, :, None], source[depth], target[depth][rows])
            last = source[depth][:, -1:]
            for place, out in enumerate(
                (runs.last(tokens, depth, mixed), runs.last(tokens, depth, last, before=before))
            ):
                found[at_pair, place, depth, at_donor] = _difference(runs.logits(out, answers))
        on_batch(len(batch))
    return Patched(ends, found)


def tested(restored: FloatArray, permutations: int, rng: np.random.Generator) -> "PatchTested":
    """Median P over the pairs, by depth, beside its null.

    Args:
        restored: `[pairs, depth, 1 + donors]`, from `Patched.restored`; NaN where a pair has fewer donors.
        permutations: draws of the null.
        rng: draws them.

    The null holds medians of mismatched donors, one drawn for each pair. p and p of the best depth are of ranks: that
    of the own donor among those of its pair, from 0 to 1, mean over the pairs, against any of them in its place.
    Raises `DataError` for fewer than two pairs, or one without a mismatched donor.
    """
    known = ~np.isnan(restored[:, 0])
    if len(restored) < 2 or not known[:, 1:].any(1).all():
        raise DataError("patching needs two pairs or more, each with a mismatched donor.")
    n, depths, _ = restored.shape
    ranks = _ranks(restored)
    others, every = _drawn(known, permutations, rng, first=1), _drawn(known, permutations, rng, first=0)
    pairs = np.arange(n)
    null = np.stack([np.median(restored[:, depth][pairs, others], axis=1) for depth in range(depths)], axis=1)
    ranked = np.stack([ranks[:, depth][pairs, every].mean(1) for depth in range(depths)], axis=1)
    own = ranks[:, :, 0].mean(0)
    values = np.median(restored[:, :, 0], axis=0)
    return PatchTested(values, null, tuple(restored[:, depth, 0] for depth in range(depths)), own, ranked)


@dataclass(frozen=True, slots=True, eq=False)
class PatchTested(Tested):
    """`Tested` whose p are of ranks and whose value is a median."""

    ranked: FloatArray
    """`[depth]`, of the own donors."""
    ranked_null: FloatArray
    """`[B, depth]`."""

    @property
    def intervals(self) -> tuple[tuple[float, float] | None, ...]:
        """95 %, percentile bootstrap of the median over pairs."""
        return tuple(
            None if values is None else bootstrap_interval(values, statistic=lambda x: np.median(x, axis=-1))
            for values in self.each
        )

    @property
    def p(self) -> FloatArray:
        """`[depth]`, one-sided."""
        return np.array([permutation_p(value, self.ranked_null[:, i]) for i, value in enumerate(self.ranked)])

    @property
    def p_best(self) -> float:
        """Of the highest mean rank over the depths."""
        return permutation_p(float(self.ranked.max()), self.ranked_null.max(1))


def _difference(logits: "torch.Tensor") -> FloatArray:
    return (logits[:, 0] - logits[:, 1]).double().cpu().numpy()


def _ranks(restored: FloatArray) -> FloatArray:
    """Share of the other donors of its pair above which each lies, ties as half; NaN where there is none."""
    above = restored[..., :, None] - restored[..., None, :]  # NaN where either is missing
    won = np.where(np.abs(above) < _TIE, 0.5, above > 0) * ~np.isnan(above)
    others = (~np.isnan(above)).sum(-1) - 1
    return np.where(np.isnan(restored), np.nan, (won.sum(-1) - 0.5) / np.maximum(others, 1))


def _drawn(known: BoolArray, n: int, rng: np.random.Generator, first: int) -> IntArray:
    """`[n, pairs]`: a donor for each pair, from number `first` on, uniformly among those that it has."""
    have = known[:, first:].sum(1)
    return first + (rng.random((n, len(known))) * have).astype(np.int64)


_TIE = 1e-6
"""P that are nearer than this are the same one in another order of summation."""
