"""How much each feature of several SAEs supports an answer: attribution and integrated gradients.

    score(h, p, f) = sum over the tokens of part p  (a_f - a'_f) W_f . G         feature f of the SAE at hook h
    score(h, p, e) = sum over the tokens of part p  (eps - eps') . G             error: one contracted node per token

    G = dm/dx on the clean text alone (`ig_steps` 0; attribution, Marks et al. 2024, arXiv 2403.19647), or its mean over
        midpoints (k + 1/2)/K of the way from the other text's x' to the clean one's x, at this hook, all other hooks as
        they come (integrated gradients)

`a`, `eps`, `W`: `spliced`. `a'`, `x'` are the other text's at the same token. **Positive: the node supports the clean
text's answer** (`pairs`); the effect of putting a' in place of a, as others show it, is minus the score.

Nodes are of parts of a prompt, never of places: places do not align over questions. **Completeness:** the scores of a
hook sum to m - m(x' at this hook), up to the error of the midpoints; both are recorded for each item, and
`require_complete` refuses what leaves more than `MOST_MISSING` of it. Attribution has no such sum.

Attribution proposes; what a circuit does is measured (`node_faithfulness`). Out of scope: edges between features; one
path for all hooks at once, which mixes them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sae_lens_med.circuits.edges import midpoints
from sae_lens_med.circuits.pairs import Pair, by_length, metric
from sae_lens_med.circuits.spliced import SplicedModel, TextRun
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.models.sinks import SINK_MULTIPLE, sink_rule
from sae_lens_med.records import FloatArray, IntArray

MOST_MISSING = 0.1
"""Share of the effect of a hook that integrated gradients may miss."""
ERROR = "error"


@dataclass(frozen=True, slots=True)
class NodeSpace:
    """All nodes of a run, as columns: hooks one after the other, in each the parts, in each the features and the error
    at the end."""

    hooks: tuple[str, ...]
    d_sae: tuple[int, ...]
    parts: tuple[str, ...]

    @property
    def first(self) -> tuple[int, ...]:
        """First column of each hook, and the number of nodes at the end."""
        sizes = [len(self.parts) * (d + 1) for d in self.d_sae]
        return tuple(np.concatenate([[0], np.cumsum(sizes)]).tolist())

    @property
    def n_nodes(self) -> int:
        return self.first[-1]

    def place(self, nodes: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Hook, part and feature of nodes; the feature of an error is d_sae."""
        nodes = np.asarray(nodes, dtype=np.int64)
        hook = np.searchsorted(self.first, nodes, side="right") - 1
        width = np.array(self.d_sae)[hook] + 1
        inside = nodes - np.array(self.first)[hook]
        return hook, inside // width, inside % width

    def is_error(self, nodes: IntArray) -> np.ndarray:
        """Which nodes are errors."""
        hook, _, feature = self.place(nodes)
        return feature == np.array(self.d_sae)[hook]

    def name(self, node: int) -> str:
        """`HOOK/PART/FEATURE`, or `HOOK/PART/error`."""
        hook, part, feature = (int(each) for each in self.place(np.array(node)))
        last = ERROR if feature == self.d_sae[hook] else str(feature)
        return f"{self.hooks[hook]}/{self.parts[part]}/{last}"

    def of_pairs(self, batch: Sequence[Pair], device: torch.device) -> Tensor:
        """`[B, T]`: number of the part of each token."""
        number = {name: k for k, name in enumerate(self.parts)}
        return torch.tensor([[number[part] for part in pair.token_parts] for pair in batch], device=device)


def node_space(spliced: SplicedModel, pairs: Sequence[Pair]) -> NodeSpace:
    """Of the parts that the pairs have."""
    parts = sorted({part for pair in pairs for part in pair.token_parts})
    return NodeSpace(spliced.hooks, spliced.d_sae, tuple(parts))


@dataclass(frozen=True, slots=True, eq=False)
class PairRun:
    """Pairs of one shape, their two texts run."""

    pairs: tuple[Pair, ...]
    wanted: Tensor
    clean: TextRun
    other: TextRun


