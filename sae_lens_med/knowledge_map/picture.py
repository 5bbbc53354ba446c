"""Pictures in two dimensions by UMAP (McInnes, Healy and Melville 2018): drawn, never decisive.

UMAP makes clusters and loops of noise as well. So the picture stands beside two that it must be compared with, in the
same settings: points of a Gaussian with the same covariance, and the same concepts at the embedding; and beside
each stands its trustworthiness (Venna and Kaski 2001), the share of neighbours that were neighbours before, 0 to 1.
Nothing is concluded from it; what a layer makes available is told by `geometry`, in all dimensions.

Needs the extra `maps` (umap-learn). Out of scope: three dimensions, colours by continuous values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sae_lens_med.errors import ConfigError, MissingExtraError
from sae_lens_med.knowledge_map.answering import material_of
from sae_lens_med.knowledge_map.geometry import scaled
from sae_lens_med.knowledge_map.lists import Lists
from sae_lens_med.knowledge_map.measure import Read
from sae_lens_med.records import FloatArray

NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Points of one domain at one depth, and of what it is compared with."""

    title: str
    points: FloatArray
    """`[n, 2]`."""
    labels: tuple[str, ...]
    trustworthiness: float
    """Of the two dimensions, with `NEIGHBOURS` neighbours."""


def require_umap() -> None:
    """Raise `MissingExtraError` where umap-learn is not installed."""
    if find_spec("umap") is None:
        raise MissingExtraError("umap", "maps", "a picture by UMAP")


def pictures_of(
    folder: Path, domain: str, language: str, depth: int, lists: Lists | None = None, *, seed: int = 0
) -> list[Picture]:
    """The domain at `depth`, the embedding, and a Gaussian of the covariance at `depth`.

    Raises `ConfigError` for a domain, a language or a depth that the map has not; else as `answer_hypotheses`.
    """
    require_umap()
    material = material_of(folder, lists)
    if (domain, language) not in material.reads:
        known = ", ".join(f"{name} ({code})" for name, code in material.reads)
        raise ConfigError(f"the map has no {domain} ({language}); it has {known}.")
    read = material.reads[domain, language]
    if not 0 <= depth < len(read.model):
        raise ConfigError(f"--depth must be from 0 to {len(read.model) - 1}, got {depth}.")
    x = scaled(read.model[depth, 0], standardise=True)
    rng = np.random.default_rng(seed)
    gaussian = rng.normal(size=(len(x), len(x))) @ x / np.sqrt(len(x))
    labels = picture_labels(read)
    embedding = scaled(read.model[0, 0], standardise=True)
    named: Sequence[tuple[str, FloatArray]] = (
        (f"depth {depth}", x),
        ("embedding", embedding),
        ("Gaussian of the same covariance", gaussian),
    )
    return [picture(title, layer, labels, seed) for title, layer in named]


def picture(title: str, x: FloatArray, labels: Sequence[str], seed: int) -> Picture:
    """`x [n, d]` in two dimensions, by cosine."""
    from sklearn.manifold import trustworthiness
    from umap import UMAP

    neighbours = min(NEIGHBOURS, len(x) // 2 - 1)
    if neighbours < 2:
        raise ConfigError(f"a picture needs six concepts or more, there are {len(x)}.")
    points = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1).fit_transform(x)
    trust = float(trustworthiness(x, points, n_neighbors=neighbours, metric="cosine"))
    return Picture(title, np.asarray(points, dtype=np.float64), tuple(labels), trust)


def picture_labels(read: Read) -> list[str]:
    """The label of each concept in the domain's first label set; of what has an order, its group or its decade."""
    first = next(iter(read.concepts[0].labels), "")
    if first:
        return [each.labels[first] for each in read.concepts]
    return [each.group or f"{int((each.value or 0) // 10) * 10}–" for each in read.concepts]
