"""What a circuit does by itself: edges outside of it carry the other text.

    m(C)     the metric where only the edges of C carry the clean text
    f(C)     = (m(C) - m(none)) / (m(all) - m(none)),  means over the pairs first, then the ratio
    curve    f at the n edges of the largest scores, for shares of all edges (`SHARES`)
    CMD      area of |1 - f| over the share, edges by the size of their score; 0 is best, random edges give 0.75
    CPR      area of f, edges by the score with its sign; random edges give 0.25; it has no upper bound and rewards
             keeping only what helps, so it is read after CMD

Both areas and the shares are those of the Mechanistic Interpretability Benchmark (arXiv 2504.13151). m(none) is the
other text's m, m(all) the clean text's. Completeness is f of all edges but the circuit's, and should be near 0.

A denominator that is not told from 0 (less than twice its bootstrap standard error) is refused: there is no behaviour
to explain. Pairs on which scores were made are not those on which a circuit is judged; `split` divides them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sae_lens_med.circuits.decoder import GraphDecoder, GraphRun
from sae_lens_med.circuits.edges import run_pairs
from sae_lens_med.circuits.pairs import Pair, by_length, metric
from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray, Record

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
NEAR = 0.1
"""How near to 1 the faithfulness of a circuit that is shown stays."""
_DRAWS = 1000
_CLEAR = 2.0
"""Standard errors from 0 at which a denominator counts."""


@dataclass(frozen=True, slots=True)
class Curve(Record):
    """Faithfulness over the size of a circuit."""

    shares: tuple[float, ...]
    """Of all edges."""
    n_edges: tuple[int, ...]
    connected: tuple[int, ...]
    """Of these, on a path from input to logits."""
    values: tuple[float, ...]
    """m(C), mean over the pairs, in nats."""
    faithfulness: tuple[float, ...]
    area: float
    """CPR of a curve by signed scores, CMD of one by their size."""


@dataclass(frozen=True, slots=True)
class Ends(Record):
    """m with all edges and with none."""

    n: int
    """Pairs."""
    all: float
    none: float
    spread: float
    """Bootstrap standard error of all - none."""

    @property
    def clear(self) -> bool:
        """Whether all - none is told from 0."""
        return abs(self.all - self.none) > _CLEAR * self.spread


def ends_of(everything: FloatArray, nothing: FloatArray, seed: int = 0) -> Ends:
    """Of m of each pair with all and with none. Raises `DataError` where there is one pair alone."""
    if len(everything) < 2:
        raise DataError("a standard error needs two pairs or more.")
    apart = everything - nothing
    drawn = np.random.default_rng(seed).integers(len(apart), size=(_DRAWS, len(apart)))
    return Ends(len(apart), float(everything.mean()), float(nothing.mean()), float(apart[drawn].mean(1).std(ddof=1)))


def require_clear(ends: Ends) -> None:
    """Raise `DataError` where m with all and with none are not told apart."""
    if not ends.clear:
        raise DataError(
            f"no behaviour to explain: with all edges or nodes m is {ends.all:.3f}, with none {ends.none:.3f}, and the "
            f"difference is not told from 0 (standard error {ends.spread:.3f})."
        )


def settled(sizes: Sequence[int], faithfulness: Sequence[float]) -> int | None:
    """The smallest size from which on f stays within `NEAR` of 1, of a curve from small to large; None where not even
    the largest does. A smaller circuit may come near 1 and leave it again: that is chance, or edges that cancel."""
    found = None
    for size, f in zip(reversed(sizes), reversed(faithfulness), strict=True):
        if abs(1 - f) > NEAR:
            break
        found = size
    return found


def split(pairs: Sequence[Pair], seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Two halves, of which the first finds a circuit and the second judges it. Raises `DataError` for fewer than
    four."""
    if len(pairs) < 4:
        raise DataError(
            f"a circuit is found on some pairs and judged on others: four or more are needed, got {len(pairs)}."
        )
    order = np.random.default_rng(seed).permutation(len(pairs))
    half = (len(pairs) + 1) // 2
    return [pairs[i] for i in sorted(order[:half])], [pairs[i] for i in sorted(order[half:])]


class Patching:
    """Runs circuits on pairs. Both texts of each pair are run once."""

    def __init__(self, decoder: GraphDecoder, pairs: Sequence[Pair], *, batch_tokens: int = 512) -> None:
        self.decoder = decoder
        self._batches = [(*run_pairs(decoder, batch), batch) for batch in by_length(pairs, batch_tokens)]
        self.n = len(pairs)

    @property
    def runs(self) -> Iterator[tuple[Sequence[Pair], GraphRun, GraphRun]]:
        """Pairs of one shape, with the runs of their clean and of their other texts."""
        for _, clean, other, batch in self._batches:
            yield batch, clean, other

    def ends(self, seed: int = 0) -> Ends:
        """m of both texts. Raises `DataError` where there is one pair alone."""
        clean = np.concatenate([metric(run).cpu().numpy() for _, run, _, _ in self._batches]).astype(np.float64)
        other = np.concatenate([metric(run).cpu().numpy() for _, _, run, _ in self._batches]).astype(np.float64)
        return ends_of(clean, other, seed)

    @torch.no_grad()
    def values(self, circuit: BoolArray) -> FloatArray:
        """`[pairs]`, sorted by length: m where only the edges of `circuit [n_readers, n_writers]` carry the clean
        text."""
        found = []
        for wanted, clean, other, _ in self._batches:
            mask = torch.as_tensor(circuit, dtype=clean.writes.dtype, device=clean.writes.device)
            run = self.decoder.run(clean.writes[:, 0], wanted, mask=mask, other=other.writes, keep=False)
            found.append(metric(run).cpu().numpy())
        return np.concatenate(found).astype(np.float64)

    def curve(
        self,
        scores: FloatArray,
        *,
        signed: bool,
        shares: Sequence[float] = SHARES,
        on_size: Callable[[], None] = lambda: None,
    ) -> Curve:
        """Of the edges by `scores [n_readers, n_writers]`: with `signed` those that support most, else the largest.

        Raises `DataError` where there is no behaviour to explain."""
        ends = self.ends()
        require_clear(ends)
        graph = self.decoder.graph
        order = scores if signed else np.abs(scores)
        sizes = [round(share * graph.n_edges) for share in shares]
        values, connected = [], []
        for n in sizes:
            circuit = graph.best(order, n)
            connected.append(int(graph.connected(circuit).sum()))
            values.append(float(self.values(circuit).mean()))
            on_size()
        f = [(value - ends.none) / (ends.all - ends.none) for value in values]
        heights = np.array(f) if signed else np.abs(1 - np.array(f))
        return Curve(
            tuple(shares),
            tuple(sizes),
            tuple(connected),
            tuple(values),
            tuple(f),
            float(np.trapezoid(heights, np.array(shares))),
        )