def run_texts(spliced: SplicedModel, pairs: Sequence[Pair], batch_tokens: int = 512) -> Iterator[PairRun]:
    """Both texts of pairs, batch by batch, in the order of length."""
    for batch in by_length(pairs, batch_tokens):
        wanted = torch.tensor([pair.asked for pair in batch], device=spliced.device)
        clean, other = (
            spliced.read(torch.tensor([getattr(pair, side) for pair in batch], device=spliced.device), wanted)
            for side in ("clean", "other")
        )
        yield PairRun(tuple(batch), wanted, clean, other)


@dataclass(frozen=True, slots=True)
class SinkRules:
    """Above which norm a token of each hook is a sink, and the rule in words."""

    thresholds: tuple[float, ...]
    rules: tuple[str, ...]

    def left_out(self, spliced: SplicedModel, run: PairRun, h: int) -> Tensor:
        """`[B, T]`: tokens that have no nodes at hook h."""
        special = spliced.special(run.clean.tokens) | spliced.special(run.other.tokens)
        longest = torch.maximum(run.clean.x[h].norm(dim=-1), run.other.x[h].norm(dim=-1))
        return special | (longest > self.thresholds[h])


def sink_rules(spliced: SplicedModel, runs: Sequence[PairRun], multiple: float = SINK_MULTIPLE) -> SinkRules:
    """The package's rule (`models.sinks`), of the clean texts."""
    found = []
    for h in range(len(spliced.hooks)):
        norms = [run.clean.x[h].norm(dim=-1)[~spliced.special(run.clean.tokens)].cpu().numpy() for run in runs]
        n = sum(len(run.pairs) for run in runs)
        found.append(sink_rule(norms, multiple, f"the clean texts of {n} pairs"))
    return SinkRules(tuple(r["sink_threshold"] for r in found), tuple(str(r["rule"]) for r in found))


@dataclass(frozen=True, slots=True, eq=False)
class NodeScores:
    """Scores of some pairs."""

    ids: tuple[str, ...]
    scores: sparse.csr_array
    """`[items, n_nodes]`, in nats."""
    effect: FloatArray
    """`[items, hooks]`: m - m(x' at this hook), measured."""
    left_out: IntArray
    """`[items, hooks]`: tokens without nodes, special ones and sinks."""

    def missing(self, space: NodeSpace) -> FloatArray:
        """`[items, hooks]`: effect less the sum of the hook's scores."""
        sums = [self.scores[:, a:b].sum(axis=1) for a, b in zip(space.first, space.first[1:], strict=False)]
        return self.effect - np.stack(sums, axis=1)

    def rows(self, ids: Sequence[str]) -> "NodeScores":
        """Those of some items."""
        place = {name: i for i, name in enumerate(self.ids)}
        at = [place[name] for name in ids]
        return NodeScores(tuple(ids), self.scores[at], self.effect[at], self.left_out[at])


def joined(parts: Sequence[NodeScores]) -> NodeScores:
    """One after the other."""
    return NodeScores(
        tuple(name for part in parts for name in part.ids),
        sparse.csr_array(sparse.vstack([part.scores for part in parts])),
        np.concatenate([part.effect for part in parts]),
        np.concatenate([part.left_out for part in parts]),
    )


def require_complete(scores: NodeScores, space: NodeSpace) -> FloatArray:
    """`[hooks]`: sum of |missing| over sum of |effect|. Raises `DataError` where it is above `MOST_MISSING`."""
    missing = np.abs(scores.missing(space)).sum(0)
    share = missing / np.maximum(np.abs(scores.effect).sum(0), np.finfo(np.float64).tiny)
    for name, found in zip(space.hooks, share, strict=True):
        if found > MOST_MISSING:
            raise DataError(
                f"the scores at {name} miss {found:.0%} of the effect of its nodes, more than {MOST_MISSING:.0%}; take "
                "more --ig-steps."
            )
    return share


