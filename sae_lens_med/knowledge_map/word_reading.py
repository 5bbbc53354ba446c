"""Texts through a model, once, and dictionaries on what it gives: `words.WordActs` of SAEs and of their lower bounds.

    texts -> tokens with character spans -> residuals at a hook, float32 [n_tokens, d_in] -> encode -> largest of a word

Special tokens and activation sinks never count (`models.sinks`, the median over all tokens of the texts). A text is cut
at `context` tokens; a word that the cut goes through is not read.

**Lower bounds**, encoded and pooled as the SAE is: its directions shuffled (`controls.untrained`), with biases such
that a feature fires as often as the trained one; and the principal components of the residuals, each in both senses,
with a threshold such that it fires on as many tokens as the SAE's live features do on average.

All residuals of a hook are held while its dictionaries are encoded: 4 bytes x tokens x d_in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from sae_lens_med.controls.untrained import match_rates, shuffled_sae
from sae_lens_med.errors import DataError
from sae_lens_med.features.reading import encoded, read_at_hook
from sae_lens_med.features.rules import require_sae, special_ids
from sae_lens_med.knowledge_map.reading import Float32Array
from sae_lens_med.knowledge_map.words import WordActs, Words, largest_share, pooled, words_of_tokens
from sae_lens_med.models.bridge import default_batch_tokens
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.models.sinks import SINK_MULTIPLE, sink_rule
from sae_lens_med.prompts.tokens import text_prompt
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.runs.files import json_sha256

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

CONTEXT = 512
_COMPONENTS = 256
"""Principal components at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """What a model does at one hook, at the tokens of texts that count."""

    x: Float32Array
    """`[n_tokens, d_in]`."""
    token_ids: IntArray
    pairs: IntArray
    """`[n_pairs, 2]`: token (row of `x`) and word."""
    read: BoolArray
    """`[n_words]`: all of the word is within the context, and a token of it counts."""
    form: IntArray
    """`[n_words]`, equal for words that read alike."""
    space: str
    """Of the model and the hook: equal for what one model gives at one hook."""
    about: dict[str, Any]
    """The sink rule, and what was counted."""


@dataclass(frozen=True, slots=True)
class _Text:
    number: int
    token_ids: tuple[int, ...]
    char_spans: tuple[tuple[int, int], ...]
    first: int = 0

    @property
    def label(self) -> str:
        return f"text {self.number}"


def read_tokens(
    model: "MedBridge",
    loaded: "LoadedSae",
    words: Words,
    *,
    context: int = CONTEXT,
    batch_tokens: int | None = None,
    on_text: Callable[[int], None] = lambda _n: None,
) -> TokenTable:
    """Run the texts through the model up to the SAE's hook.

    Args:
        loaded: an SAE at the hook; other SAEs at the same hook can be used on the table, too.
        context: tokens of a text that are read, at most those of the model.
        batch_tokens: most tokens of a pass, padding included; None: what suits the device.
        on_text: called with 1 for each text that was read.

    Raises `ModelError` for a hook that is not there, does not fit, or gives what is not finite, `ReleaseError` for an
    SAE that cannot be used, `DataError` where no word is read.
    """
    require_sae(loaded)
    model.require_hook(loaded.hook_name)
    texts = [_encoded_text(model, number, text, context) for number, text in enumerate(words.texts)]
    never = special_ids(model)
    found: dict[int, Float32Array] = {}
    reader = ResidualReader(model, [loaded.hook_name])
    for text, x in read_at_hook(reader, loaded, texts, batch_tokens or default_batch_tokens(model)):
        found[text.number] = x.float().cpu().numpy().copy()
        on_text(1)
    plain = [~np.isin(text.token_ids, never) for text in texts]
    norms = [np.linalg.norm(found[text.number], axis=1)[own] for text, own in zip(texts, plain, strict=True)]
    rule = sink_rule(norms, SINK_MULTIPLE, "the texts")
    rows, ids, pairs = [], [], []
    read = np.zeros(int(words.starts[-1]), dtype=bool)
    n_tokens = n_sinks = 0
    for text, own in zip(texts, plain, strict=True):
        x = found.pop(text.number)
        counted = own & (np.linalg.norm(x, axis=1) <= rule["sink_threshold"])
        n_sinks += int(np.count_nonzero(own & ~counted))
        place = np.cumsum(counted) - 1 + n_tokens
        touching = words_of_tokens(text.char_spans, words.spans[text.number])
        touching = touching[counted[touching[:, 0]]]
        start = words.starts[text.number]
        pairs.append(np.stack([place[touching[:, 0]], touching[:, 1] + start], axis=1))
        end = max((end for _, end in text.char_spans), default=0)
        whole = np.array([stop <= end for _, stop in words.spans[text.number]], dtype=bool)
        here = np.zeros(len(whole), dtype=bool)
        here[touching[:, 1]] = True
        read[start : start + len(whole)] = whole & here
        rows.append(x[counted])
        ids.append(np.array(text.token_ids)[counted])
        n_tokens += int(counted.sum())
    if not read.any():
        raise DataError(f"{model.provenance['name']} read none of the words: every token is special or a sink.")
    _, form = np.unique(words.forms, return_inverse=True)
    about = {**rule, "tokens": n_tokens, "sinks": n_sinks, "words": int(read.sum()), "context": context}
    return TokenTable(
        np.concatenate(rows),
        np.concatenate(ids).astype(np.int64),
        np.concatenate(pairs),
        read,
        form.astype(np.int64),
        json_sha256([model.provenance, loaded.hook_name]),
        about,
    )


