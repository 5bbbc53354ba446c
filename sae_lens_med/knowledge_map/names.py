"""What an SAE sees at the names of concepts: the residuals at its hook, and features of them, one row a concept.

    concept, template -> text -> model up to the hook -> x [n_tokens, d_in] at the tokens of the name
    x, dictionary -> c = encode(x) -> at the name's last token, or the strongest over its tokens -> mean over templates

Residuals are kept, not features, so that every dictionary (the SAE, a shuffled one) is asked about the same tokens. The
concept, averaged over its templates, is the unit of every null (`reading`).

Out of scope: what the features say of the concepts (`features`, `bilingual`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sae_lens_med.knowledge_map.reading import Float32Array, SlotText
from sae_lens_med.records import IntArray

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

NamePosition = Literal["concept", "name"]
"""`concept`: the name's last token, as in the map of layers; `name`: the strongest over the tokens of the name."""
POSITIONS: tuple[NamePosition, ...] = get_args(NamePosition)
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_INPUTS = ("hook_resid_pre", "hook_in")
_VALUES = 2**24
"""Activations of a block."""


@dataclass(frozen=True, slots=True, eq=False)
class NameTokens:
    """The tokens of the names of one domain in one language, text by text."""

    x: tuple[Float32Array, ...]
    """For each SAE `[n_tokens, d_in]`, at its hook."""
    text: IntArray
    """`[n_tokens]`, ascending: the text of each token."""
    concept: IntArray
    """`[n_texts]`: the concept of each text."""
    embedding: Float32Array
    """`[n_texts, d_model]`, the residual before the first block at the name's last token."""

    def save(self, path: Path) -> None:
        """As safetensors."""
        from safetensors.numpy import save_file

        arrays: dict[str, npt.NDArray[np.generic]] = {f"x-{i}": x for i, x in enumerate(self.x)}
        more = {"text": self.text, "concept": self.concept, "embedding": self.embedding}
        save_file(arrays | more, path)

    @classmethod
    def load(cls, path: Path) -> "NameTokens":
        """The inverse of `save`."""
        from safetensors.numpy import load_file

        found = load_file(path)
        x = tuple(found[f"x-{i}"] for i in range(len(found) - 3))
        return cls(x, found["text"], found["concept"], found["embedding"])


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """One dictionary on the names."""

    acts: Float32Array
    """`[n_concepts, d_sae]`, >= 0, mean over the texts of a concept."""
    fires: Float32Array
    """`[n_concepts, d_sae]`, the share of the tokens of its name at which the feature fires, mean over the texts: a
    share of tokens, since a name has more of them in one language than in the other."""


def depth_of(hook_name: str) -> int:
    """The depth of the map at which a hook stands: k before block k, k + 1 at or behind its output, as `reading` counts
    them. A hook outside of the blocks has depth 0."""
    found = _BLOCK.fullmatch(hook_name)
    return 0 if found is None else int(found[1]) + (found[2] not in _INPUTS)


def read_names(
    model: "MedBridge",
    saes: Sequence["LoadedSae"],
    texts: Sequence[SlotText],
    *,
    batch_tokens: int | None = None,
    on_text: Callable[[], None] = lambda: None,
) -> NameTokens:
    """The residuals at the hook of every SAE, at the tokens of every name.

    Raises `ModelError` for an SAE of another width, a hook that the model does not have, or activations that are not
    finite.
    """
    from sae_lens_med.features.reading import read_at_hook
    from sae_lens_med.models.bridge import default_batch_tokens
    from sae_lens_med.models.residuals import ResidualReader

    most = batch_tokens or default_batch_tokens(model)
    wanted = [_Wanted(number, text) for number, text in enumerate(texts)]
    x = []
    for sae in saes:
        found: dict[int, Float32Array] = {}
        for each, rows in read_at_hook(ResidualReader(model, [sae.hook_name]), sae, wanted, most):
            found[each.number] = rows[: each.length].cpu().numpy().copy()
            on_text()
        x.append(np.concatenate([found[number] for number in range(len(texts))]))
    before = ResidualReader(model, ["blocks.0.hook_resid_pre"])
    embedding = [before.read([text.token_ids])["blocks.0.hook_resid_pre"][0][text.at[0]] for text in texts]
    return NameTokens(
        x=tuple(x),
        text=np.repeat(np.arange(len(texts)), [each.length for each in wanted]),
        concept=np.array([text.concept for text in texts], dtype=np.int64),
        embedding=np.stack([row.float().cpu().numpy() for row in embedding]),
    )


def pooled(sae: "LoadedSae", x: Float32Array, tokens: NameTokens, position: NamePosition) -> Pooled:
    """The features of `sae` at `x` (one of `tokens.x`), a row for each concept.

    Raises `ReleaseError` for features that are negative or not finite.
    """
    import torch

    from sae_lens_med.features.reading import encoded

    first = np.append(np.flatnonzero(np.diff(tokens.text, prepend=-1)), len(tokens.text))
    n_concepts, d_sae = int(tokens.concept.max()) + 1, int(sae.sae.cfg.d_sae)
    acts, fires = np.zeros((n_concepts, d_sae), np.float32), np.zeros((n_concepts, d_sae), np.float32)
    step = max(1, _VALUES // (d_sae * int(np.diff(first).max())))
    with torch.no_grad():
        for start in range(0, len(tokens.concept), step):
            some = slice(start, min(start + step, len(tokens.concept)))
            rows = torch.from_numpy(x[first[some.start] : first[some.stop]]).to(sae.sae.device)
            found = torch.cat([c for _, c in encoded(sae, rows, "the names of concepts")]).cpu().numpy()
            at = first[some] - first[some.start]
            strongest = np.maximum.reduceat(found, at)
            last = found[np.append(at[1:], len(found)) - 1]
            np.add.at(acts, tokens.concept[some], last if position == "concept" else strongest)
            share = np.add.reduceat((found > 0).astype(np.float32), at) / np.diff(np.append(at, len(found)))[:, None]
            np.add.at(fires, tokens.concept[some], share)
    times = np.bincount(tokens.concept)[:, None].astype(np.float32)
    return Pooled(acts / times, fires / times)


def mean_rows(values: npt.NDArray[np.floating[Any]], concept: IntArray) -> Float32Array:
    """`values [n_texts, d]` averaged over the texts of each concept."""
    sums = np.zeros((int(concept.max()) + 1, values.shape[1]))
    np.add.at(sums, concept, values)
    return (sums / np.bincount(concept)[:, None]).astype(np.float32)


def name_residuals(x: Float32Array, tokens: NameTokens, position: NamePosition) -> Float32Array:
    """`[n_concepts, d_in]`: the residual itself, at the name's last token or its mean over the name."""
    first = np.flatnonzero(np.diff(tokens.text, prepend=-1))
    if position == "concept":
        rows = x[np.append(first[1:], len(x)) - 1]
    else:
        rows = np.add.reduceat(x, first) / np.diff(np.append(first, len(x)))[:, None]
    return mean_rows(rows, tokens.concept)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A text of which the model reads all, and the tokens of the name are wanted."""

    number: int
    of: SlotText

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.of.token_ids

    @property
    def first(self) -> int:
        return self.of.first

    @property
    def length(self) -> int:
        """Tokens of the name."""
        return self.of.at[0] - self.of.first + 1

    @property
    def label(self) -> str:
        return "the name of a concept"
