"""Items -> their question prompts, with the tokens that count: where causal metrics edit the activation.

Which tokens count is what the collected features say, so that features are removed where they were found.

Out of scope: running edits (`interventions.edit_runs`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import STEM_PARTS, Collected, tokens_of
from sae_lens_med.interventions.edit_runs import AnswerText
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import PARTS, McqItem


def answer_texts(
    items: Sequence[McqItem],
    features: Collected,
    tokenizer: Any,
    *,
    shots: Sequence[McqItem] = (),
    parts: tuple[str, ...] = STEM_PARTS,
) -> list[AnswerText]:
    """The prompts of `items`, in their order; items without a counted token are left out.

    Args:
        items: those of `features`, or some of them.
        features: collected on the same prompts; says which tokens count.
        tokenizer: `MedBridge.text_tokenizer`.
        shots: as they were when the features were collected.
        parts: whose tokens edits act at.

    Raises `DataError` when the prompts' tokens are not those of the features.
    """
    acts = features.acts
    rows = np.flatnonzero(tokens_of(acts, parts))
    rows = rows[np.argsort(acts.token_item[rows], kind="stable")]
    bounds = np.searchsorted(acts.token_item[rows], np.arange(len(acts.item_ids) + 1))
    number = {name: i for i, name in enumerate(acts.item_ids)}
    wanted = [PARTS.index(part) for part in parts]
    found = []
    for item in items:
        prompt = question_prompt(item, tokenizer, shots=shots)
        chosen = np.isin(prompt.token_parts, wanted)
        i = number.get(item.id)
        own = rows[bounds[i] : bounds[i + 1]] if i is not None else rows[:0]
        ids = np.array(prompt.token_ids)
        if not np.array_equal(ids[chosen], acts.token_id[own]):
            raise DataError(
                f"item {item.id!r}: its prompt has {int(chosen.sum())} tokens of {', '.join(parts)}, which are not the "
                f"{len(own)} that the features were collected on; use the model and the shots of the study."
            )
        chosen[np.flatnonzero(chosen)[acts.excluded[own]]] = False
        if not chosen.any():
            continue
        stem = next(span for span in prompt.part_spans if span.label == "stem")
        # The prompt shows the question without the white space around it.
        moved = len(item.question) - len(item.question.lstrip()) - stem.start
        spans = np.array(prompt.char_spans, dtype=np.int64)[chosen] + moved
        found.append(
            AnswerText(item.id, prompt.token_ids, prompt.letter_token_ids, item.answer, chosen, np.maximum(spans, 0))
        )
    return found
