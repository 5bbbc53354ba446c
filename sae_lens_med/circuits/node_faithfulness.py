"""What a circuit of features does by itself: all nodes outside of it are the other text's.

    m(C)     at every hook, every feature and error outside of C is replaced by what it is on the other text at the same
             token; those of C are what this run makes of them
    f(C)     = (m(C) - m(none)) / (m(all) - m(none)),  means over the pairs first, then the ratio

m(all) is the model's m exactly. m(none) is measured; where the hooks hold all of the residual stream it is the other
text's m. Tokens without nodes (`spliced`) flow on. Completeness is f of all nodes but the circuit's.

A curve takes the n nodes of the largest scores, for n of `SIZES`, from no node to all that have a score. Its area over
the share of nodes (CMD: of |1 - f|, nodes by the size of their score; CPR: of f, by the score with its sign) is read as
in `faithfulness`. Errors are nodes like others; without them they are never of the circuit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_lens_med.circuits.faithfulness import Ends, ends_of, require_clear
from sae_lens_med.circuits.nodes import NodeSpace, PairRun, SinkRules
from sae_lens_med.circuits.pairs import Pair, metric
from sae_lens_med.circuits.spliced import Edit, SplicedModel, TextRun
from sae_lens_med.records import BoolArray, FloatArray, IntArray, Record

SIZES = tuple(k * 10**e for e in range(7) for k in (1, 2, 5))
"""Sizes of a curve, as far as there are nodes."""


@dataclass(frozen=True, slots=True)
class NodeCurve(Record):
    """Faithfulness over the size of a circuit."""

    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    """Of the nodes that have a score."""
    values: tuple[float, ...]
    """m(C), mean over the pairs, in nats."""
    faithfulness: tuple[float, ...]
    area: float
    """CPR of a curve by signed scores, else CMD."""


class NodePatching:
    """Runs circuits on pairs."""

    def __init__(self, spliced: SplicedModel, space: NodeSpace, runs: Sequence[PairRun], sinks: SinkRules) -> None:
        self.spliced, self.space = spliced, space
        self._runs = list(runs)
        device = spliced.device
        self._parts = [space.of_pairs(run.pairs, device) for run in self._runs]
        self._left_out = [[sinks.left_out(spliced, run, h) for h in range(len(space.hooks))] for run in self._runs]
        self.pairs = tuple(pair for run in self._runs for pair in run.pairs)
        """In the order of `values`."""
        self._ends: dict[int, Ends] = {}

    @property
    def runs(self) -> Iterator[tuple[Sequence[Pair], TextRun, TextRun]]:
        """Pairs of one shape, with the runs of their clean and of their other texts."""
        for run in self._runs:
            yield run.pairs, run.clean, run.other

    def ends(self, seed: int = 0) -> Ends:
        """m with all nodes and with none. Raises `DataError` where there is one pair alone."""
        if seed not in self._ends:
            whole = np.concatenate([metric(run.clean).double().cpu().numpy() for run in self._runs])
            self._ends[seed] = ends_of(whole, self.values(np.zeros(self.space.n_nodes, dtype=bool)), seed)
        return self._ends[seed]

    @torch.no_grad()
    def values(self, circuit: BoolArray) -> FloatArray:
        """`[pairs]`: m where only the nodes of `circuit` are the clean text's: `[n_nodes]`, or `[pairs, n_nodes]`, one
        circuit for each of `pairs`."""
        first, at, found = self.space.first, 0, []
        for run, parts, left_out in zip(self._runs, self._parts, self._left_out, strict=True):
            own = circuit if circuit.ndim == 1 else circuit[at : at + len(run.pairs)]
            at += len(run.pairs)
            edits = {}
            for h, width in enumerate(self.space.d_sae):
                outside = ~np.atleast_2d(own)[:, first[h] : first[h + 1]].reshape(-1, len(self.space.parts), width + 1)
                if outside.any():
                    table = torch.as_tensor(outside, device=self.spliced.device).expand(len(run.pairs), -1, -1)
                    rows = torch.arange(len(run.pairs), device=self.spliced.device)[:, None]
                    edits[h] = self._edit(h, run, table[rows, parts] & ~left_out[h][..., None])
            logits = self.spliced.run(run.clean, run.wanted, edits) if edits else run.clean.logits
            found.append((logits[:, 0] - logits[:, 1]).double().cpu().numpy())
        return np.concatenate(found)

    def _edit(self, h: int, run: PairRun, outside: Tensor) -> Edit:
        theirs, decoder = run.other.x[h], self.spliced.decoder(h)

        def edit(x: Tensor) -> Tensor:
            step = self.spliced.acts(h, theirs) - self.spliced.acts(h, x)
            error = (theirs - x) - step @ decoder
            return x + (step * outside[..., :-1]) @ decoder + error * outside[..., -1:]

        return edit

    def faithfulness(self, circuit: BoolArray) -> float:
        """f of a circuit. Raises `DataError` where there is no behaviour to explain."""
        ends = self.ends()
        require_clear(ends)
        return float((self.values(circuit).mean() - ends.none) / (ends.all - ends.none))

    def curve(
        self, scores: FloatArray, *, signed: bool, errors: bool = True, on_size: Callable[[], None] = lambda: None
    ) -> NodeCurve:
        """Of the nodes by `scores [n_nodes]`: with `signed` those that support most, else the largest; without `errors`
        features alone. Raises `DataError` where there is no behaviour to explain."""
        ends = self.ends()
        require_clear(ends)
        order = ranked(self.space, scores, signed=signed, errors=errors)
        sizes = [0, *(n for n in SIZES if n < len(order)), len(order)]
        values = []
        for n in sizes:
            values.append(float(self.values(chosen(self.space, order[:n])).mean()))
            on_size()
        f = (np.array(values) - ends.none) / (ends.all - ends.none)
        shares = np.array(sizes) / max(1, len(order))
        heights = f if signed else np.abs(1 - f)
        return NodeCurve(
            tuple(sizes), tuple(shares.tolist()), tuple(values), tuple(f.tolist()), float(np.trapezoid(heights, shares))
        )


def ranked(space: NodeSpace, scores: FloatArray, *, signed: bool = False, errors: bool = True) -> IntArray:
    """Nodes that have a score, best first."""
    nodes = np.flatnonzero(scores)
    if not errors:
        nodes = nodes[~space.is_error(nodes)]
    values = scores[nodes] if signed else np.abs(scores[nodes])
    return nodes[np.argsort(-values, kind="stable")]


def chosen(space: NodeSpace, nodes: IntArray) -> BoolArray:
    """`[n_nodes]`: which are among `nodes`."""
    found = np.zeros(space.n_nodes, dtype=bool)
    found[nodes] = True
    return found