def node_scores(
    spliced: SplicedModel, space: NodeSpace, run: PairRun, sinks: SinkRules, *, ig_steps: int = 10
) -> NodeScores:
    """Scores of pairs of one shape.

    Args:
        spliced: model and SAEs.
        space: its columns.
        run: from `run_texts`.
        sinks: from `sink_rules`.
        ig_steps: midpoints of the path; 0: the gradient on the clean text alone.
    """
    if ig_steps < 0:
        raise ConfigError(f"ig_steps must be 0 or more, got {ig_steps}.")
    n, parts = len(run.pairs), space.of_pairs(run.pairs, spliced.device)
    member = torch.nn.functional.one_hot(parts, len(space.parts)).float()
    blocks, effects, counts = [], [], []
    for h, (none, end, gradient) in enumerate(_gradients(spliced, run, sinks, ig_steps)):
        with torch.no_grad():
            moved = spliced.run(run.clean, run.wanted, {h: lambda _, end=end: end})
            effects.append(metric(run.clean) - (moved[:, 0] - moved[:, 1]))
            step, apart = _step(spliced, run, h, none), run.clean.x[h] - end
            error = ((apart - step @ spliced.decoder(h)) * gradient).sum(-1, keepdim=True)
            each = torch.cat([step * (gradient @ spliced.decoder(h).T), error], -1)
            blocks.append(torch.einsum("btp,btf->bpf", member, each).flatten(1))
        counts.append(none.sum(1))
    scores = sparse.csr_array(torch.cat(blocks, 1).double().cpu().numpy())
    return NodeScores(
        tuple(pair.id for pair in run.pairs),
        scores,
        torch.stack(effects, 1).double().cpu().numpy(),
        torch.stack(counts, 1).cpu().numpy().reshape(n, -1),
    )


@torch.no_grad()
def turned_sizes(
    spliced: SplicedModel, space: NodeSpace, run: PairRun, sinks: SinkRules, *, ig_steps: int, draws: int, seed: int = 0
) -> FloatArray:
    """`[draws, B, columns]`: what `feature_sizes` would be if each feature had the direction of another one of its SAE,
    exchanged at random; the same exchanges for every run."""
    parts = space.of_pairs(run.pairs, spliced.device)
    member = torch.nn.functional.one_hot(parts, len(space.parts)).float()
    rng = np.random.default_rng(seed)
    orders = [[rng.permutation(d) for d in space.d_sae] for _ in range(draws)]
    found: list[list[Tensor]] = [[] for _ in range(draws)]
    for h, (none, _, gradient) in enumerate(_gradients(spliced, run, sinks, ig_steps)):
        step, along = _step(spliced, run, h, none), gradient @ spliced.decoder(h).T
        for draw, order in enumerate(orders):
            turned = step * along[..., torch.as_tensor(order[h], device=along.device)]
            found[draw].append(torch.einsum("btp,btf->bpf", member, turned).abs().sum(1))
    return torch.stack([torch.cat(each, 1) for each in found]).double().cpu().numpy()


def feature_sizes(scores: sparse.csr_array, space: NodeSpace) -> FloatArray:
    """`[items, columns]`: of each feature, hook after hook, the sizes of its scores summed over the parts."""
    found = []
    for h, d in enumerate(space.d_sae):
        block = abs(scores[:, space.first[h] : space.first[h + 1]]).toarray()
        found.append(block.reshape(len(block), len(space.parts), d + 1)[..., :d].sum(1))
    return np.concatenate(found, 1)


def _gradients(
    spliced: SplicedModel, run: PairRun, sinks: SinkRules, ig_steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each hook: `[B, T]` the tokens without nodes, `[B, T, d_in]` the other end of the path, and G."""
    at_clean = spliced.gradients(run.clean, run.wanted) if ig_steps == 0 else ()
    for h in range(len(spliced.hooks)):
        none = sinks.left_out(spliced, run, h)
        apart = (run.clean.x[h] - run.other.x[h]) * ~none[..., None]
        end = run.clean.x[h] - apart
        if ig_steps == 0:
            yield none, end, at_clean[h]
            continue
        gradient = torch.zeros_like(apart)
        for a in midpoints(ig_steps):
            gradient += spliced.gradient(run.clean, run.wanted, h, end + a * apart)
        yield none, end, gradient / ig_steps


def _step(spliced: SplicedModel, run: PairRun, h: int, none: Tensor) -> Tensor:
    """`[B, T, d_sae]`: a - a'."""
    return (spliced.acts(h, run.clean.x[h]) - spliced.acts(h, run.other.x[h])) * ~none[..., None]
