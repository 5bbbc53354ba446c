"""Concepts in their templates -> the residual stream at every depth, one mean per concept.

    concept, template -> text -> tokens -> blocks 0 .. L-1 -> [depth, position, concept, d_model]

Depth 0 is the embedding (`blocks.0.hook_resid_pre`), depth k what block k - 1 leaves (`blocks.{k-1}.hook_resid_post`).
Two positions: the last token of the concept's name, and the last token of the text, which at depth 0 is the same for
all concepts of a template. A concept is the mean over its templates: it, not the prompt, is the unit of every null.

One batch runs through the model once for all depths. Float32 means; the sums are those of the model's dtype.

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
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SlotText:
    """One concept in one template."""

    concept: int
    """Its place among those that are read."""
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
        for template in templates:
            start = template.index(SLOT)
            end = start + len(form)
            text = template[:start] + form + template[start + len(SLOT) :]
            prompt = text_prompt(concept.concept, text, tokenizer, spans=(Span(start, end, "stem"),))  # type: ignore[arg-type]  # a fast tokenizer, which text_prompt requires
            inside = [i for i, (a, b) in enumerate(prompt.char_spans) if a < end and b > start]
            found.append(SlotText(number, prompt.token_ids, (inside[-1], len(prompt.token_ids) - 1), inside[0]))
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
    from sae_lens_med.models.bridge import default_batch_tokens
    from sae_lens_med.models.residuals import ResidualReader

    hooks = depth_hooks(model.cfg.n_layers)
    reader = ResidualReader(model, hooks)
    sums = np.zeros((len(hooks), len(POSITIONS), n_concepts, model.cfg.d_model))
    times = np.zeros(n_concepts)
    most = batch_tokens or default_batch_tokens(model)
    for batch in _batches(texts, most):
        found = reader.read([text.token_ids for text in batch])
        for depth, hook in enumerate(hooks):
            for text, rows in zip(batch, found[hook], strict=True):
                sums[depth, :, text.concept] += rows[list(text.at)].float().cpu().numpy()
        for text in batch:
            times[text.concept] += 1
        on_batch(len(batch))
    means = (sums / times[:, None]).astype(np.float32)
    if not np.isfinite(means).all():
        raise DataError("the model gives activations that are not finite; load it in float32 or bfloat16.")
    return means


def _batches(texts: Sequence[SlotText], batch_tokens: int) -> list[list[SlotText]]:
    """Texts of one length together, so that nothing is padded; a text that is too long is a batch of its own."""
    batches: list[list[SlotText]] = []
    for text in sorted(texts, key=lambda each: len(each.token_ids)):
        length = len(text.token_ids)
        last = batches[-1] if batches else []
        if last and len(last[0].token_ids) == length and (len(last) + 1) * length <= batch_tokens:
            last.append(text)
        else:
            batches.append([text])
    return batches
