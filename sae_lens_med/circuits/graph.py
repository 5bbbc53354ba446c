"""The graph of a decoder: who writes to the residual stream, who reads from it, and the edges between them.

    writers   `input` (the embedding), `aL.hH` (head H of layer L), `mL` (its MLP)
    readers   `aL.hH<q>`, `aL.hG<k>`, `aL.hG<v>` (queries of each head; keys and values of each key-value head, which
              under grouped-query attention several heads share), `mL`, `logits`
    edges     every writer -> every reader that comes after it

Names are those of the Mechanistic Interpretability Benchmark (arXiv 2504.13151). Under grouped-query attention H heads
share G < H keys and values: the graph is that of the model, with G readers of keys, not one for each head.

Out of scope: neurons, features and positions as nodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import BoolArray, FloatArray

INPUT = "input"
LOGITS = "logits"
KINDS = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Graph:
    """Of a decoder of this shape."""

    n_layers: int
    n_heads: int
    n_kv_heads: int

    @property
    def writers(self) -> tuple[str, ...]:
        """In the order in which they write."""
        return tuple(self._writers())

    @property
    def readers(self) -> tuple[str, ...]:
        """In the order in which they read."""
        return tuple(self._readers())

    @property
    def n_writers(self) -> int:
        """1 + layers * (heads + 1)."""
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def n_readers(self) -> int:
        """layers * (heads + 2 key-value heads + 1) + 1."""
        return self.n_layers * self.readers_of_layer + 1

    @property
    def readers_of_layer(self) -> int:
        """heads + 2 key-value heads + 1."""
        return self.n_heads + 2 * self.n_kv_heads + 1

    @property
    def edges(self) -> BoolArray:
        """`[n_readers, n_writers]`: whether the writer comes before the reader."""
        found = np.zeros((self.n_readers, self.n_writers), dtype=bool)
        for layer in range(self.n_layers):
            first = layer * self.readers_of_layer
            found[first : first + self.readers_of_layer - 1, : self.before(layer)] = True
            found[first + self.readers_of_layer - 1, : self.before(layer) + self.n_heads] = True
        found[-1] = True
        return found

    @property
    def n_edges(self) -> int:
        """Of them."""
        return int(self.edges.sum())

    def before(self, layer: int) -> int:
        """Writers before the attention of a layer."""
        return 1 + layer * (self.n_heads + 1)

    def reader_rows(self, layer: int) -> slice:
        """The readers of a layer's attention: queries, keys, values."""
        first = layer * self.readers_of_layer
        return slice(first, first + self.readers_of_layer - 1)

    def reader_of_mlp(self, layer: int) -> int:
        """The row of a layer's MLP."""
        return (layer + 1) * self.readers_of_layer - 1

    def names(self, chosen: BoolArray) -> list[str]:
        """`writer->reader` of each chosen edge, `chosen [n_readers, n_writers]`."""
        writers, readers = self.writers, self.readers
        return [f"{writers[w]}->{readers[r]}" for r, w in np.argwhere(chosen & self.edges)]

    def place(self, edge: str) -> tuple[int, int]:
        """Row and column of `writer->reader`. Raises `DataError` for an edge that the graph does not have."""
        writer, _, reader = edge.partition("->")
        for name, known in ((writer, self.writers), (reader, self.readers)):
            if name not in known:
                raise DataError(f"the graph has no node {name!r}{nearest(name, known) or '.'} An edge is a0.h1->m2.")
        at = (self.readers.index(reader), self.writers.index(writer))
        if not self.edges[at]:
            raise DataError(f"{writer} does not come before {reader}, so there is no edge {edge!r}.")
        return at

    def connected(self, chosen: BoolArray) -> BoolArray:
        """The chosen edges that lie on a path from the input to the logits through chosen edges.

        The others change nothing: a node that is not reached from the input writes what it writes on the other text,
        and one that reaches no logits is not seen."""
        kept = chosen & self.edges
        heads = self.n_heads // self.n_kv_heads
        while True:
            reached = np.zeros(self.n_writers, dtype=bool)
            reached[0] = True
            into = np.asarray(kept.any(axis=1))
            for layer in range(self.n_layers):
                rows, first = self.reader_rows(layer).start, self.before(layer)
                for head in range(self.n_heads):
                    group = head // heads
                    own = (head, self.n_heads + group, self.n_heads + self.n_kv_heads + group)
                    reached[first + head] = any(into[rows + each] for each in own)
                reached[first + self.n_heads] = into[self.reader_of_mlp(layer)]
            seen = np.asarray(kept.any(axis=0))
            live = np.zeros(self.n_readers, dtype=bool)
            live[-1] = True
            for layer in range(self.n_layers):
                rows, first = self.reader_rows(layer).start, self.before(layer)
                for head in range(self.n_heads):
                    group = head // heads
                    if seen[first + head]:
                        live[rows + head] = True
                        live[rows + self.n_heads + group] = True
                        live[rows + self.n_heads + self.n_kv_heads + group] = True
                live[self.reader_of_mlp(layer)] = seen[first + self.n_heads]
            fewer = kept & reached[None, :] & live[:, None]
            if (fewer == kept).all():
                return kept
            kept = fewer

    def best(self, scores: FloatArray, n: int) -> BoolArray:
        """The n edges of the largest `scores [n_readers, n_writers]`, among equal ones the first."""
        edges = self.edges
        if not 0 <= n <= edges.sum():
            raise DataError(f"a circuit of this graph has 0 to {self.n_edges} edges, got {n}.")
        flat = np.where(edges, scores, -np.inf).ravel()
        found = np.zeros(flat.size, dtype=bool)
        found[np.argsort(-flat, kind="stable")[:n]] = True
        return found.reshape(edges.shape)

    def _writers(self) -> Iterator[str]:
        yield INPUT
        for layer in range(self.n_layers):
            yield from (f"a{layer}.h{head}" for head in range(self.n_heads))
            yield f"m{layer}"

    def _readers(self) -> Iterator[str]:
        for layer in range(self.n_layers):
            yield from (f"a{layer}.h{head}<q>" for head in range(self.n_heads))
            yield from (f"a{layer}.h{head}<{kind}>" for kind in KINDS[1:] for head in range(self.n_kv_heads))
            yield f"m{layer}"
        yield LOGITS
