"""Concepts in their templates -> the residual stream at every depth, one mean per concept.

    concept, template -> text -> tokens -> blocks 0 .. L-1 -> [depth, position, concept, d_model]

Depth 0 is the embedding (`blocks.0.hook_resid_pre`), depth k what block k - 1 leaves (`blocks.{k-1}.hook_resid_post`).
Two positions: the last token of the concept's name, and the last token of the text, which at depth 0 is the same for
all concepts of a template. A concept is the mean over its templates: it, not the prompt, is the unit of every null.

One batch runs through the model once for all depths, and what the texts of a template begin with once for all of
them: mostly all but the name. Float32 means; the sums are those of the model's dtype.

Out of scope: attention patterns, gradients, chat templates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.lists import SLOT, MapConcept
from sae_lens_med.prompts.tokens import text_prompt
from sae_lens_med.records import Span

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge

POSITIONS = ("concept", "last")
PADDING = 32
"""Most tokens of padding in a batch: a pass of its own reads all weights again, which costs as much."""
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SlotText:
    """One concept in one template."""

    concept: int
    """Its place among those that are read."""
    template: int
    """Which of the templates."""
    token_ids: tuple[int, ...]
    at: tuple[int, int]
    """The token of each of `POSITIONS`."""
    first: int
    """The first token of the name."""


def slot_texts(
    concepts: Sequence[MapConcept], templates: Sequence[str], language: str, tokenizer: object
) -> list[SlotText]:
    """Every concept in every template. Raises `DataError` without templates."""
    if not templates:
        raise DataError(f"there are no templates in {language!r} for {concepts[0].domain!r}; add one to the table.")
    found: list[SlotText] = []
    for number, concept in enumerate(concepts):
        form = concept.forms[language]
        for which, template in enumerate(templates):
            start = template.index(SLOT)
            end = start + len(form)
            text = template[:start] + form + template[start + len(SLOT) :]
            prompt = text_prompt(concept.concept, text, tokenizer, spans=(Span(start, end, "stem"),))  # type: ignore[arg-type]  # a fast tokenizer, which text_prompt requires
            inside = [i for i, (a, b) in enumerate(prompt.char_spans) if a < end and b > start]
            at = (inside[-1], len(prompt.token_ids) - 1)
            found.append(SlotText(number, which, prompt.token_ids, at, inside[0]))
    return found


def depth_hooks(n_layers: int) -> list[str]:
    """The hook of each depth, embedding first."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]


def read_concepts(
    model: "MedBridge",
    texts: Sequence[SlotText],
    n_concepts: int,
    *,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], None] = lambda _n: None,
) -> Float32Array:
    """Means over the templates, `[depth, 2, n_concepts, d_model]`.

    Args:
        model: from `load_model`.
        texts: from `slot_texts`; every concept in at least one of them.
        n_concepts: how many there are.
        batch_tokens: most tokens of a pass, padding included; None: what suits the device.
        on_batch: called with the number of texts that were read since the last call.

    Raises `DataError` for an activation that is not finite.
    """
    import torch

    from sae_lens_med.models.bridge import default_batch_tokens
    from sae_lens_med.models.residuals import ResidualReader

    hooks = depth_hooks(model.cfg.n_layers)
    reader = ResidualReader(model, hooks)
    sums = np.zeros((len(hooks), len(POSITIONS), n_concepts, model.cfg.d_model))
    times = np.zeros(n_concepts)
    most = batch_tokens or default_batch_tokens(model)
    for same in _templates(texts):
        shared = _shared(same)
        after = reader.beginning(same[0].token_ids[:shared])
        for batch in _batches(same, shared, most):
            found = reader.read([text.token_ids[shared:] for text in batch], after)
            concepts = [text.concept for text in batch]
            for depth, hook in enumerate(hooks):
                rows = zip(batch, found[hook], strict=True)
                read = torch.stack([row[[at - shared for at in text.at]] for text, row in rows])
                sums[depth][:, concepts] += read.float().cpu().numpy().swapaxes(0, 1)
            times[concepts] += 1
            on_batch(len(batch))
    means = (sums / times[:, None]).astype(np.float32)
    if not np.isfinite(means).all():
        raise DataError("the model gives activations that are not finite; load it in float32 or bfloat16.")
    return means


def _templates(texts: Sequence[SlotText]) -> list[list[SlotText]]:
    found: dict[int, list[SlotText]] = {}
    for text in texts:
        found.setdefault(text.template, []).append(text)
    return list(found.values())


def _shared(texts: Sequence[SlotText]) -> int:
    """How many tokens all begin with, before any that is read."""
    most = min(min(text.at) for text in texts)
    first = texts[0].token_ids
    return next((i for i in range(most) if any(text.token_ids[i] != first[i] for text in texts)), most)


def _batches(texts: Sequence[SlotText], shared: int, batch_tokens: int) -> list[list[SlotText]]:
    """Texts of like length together, each concept once in a batch, with at most `PADDING` tokens of padding; a text
    that is too long is a batch of its own."""
    batches: list[list[SlotText]] = []
    padding = 0
    for text in sorted(texts, key=lambda each: -len(each.token_ids)):
        last = batches[-1] if batches else []
        longest = len(last[0].token_ids) if last else 0
        padding += longest - len(text.token_ids)
        if last and (len(last) + 1) * (longest - shared) <= batch_tokens and padding <= PADDING:
            last.append(text)
        else:
            batches.append([text])
            padding = 0
    return batches
