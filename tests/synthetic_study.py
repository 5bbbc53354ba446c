"""Finished studies without a model: items, collected features and results made by hand, in memory or as a folder.

Every word of a text is a token. Feature 0 fires on every token; feature 1 + c on the word of concept c in questions
(when `concepts` are planted); the others fire at rates of their own, spread over a factor of ten. Where alignment is
planted, question and explanation of an item share `planted` features that fire on one word of each.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sae_lens_med.features.store import CollectedFeatures, join_shards, open_collection, write_apart
from sae_lens_med.records import PARTS, FeatureActs, ItemResult, McqItem, MetricValue, Provenance, Span
from sae_lens_med.runs.files import json_sha256, write_json, write_text

D_SAE, D_IN = 80, 8
CONCEPTS = ("fever", "cough", "anemia", "jaundice")
SAE = {"source": "made by hand", "sae_id": "x", "sha256": "a" * 64, "hook_name": "blocks.0.hook_resid_post"}


def synthetic(
    n: int = 60,
    *,
    planted: int = 3,
    concepts: bool = True,
    length_confound: bool = False,
    source: Any = "expert",
    subjects: int = 2,
    seed: int = 0,
) -> tuple[tuple[McqItem, ...], CollectedFeatures, tuple[ItemResult, ...]]:
    """`n` items, their features, and answers of which a quarter is right.

    `length_confound`: the texts of an item are both long or both short, and the features that two texts share are more
    in long ones; nothing else relates them.
    """
    rng = np.random.default_rng(seed)
    rates = np.geomspace(0.02, 0.2, D_SAE - 10)
    items, results, texts = [], [], {}
    rows: list[np.ndarray] = []
    item_of, part_of, text_of, starts, ends = [], [], [], [], []
    raw = {part: np.zeros((n, D_IN), np.float32) for part in ("stem", "explanation")}
    for i in range(n):
        named = rng.random(len(CONCEPTS)) < 0.4
        shared = rng.choice(np.arange(10, D_SAE), max(planted, 1), replace=False)[:planted]
        topic = rng.normal(size=D_IN)
        length = int(rng.integers(6, 60)) if length_confound else 14
        written = {}
        for kind, part in (("question", "stem"), ("explanation", "explanation")):
            words = [f"w{rng.integers(10**6):06d}x" for _ in range(length)]
            if part == "stem":
                words[: named.sum()] = [c for c, is_named in zip(CONCEPTS, named, strict=True) if is_named]
            elif rng.random() < 0.5:
                words[0] = CONCEPTS[int(rng.integers(len(CONCEPTS)))]
            position = 0
            for t, word in enumerate(words):
                row = np.zeros(D_SAE)
                row[10:] = (rng.random(D_SAE - 10) < rates) * rng.gamma(2.0, size=D_SAE - 10)
                row[0] = 1.0
                if concepts and part == "stem" and word in CONCEPTS:
                    row[1 + CONCEPTS.index(word)] = 2.0 + rng.random()
                if t == length - 1:
                    row[shared] = 5.0
                rows.append(row)
                item_of.append(i)
                part_of.append(PARTS.index(part))
                text_of.append(int(part == "explanation"))
                starts.append(position)
                ends.append(position + len(word))
                position += len(word) + 1
            written[kind] = " ".join(words)
            raw[part][i] = rng.normal(size=D_IN) + (2 * topic if planted else 0)
        answer = int(rng.integers(4))
        item = McqItem(
            id=f"q{i}",
            subject=f"subject{i % subjects}",
            language="en",
            question=written["question"],
            options=("one", "two", "three", "four"),
            answer=answer,
            explanation=written["explanation"],
            explanation_source=source,
            question_spans=(Span(0, len(written["question"]) // 2, "premise"),),
        )
        items.append(item)
        texts[item.id] = written
        predicted = answer if i % 4 == 0 else (answer + 1) % 4
        letters = "ABCD"
        logprobs = tuple(-0.5 if k == predicted else -2.5 for k in range(4))
        results.append(
            ItemResult(item.id, item.subject, letters[answer], letters[predicted], logprobs, predicted == answer)
        )
    n_tokens = len(rows)
    acts = FeatureActs(
        item_ids=tuple(item.id for item in items),
        acts=sparse.csr_array(np.array(rows, dtype=np.float32)),
        token_item=np.array(item_of, dtype=np.int32),
        token_part=np.array(part_of, dtype=np.uint8),
        token_id=np.zeros(n_tokens, dtype=np.int32),
        char_start=np.array(starts, dtype=np.int32),
        char_end=np.array(ends, dtype=np.int32),
        norm=np.ones(n_tokens, dtype=np.float32),
        error_norm=np.zeros(n_tokens, dtype=np.float32),
        excluded=np.zeros(n_tokens, dtype=bool),
    )
    features = CollectedFeatures(
        acts=acts,
        token_text=np.array(text_of, dtype=np.uint8),
        texts=texts,
        raw_mean_stem=raw["stem"],
        raw_mean_explanation=raw["explanation"],
        has_explanation=np.ones(n, dtype=bool),
        manifest={},
    )
    return tuple(items), features, tuple(results)


def write_study(
    folder: Path,
    items: tuple[McqItem, ...],
    features: CollectedFeatures,
    results: tuple[ItemResult, ...],
    shard_items: int | None = None,
) -> Path:
    """The folder of a finished study: what `align` and `compare` read of it. `shard_items`: of a shard; None: all."""
    folder.mkdir(parents=True, exist_ok=True)
    provenance = Provenance(
        created="2026-01-01T00:00:00+00:00",
        versions={"sae-lens-med": "0"},
        model={"name": "made-by-hand", "source": "local", "dtype": "float32", "sha256": "b" * 64},
        sae=dict(SAE),
        data={"source": "synthetic <data>", "sha256": json_sha256([i.to_dict() for i in items]), "n_items": len(items)},
        settings={"method": "option_letter", "shots": [], "permutations": 10, "left_out": None},
        seed=0,
    )
    write_json(folder / "manifest.json", {"format": 1, "provenance": provenance.to_dict(), "stages": {}, "notes": []})
    for name, records in (("questions.jsonl", items), ("items.jsonl", results)):
        write_text(folder / name, "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in records))
    right = sum(r.correct is True for r in results) / len(results)
    accuracy = MetricValue(
        "accuracy",
        right,
        (0.0, 1.0),
        len(results),
        interval=(right - 0.1, right + 0.1),
        null_mean=0.25,
        variant="model",
    )
    write_json(folder / "metrics.json", [accuracy.to_dict()])
    d_sae = int(features.acts.acts.shape[1])  # type: ignore[index]  # SciPy leaves the shape of an array open
    settings = {"model": provenance.model, "sae": {**SAE, "d_sae": d_sae}}
    shard_items = len(items) if shard_items is None else shard_items
    collection = open_collection(folder / "features", settings, len(items), shard_items)
    collection.begin()
    acts = features.acts
    for index, first in enumerate(range(0, len(items), shard_items)):
        own = slice(first, first + shard_items)
        rows = np.flatnonzero((acts.token_item >= own.start) & (acts.token_item < own.stop))
        csr = acts.acts[rows]
        arrays = {
            "data": csr.data,
            "indices": csr.indices,
            "indptr": csr.indptr,
            "token_text": features.token_text[rows],
            "raw_mean_stem": features.raw_mean_stem[own],
            "raw_mean_explanation": features.raw_mean_explanation[own],
            "has_explanation": features.has_explanation[own],
        } | {
            name: getattr(acts, name)[rows]
            for name in (
                *("token_item", "token_part", "token_id", "char_start", "char_end", "norm", "error_norm", "excluded"),
            )
        }
        texts = [{"id": name, "explanation": None, **features.texts[name]} for name in acts.item_ids[own]]
        counts = {"n_tokens": len(rows), "n_active": len(csr.data)}
        write_apart(collection.path, index, arrays, texts, counts)
        join_shards(collection)
    return folder


def without_explanations(items: tuple[McqItem, ...]) -> tuple[McqItem, ...]:
    """The same questions, unexplained."""
    return tuple(replace(item, explanation=None, explanation_source=None) for item in items)
