"""The model side of `expert`: which features fire on a concept's words, what each explanation names, and the scores of
the items that judge beside both.

Concept features are chosen on items that do not judge, by `features.concept_words`: at most `MOST` of each concept and
hook. An explanation names what is found in it once option texts and answer marks are masked (`data.leakage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse

from sae_lens_med.circuits.expert import Expert, columns_of, compare, named_effects
from sae_lens_med.circuits.node_faithfulness import NodePatching
from sae_lens_med.circuits.nodes import NodeScores, NodeSpace, PairRun, SinkRules, feature_sizes, turned_sizes
from sae_lens_med.circuits.spliced import SplicedModel
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import ConceptSet
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import DataError
from sae_lens_med.features.concept_words import Words, features_of_words
from sae_lens_med.features.matched import matched_sets
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import PARTS, BoolArray, FloatArray, IntArray, McqItem

MOST = 10
"""Features of a concept at a hook."""
_STEM = PARTS.index("stem")


@dataclass(frozen=True, slots=True, eq=False)
class ExpertItems:
    """What the expert's side needs."""

    items: Sequence[McqItem]
    """Of the pairs, by id; with explanations."""
    others: Sequence[McqItem]
    """Where concept features are chosen; those that judge are left out of them."""
    concepts: ConceptSet
    draws: int = 99
    """Of matched features and of exchanged directions."""


@dataclass(frozen=True, slots=True, eq=False)
class _Fires:
    """Of one hook, over the stem tokens that count."""

    acts: sparse.csr_array

    @property
    def n_tokens(self) -> int:
        return len(self.acts.indptr) - 1

    @property
    def firing_rate(self) -> np.ndarray:
        return (self._count / max(1, self.n_tokens)).astype(np.float32)

    @property
    def mean_when_active(self) -> FloatArray:
        return np.asarray(self.acts.sum(axis=0)).ravel() / np.maximum(self._count, 1)

    @property
    def _count(self) -> IntArray:
        width = self.acts.shape[1] if self.acts.shape else 0
        return np.bincount(self.acts.indices, minlength=width)


def held_against_expert(
    spliced: SplicedModel,
    space: NodeSpace,
    patching: NodePatching,
    runs: Sequence[PairRun],
    scores: NodeScores,
    mean: FloatArray,
    circuit: BoolArray | None,
    sinks: SinkRules,
    expert: ExpertItems,
    *,
    ig_steps: int,
    seed: int = 0,
) -> Expert:
    """The pairs that judge beside what their explanations name.

    Args:
        spliced: model and SAEs.
        space: of the nodes.
        patching: on the pairs that judge.
        runs: theirs, in the order of `patching.pairs`.
        scores: theirs, in that order.
        mean: `[n_nodes]`, of the pairs that found the circuit.
        circuit: `[n_nodes]`; None where there is none.
        sinks: as for the scores.
        expert: items and concepts.
        ig_steps: as for the scores.
        seed: of all draws.

    Raises `DataError` for a pair without an item or explanation, and where no concept has features.
    """
    by_id = {item.id: item for item in expert.items}
    own = []
    for pair in patching.pairs:
        item = by_id.get(pair.id)
        if item is None or item.explanation is None or item.answer is None:
            raise DataError(f"the pair {pair.id!r} has no item with an explanation and an answer; leave it out.")
        own.append(item)
    judging = {item.id for item in own}
    fires, words = _read(spliced, [item for item in expert.others if item.id not in judging], sinks, expert.concepts)
    matcher, column = ConceptMatcher(expert.concepts), {name: k for k, name in enumerate(expert.concepts.ids)}
    named = np.zeros((len(own), len(column)), dtype=bool)
    for i, item in enumerate(own):
        for mention in matcher.find(mask_leakage(item).text):
            named[i, column[mention.concept_id]] = True
    concepts, matches, rng = [], [], np.random.default_rng(seed)
    for one, d in zip(fires, space.d_sae, strict=True):
        rate = one.firing_rate
        found = features_of_words(
            one.acts, np.ones(one.n_tokens, dtype=bool), words, rate > 0, int(np.count_nonzero(rate))
        )
        table = np.zeros((len(column), d), dtype=bool)
        for concept, features in found.items():
            table[concept, list(features[:MOST])] = True
        concepts.append(table)
        stands = np.tile(np.arange(d), (expert.draws, 1))
        given = np.flatnonzero(table[named.any(0)].any(0))
        if len(given):
            stands[:, given] = matched_sets(one, given.tolist(), expert.draws, rng).sets
        matches.append(stands)
    starts = np.cumsum([0, *space.d_sae[:-1]])
    of_concepts = np.concatenate(concepts, axis=1)
    turned = [
        turned_sizes(spliced, space, run, sinks, ig_steps=ig_steps, draws=expert.draws, seed=seed) for run in runs
    ]
    described = compare(
        feature_sizes(scores.scores, space),
        named,
        of_concepts,
        np.concatenate([each + start for each, start in zip(matches, starts, strict=True)], axis=1),
        [item.subject for item in own],
        [item.answer for item in own],
        turned=np.concatenate(turned, axis=1),
        circuit=None if circuit is None else columns_of(space, circuit),
        seed=seed,
    )
    return replace(described, effects=named_effects(patching, space, named @ of_concepts, mean))


def _read(
    spliced: SplicedModel, items: Sequence[McqItem], sinks: SinkRules, concepts: ConceptSet
) -> tuple[list[_Fires], Words]:
    """Of each hook what fires at the stem tokens that count at all of them, and where concepts are named there."""
    matcher, column = ConceptMatcher(concepts), {name: k for k, name in enumerate(concepts.ids)}
    blocks: list[list[sparse.csr_array]] = [[] for _ in spliced.hooks]
    mention: list[int] = []
    token: list[int] = []
    concept: list[int] = []
    questions, first = np.zeros(len(column), dtype=np.int64), 0
    if not items:
        raise DataError("there are no items beside those that judge, on which features of concepts could be chosen.")
    for item in items:
        prompt = question_prompt(item, spliced.model.text_tokenizer)
        tokens = torch.tensor([prompt.token_ids], device=spliced.device)
        run = spliced.read(tokens, torch.zeros((1, 2), dtype=torch.long, device=spliced.device))
        none = spliced.special(tokens)[0]
        for h, threshold in enumerate(sinks.thresholds):
            none = none | (run.x[h][0].norm(dim=-1) > threshold)
        counted = (np.array(prompt.token_parts) == _STEM) & ~none.cpu().numpy()
        at = np.flatnonzero(counted)
        for h in range(len(spliced.hooks)):
            rows = spliced.acts(h, run.x[h][:, torch.as_tensor(at, device=spliced.device)])[0]
            blocks[h].append(sparse.csr_array(rows.double().cpu().numpy()))
        start = next(span.start for span in prompt.part_spans if span.label == "stem")
        seen = set()
        for each in matcher.find(item.question):
            spans = ((i, prompt.char_spans[t]) for i, t in enumerate(at.tolist()))
            touched = [i for i, (a, b) in spans if a < each.end + start and b > each.start + start]
            if touched:
                mention += [len(concept)] * len(touched)
                token += [first + i for i in touched]
                concept.append(column[each.concept_id])
                seen.add(concept[-1])
        questions[sorted(seen)] += 1
        first += len(at)
    words = Words(np.array(mention, np.int64), np.array(token, np.int64), np.array(concept, np.int64), questions)
    return [_Fires(sparse.csr_array(sparse.vstack(each))) for each in blocks], words
