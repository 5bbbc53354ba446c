"""What `scaling_run` measures of trained SAEs: the labels of concepts that they cover, and what other seeds find again.

Each SAE stands beside its own shuffled directions, at the rates of its features. Results are kept in the run's folder
as they come: `coverage/NAME.json`, `seeds/NAME.json`.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.knowledge_map.coverage import (
    ConceptFeatures,
    Coverage,
    LabelCoverage,
    coverage,
    label_coverage,
)
from sae_lens_med.knowledge_map.lists import LANGUAGES, Lists
from sae_lens_med.knowledge_map.matching import MatchRow, halves_of_texts, match
from sae_lens_med.knowledge_map.reading import SlotText, slot_texts
from sae_lens_med.knowledge_map.words import Words, word_spans
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.parsing import read_json

if TYPE_CHECKING:
    from sae_lens_med.knowledge_map.word_reading import TokenTable
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae
    from sae_lens_med.training.plan import Variant


class ScalingMeasure:
    """What is measured of trained SAEs; the model reads concepts and held-out text once, when they are asked for."""

    def __init__(
        self,
        model: "MedBridge",
        variant: "Variant",
        folder: Path,
        lists: Lists,
        permutations: int,
        words: int,
        seed: int,
        run: RunFolder,
    ) -> None:
        self.model, self.variant, self.folder, self.lists = model, variant, folder, lists
        self.permutations, self.words, self.seed, self.run = permutations, words, seed, run
        self._concepts: list[_Read] | None = None
        self._table: tuple[TokenTable, Words] | None = None

    def coverage(self, name: str) -> tuple[Coverage | None, float | None]:
        """Of the SAE, and the share that its shuffled directions cover."""
        path = self.run.path / "coverage" / f"{name}.json"
        if f"coverage-{name}" not in self.run.parts:
            began = time.monotonic()
            write_json(path, self._covered(name))
            self.run.finish(f"coverage-{name}", time.monotonic() - began)
        kept = read_json(path)
        return (Coverage.from_dict(kept["coverage"]), kept["shuffled"]) if kept["coverage"] else (None, None)

    def seeds(self, name: str, others: Sequence[str]) -> list[MatchRow]:
        """Of the SAE with each other seed, and with its shuffled directions.

        The others are those nearest to the common L0, which moves when an SAE that failed is trained after all: what
        was matched with other ones is matched again."""
        path, part = self.run.path / "seeds" / f"{name}.json", f"seeds-{name}"
        if self.run.parts.get(part, {}).get("others") != list(others):
            began = time.monotonic()
            write_json(path, [row.to_dict() for row in self._matched(name, others)])
            self.run.finish(part, time.monotonic() - began, others=list(others))
        return [MatchRow.from_dict(row) for row in read_json(path)]

    def _covered(self, name: str) -> dict[str, Any]:
        from sae_lens_med.controls.untrained import match_rates, shuffled_sae

        loaded = self._load(name)
        if self._concepts is None:
            self._concepts = _read_lists(self.model, loaded, self.lists)
        if not self._concepts:
            return {"coverage": None, "shuffled": None, "labels": []}
        x = np.concatenate([each.x for each in self._concepts])
        rates = (_encode(loaded, x) > 0).mean(axis=0)
        control = match_rates(shuffled_sae(loaded, self.seed), x, rates)
        rows, own = self._labels(loaded)
        of_nothing, blocks = self._labels(control)
        return {
            "coverage": coverage(rows, own).to_dict(),
            "shuffled": coverage(of_nothing, blocks).share,
            "labels": [row.to_dict() for row in rows],
        }

    def _labels(self, loaded: "LoadedSae") -> tuple[list[LabelCoverage], list[ConceptFeatures]]:
        assert self._concepts is not None  # who calls has read them
        blocks = [each.features(loaded) for each in self._concepts]
        rng = np.random.default_rng([self.seed, 3])
        return label_coverage(blocks, self.permutations, rng), blocks

    def _matched(self, name: str, others: Sequence[str]) -> list[MatchRow]:
        from sae_lens_med.knowledge_map.word_reading import read_tokens, sae_acts, sae_words, shuffled_words

        loaded = self._load(name)
        if self._table is None:
            words = Words.of(_heldout_texts(self.model, self.variant, self.words))
            self._table = read_tokens(self.model, loaded, words), words
        table, words = self._table
        choosing = halves_of_texts(len(words.texts), np.random.default_rng([self.seed, 0]))
        acts = sae_acts(table, loaded)
        first = sae_words(table, loaded, acts, name)
        compared = []
        for other in others:
            seed = self._load(other)
            compared.append((sae_words(table, seed, sae_acts(table, seed), other), "seed", other))
        last = f"{name}, shuffled"
        compared.append((shuffled_words(table, loaded, acts, last, self.seed), "shuffled", name))
        rows = []
        for second, what, of in compared:
            made = match(
                first,
                second,
                words.text_of,
                choosing,
                what=what,
                of=of,
                permutations=self.permutations,
                rng=np.random.default_rng([self.seed, 2]),
            )
            if made is not None:  # shuffled directions may be silent on these words
                rows.append(made.row)
        return rows

    def _load(self, name: str) -> "LoadedSae":
        from sae_lens_med.saes.releases import load_folder

        return load_folder(self.folder / name, device=str(self.model.cfg.device or "cpu"))


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """The activations of one domain in one language at the SAEs' hook, one row for each concept and template."""

    domain: str
    language: str
    x: Any
    """float32 `[n_texts, d_in]`."""
    concept: Any
    """`[n_texts]`"""
    labels: dict[str, tuple[str, ...]]

    def features(self, loaded: "LoadedSae") -> ConceptFeatures:
        acts = _encode(loaded, self.x)
        n = int(self.concept.max()) + 1
        means = np.zeros((n, acts.shape[1]))
        np.add.at(means, self.concept, acts)
        return ConceptFeatures(self.domain, self.language, means / np.bincount(self.concept)[:, None], self.labels)