def sae_acts(table: TokenTable, loaded: "LoadedSae") -> Any:
    """CSR `[n_tokens, d_sae]`. Raises `ReleaseError` for an SAE whose features are negative or not finite."""
    x = torch.from_numpy(table.x).to(loaded.sae.device)
    return sparse.csr_array(sparse.vstack([sparse.csr_array(part) for part in _encoded(loaded, x)]))


def firing_rates(acts: Any) -> FloatArray:
    """`[d]`, the share of the rows on which each feature fires; `acts` CSR `[n, d]`."""
    return np.bincount(acts.indices[acts.data > 0], minlength=acts.shape[1]) / acts.shape[0]


def sae_words(table: TokenTable, loaded: "LoadedSae", acts: Any, name: str) -> WordActs:
    """An SAE at the words; `acts` are what `sae_acts` gives of it."""
    return _word_acts(table, acts, name, _directions(loaded))


def shuffled_words(table: TokenTable, loaded: "LoadedSae", acts: Any, name: str, seed: int) -> WordActs:
    """The SAE with shuffled directions that fire as often as its own; `acts` are the SAE's. Raises `ReleaseError` for
    an architecture that the control is not made of."""
    control = match_rates(shuffled_sae(loaded, seed), table.x, firing_rates(acts))
    return _word_acts(table, sae_acts(table, control), name, _directions(control))


def component_words(table: TokenTable, acts: Any, name: str) -> WordActs:
    """The principal components of the residuals in both senses, `2 d_in` features at most, as sparse as an SAE whose
    `acts` these are."""
    rates = firing_rates(acts)
    rate = float(rates[rates > 0].mean()) if (rates > 0).any() else 0.0
    centred = table.x - table.x.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    components = np.ascontiguousarray(vectors.T[::-1][: len(table.x)]).astype(np.float32)
    blocks = []
    for start in range(0, len(components), _COMPONENTS):
        projected = centred @ components[start : start + _COMPONENTS].T
        for signed in (projected, -projected):
            level = np.maximum(np.quantile(signed, 1 - rate, axis=0), 0)
            blocks.append(sparse.csc_array(np.maximum(signed - level, 0)))
    parts = [components[start : start + _COMPONENTS] for start in range(0, len(components), _COMPONENTS)]
    directions = np.concatenate([sign * part for part in parts for sign in (1, -1)])
    return _word_acts(table, sparse.csr_array(sparse.hstack(blocks)), name, directions.astype(np.float64))


def _encoded_text(model: "MedBridge", number: int, text: str, context: int) -> _Text:
    prompt = text_prompt(f"text {number}", text, model.text_tokenizer)
    room = min(context, model.cfg.n_ctx)
    return _Text(number, tuple(prompt.token_ids[:room]), tuple(prompt.char_spans[:room]))


@torch.no_grad()
def _encoded(loaded: "LoadedSae", x: torch.Tensor) -> Iterator[Float32Array]:
    for rows in x.split(4096):
        for _, acts in encoded(loaded, rows, "the texts"):
            yield acts.float().cpu().numpy()


def _directions(loaded: "LoadedSae") -> FloatArray:
    return loaded.sae.W_dec.detach().double().cpu().numpy()


def _word_acts(table: TokenTable, acts: Any, name: str, directions: FloatArray) -> WordActs:
    found = pooled(acts, table.pairs, len(table.read))
    unread = np.flatnonzero(~table.read)
    if len(unread):  # a word that was cut has activations of what was read of it
        found = sparse.csr_array(sparse.diags_array(table.read.astype(found.dtype)) @ found)
        found.eliminate_zeros()
    word, token = largest_share(found, table.form), largest_share(acts, table.token_ids)
    return WordActs(name, found, table.read, word, token, directions, table.space)
