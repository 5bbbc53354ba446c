"""What the metrics that run the model share: which items they run, and what is known of each before anything is edited.

**Items.** Those with an explanation, one of each cluster of near-duplicates; at most `causal_items` of them (100),
because each costs hundreds of passes. Which ones: items left out of the SAE's training text first, then the others,
each in an order drawn by the seed. The same items serve all of these metrics, so that the counts agree.

**Aligned features** of an item: not masked (`vectors.feature_mask`), above 0 on a counted stem token and on a counted
token of the masked explanation; ranked by the smaller of the two IDF-weighted maxima, of equals the lower index first.
These are the features that metrics #6 to #8 attribute to, remove and keep.

**Where edits act.** At the counted stem tokens. Which tokens count is what the collected features say, so that features
are removed where they were found.

How much is run: `metrics.settings.MetricSettings`. With a folder, partial results are kept there as
`causal.*.partial.jsonl`; a run that was ended goes on from them.

Out of scope: running edits (`interventions.edit_runs`), and what the numbers become (each metric's own file).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.saliency import Saliency, token_saliency
from sae_lens_med.errors import DataError
from sae_lens_med.features.stand_ins import drives
from sae_lens_med.features.vectors import STEM_PARTS, Explained, tokens_of
from sae_lens_med.interventions.edit_runs import AnswerText, EditResult, Plan, run_edits
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import PARTS, IntArray, McqItem
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.partial import PartialResults

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook


LEFT_OUT = "left_out"
"""The group of items that the SAE's training text left out."""


class CausalItems:
    """The items of one study that are run; `inputs.view(CausalItems)`. Each part is made when it is first read."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    @cached_property
    def above(self) -> "AboveHook":
        """The model above the SAE's hook."""
        from sae_lens_med.interventions.edits import AboveHook  # needs torch, which this module does not

        side = self.inputs.model
        return AboveHook(side.model, side.loaded_sae, batch_tokens=side.batch_tokens)

    @cached_property
    def texts(self) -> list[AnswerText]:
        """The prompts of the measured items; see the module for which."""
        inputs, side = self.inputs, self.inputs.model
        explained = np.intersect1d(inputs.pooled.explained, inputs.distinct("all"))
        order = np.random.default_rng([inputs.seed, *b"causal items"]).permutation(explained)
        left_out = inputs.all_groups.get(LEFT_OUT, np.zeros(len(inputs.items), dtype=bool))
        order = order[np.argsort(~left_out[order], kind="stable")]
        chosen = np.sort(order[: inputs.settings.causal_items])
        expected = list(getattr(inputs.features, "manifest", {}).get("settings", {}).get("shots", []))
        if expected != [shot.id for shot in side.shots]:
            raise DataError(
                f"the study's features were collected after {len(expected)} solved examples, and {len(side.shots)} "
                "were given for the causal metrics; use the same ones."
            )
        items = [inputs.items[i] for i in chosen]
        return answer_texts(items, inputs.features, side.model.text_tokenizer, shots=side.shots)

    @cached_property
    def aligned(self) -> dict[str, IntArray]:
        """Item id -> its aligned features, best first, of every item with an explanation."""
        pooled = self.inputs.pooled
        ids = [self.inputs.items[i].id for i in pooled.explained]
        return aligned_features(ids, pooled.stems, pooled.explanations)

    @cached_property
    def saliency(self) -> dict[str, Saliency]:
        """Item id -> which of its tokens, and which features, the answer depends on to first order."""
        folder = self.inputs.folder
        found = token_saliency(
            self.above,
            self.texts,
            self.aligned,
            path=None if folder is None else folder / "causal.saliency.partial.jsonl",
            identity=self.identity,
            progress=self.inputs.model.progress,
        )
        return {each.id: each for each in found}

    @cached_property
    def drive(self) -> sparse.csr_array:
        """CSR `[n_items, d_sae]`, activations summed over the counted stem tokens, without masked features."""
        return drives(self.inputs.features.acts, self.inputs.pooled.mask.kept)

    @cached_property
    def position(self) -> dict[str, int]:
        """Item id -> its place among all items."""
        return {item.id: i for i, item in enumerate(self.inputs.items)}

    @cached_property
    def groups(self) -> dict[str, frozenset[str]]:
        """Group -> ids of its items."""
        return {
            group: frozenset(self.inputs.items[i].id for i in np.flatnonzero(chosen))
            for group, chosen in self.inputs.all_groups.items()
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What partial results belong to."""
        side = self.inputs.model
        return {
            "model": dict(side.model.provenance),
            "sae": side.loaded_sae.identity,
            "items": json_sha256([item.to_dict() for item in self.inputs.items]),
            "shots": [shot.id for shot in side.shots],
        }

    def store(self, name: str, settings: Mapping[str, Any]) -> PartialResults | None:
        """Where partial results of these settings are kept; None without a folder."""
        folder = self.inputs.folder
        if folder is None:
            return None
        return PartialResults(folder / f"causal.{name}.partial.jsonl", {**self.identity, **settings})

    def run(
        self, name: str, texts: Sequence[AnswerText], plan: Plan, settings: Mapping[str, Any], label: str
    ) -> tuple[list[EditResult], dict[str, str]]:
        """`run_edits` on these texts, with partial results under `name` and a bar called `label`."""
        return run_edits(
            self.above,
            texts,
            plan,
            store=self.store(name, settings),
            progress=self.inputs.model.progress,
            label=label,
        )


def aligned_features(
    ids: Sequence[str], stems: sparse.csr_array, explanations: sparse.csr_array
) -> dict[str, IntArray]:
    """Item id -> aligned features, best first; empty where the two sides share none.

    Args:
        ids: `[m]`, of the items.
        stems: CSR `[m, d_sae]`, weighted maxima >= 0 over the stem; so `explanations`.
    """
    smaller = sparse.csr_array(stems.minimum(explanations))
    smaller.eliminate_zeros()
    found: dict[str, IntArray] = {}
    for row, name in enumerate(ids):
        own = slice(smaller.indptr[row], smaller.indptr[row + 1])
        features = smaller.indices[own].astype(np.int64)
        found[name] = features[np.lexsort((features, -smaller.data[own].astype(np.float64)))]
    return found


def answer_texts(
    items: Sequence[McqItem],
    features: Explained,
    tokenizer: Any,
    *,
    shots: Sequence[McqItem] = (),
    parts: tuple[str, ...] = STEM_PARTS,
) -> list[AnswerText]:
    """The question prompts of `items`, in their order; items without a counted token are left out.

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