def _read_lists(model: "MedBridge", loaded: "LoadedSae", lists: Lists) -> list[_Read]:
    """Every domain of categories in every language that it has."""
    from sae_lens_med.features.reading import read_at_hook
    from sae_lens_med.models.bridge import default_batch_tokens
    from sae_lens_med.models.residuals import ResidualReader

    found = []
    for domain, language in itertools.product(lists.domains, LANGUAGES):
        concepts, templates = lists.of(domain, language), lists.templates_of(domain, language, "medical")
        if lists.is_ordered(domain) or not concepts or not templates:
            continue
        texts = slot_texts(concepts, templates, language, model.text_tokenizer)
        reader = ResidualReader(model, [loaded.hook_name])
        asked = [_SlotToRead(text) for text in texts]
        read = list(read_at_hook(reader, loaded, asked, default_batch_tokens(model)))
        x = np.stack([rows[text.slot.at[0]].float().cpu().numpy() for text, rows in read])
        of = np.array([text.slot.concept for text, _ in read])
        labels = {name: tuple(each.labels[name] for each in concepts) for name in lists.label_sets(domain)}
        found.append(_Read(domain, language, x, of, labels))
    return found


@dataclass(frozen=True, slots=True)
class _SlotToRead:
    slot: SlotText
    first: int = 0
    label: str = "a concept in its template"

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.slot.token_ids


def _encode(loaded: "LoadedSae", x: Any) -> Any:
    import torch

    from sae_lens_med.features.reading import encoded

    with torch.no_grad():
        blocks = [acts for _, acts in encoded(loaded, torch.from_numpy(x).to(loaded.sae.device), "the concepts")]
    return torch.cat(blocks).float().cpu().numpy()


def _heldout_texts(model: "MedBridge", variant: "Variant", most_words: int) -> list[str]:
    """Of the recipe, up to the number of words."""
    from sae_lens_med.training.activations import corpus

    text = corpus(variant.recipe, model.text_tokenizer, variant.recipe.text_seed)
    found: list[str] = []
    words = 0
    for ids in text.heldout:
        written = str(model.text_tokenizer.decode(list(ids), skip_special_tokens=True))
        if words < most_words and (own := len(word_spans(written))):
            found.append(written)
            words += own
    return found
