"""Studies for the pages of LLMXAI, without a model: real layouts, masks and tokens, features made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy import sparse

from sae_lens_med.app.index import build_index
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.features.part import CollectedPart
from sae_lens_med.features.store import CollectedFeatures
from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
from sae_lens_med.records import PARTS, FeatureActs, ItemResult, McqItem, Prompt
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.written import hashes
from sae_lens_med.study.measured import KIND
from tests.synthetic_study import D_IN, write_study
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer(bos=True)
D_SAE = 48
DENSE, HANGUL, EVERYWHERE, NEVER = 0, 1, 2, 47
"""Features that fire on all tokens, on a third of the Hangul tokens alone, on one token of every text, and on none."""
_KOREAN = (
    "환자는",
    "발열과",
    "기침으로",
    "병원에",
    "왔다.",
    "혈압이",
    "낮고",
    "심전도에서",
    "폐렴이",
    "의심된다.",
    "당뇨병이",
    "있다.",
)
_ENGLISH = ("The", "patient", "has", "fever", "and", "chest", "pain.", "A", "likely", "diagnosis", "is", "sepsis")
_OPTIONS = ("아스피린", "수액", "항생제", "heparin", "insulin", "산소", "수술", "경과 관찰")


def collected(item: McqItem, shots: list[McqItem], excluded: tuple[int, ...] = ()) -> CollectedPart:
    """The tokens of an item, without features: as `collect` cuts and labels them."""
    prompts: list[tuple[Prompt, int]] = []
    question = question_prompt(item, TOKENIZER, shots=shots)
    begins = min(span.start for span in question.part_spans)
    first = next(i for i, (_, end) in enumerate(question.char_spans) if end > begins) if shots else 0
    prompts.append((question, first))
    texts = {"question": question.text}
    if item.explanation is not None and not mask_leakage(item).nothing_left:
        explanation, _ = explanation_prompt(item, TOKENIZER)
        prompts.append((explanation, 0))
        texts["explanation"] = explanation.text
    spans = np.array([span for prompt, start in prompts for span in prompt.char_spans[start:]], dtype=np.int32)
    n = len(spans)
    chosen = np.zeros(n, dtype=bool)
    chosen[list(excluded)] = True
    lengths = [len(prompt.token_ids) - start for prompt, start in prompts]
    acts = FeatureActs(
        item_ids=(item.id,),
        acts=sparse.csr_array((n, 3), dtype=np.float32),
        token_item=np.zeros(n, np.int32),
        token_part=np.array([part for prompt, start in prompts for part in prompt.token_parts[start:]], np.uint8),
        token_id=np.array([i for prompt, start in prompts for i in prompt.token_ids[start:]], np.int32),
        char_start=spans[:, 0],
        char_end=spans[:, 1],
        norm=np.ones(n, np.float32),
        error_norm=np.zeros(n, np.float32),
        excluded=chosen,
    )
    token_text = np.repeat(np.arange(len(prompts), dtype=np.uint8), lengths)
    return CollectedPart(acts, token_text, {item.id: texts}, np.ones(1, dtype=bool), 0)


def make_items(n: int, seed: int = 0) -> tuple[McqItem, ...]:
    """Korean and English questions of two subjects; every fifth has no explanation, every seventh no gold answer."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        language = "en" if i % 3 == 2 else "ko"
        words = _ENGLISH if language == "en" else _KOREAN
        options = tuple(rng.choice(_OPTIONS, 4, replace=False).tolist())
        stem = " ".join(rng.choice(words, 9))
        rare = f"zebra{chr(97 + i // 26)}{chr(97 + i % 26)}"
        told = " ".join([*rng.choice(words, 6), rare, options[1], *rng.choice(words, 5)])
        items.append(
            McqItem(
                id=f"case {i}",
                subject=f"subject{i % 2}",
                language=language,
                question=f"{stem} {i}?",
                options=(*options, f"{rare} 투여"),
                answer=None if i % 7 == 6 else int(rng.integers(5)),
                explanation=None if i % 5 == 4 else told,
                explanation_source=None if i % 5 == 4 else "expert",
            )
        )
    return tuple(items)


def make_study(
    folder: Path, n: int = 24, *, seed: int = 0, shard_items: int = 7
) -> tuple[tuple[McqItem, ...], CollectedFeatures]:
    """Write the folder of a study whose features fire at random, but for `DENSE` and its like; BOS is excluded."""
    rng = np.random.default_rng(seed)
    items = make_items(n, seed)
    parts = [collected(item, []) for item in items]
    n_tokens = [len(part.acts.excluded) for part in parts]
    joined = {
        name: np.concatenate([getattr(part.acts, name) for part in parts])
        for name in ("token_part", "token_id", "char_start", "char_end", "norm", "error_norm")
    }
    token_text = np.concatenate([part.token_text for part in parts])
    token_item = np.repeat(np.arange(n, dtype=np.int32), n_tokens)
    rates = np.geomspace(0.01, 0.3, D_SAE)
    dense = (rng.random((sum(n_tokens), D_SAE)) < rates) * rng.gamma(2.0, size=(sum(n_tokens), D_SAE))
    dense[:, DENSE] = rng.random(len(dense)) + 0.1
    dense[:, HANGUL] = joined["token_id"] % 7 + 1.0
    dense[:, EVERYWHERE] = 0
    dense[:, NEVER] = 0
    starts = np.flatnonzero(np.diff(token_item * 2 + token_text.astype(np.int32), prepend=-1))
    for i, text in enumerate(token_text):
        written = parts[token_item[i]].texts[items[token_item[i]].id][("question", "explanation")[text]]
        piece = written[joined["char_start"][i] : joined["char_end"][i]]
        if i % 3 or not any("가" <= character <= "힣" for character in piece):
            dense[i, HANGUL] = 0
    # Behind BOS, so that it is on a token that counts.
    dense[starts + 1, EVERYWHERE] = 3.0
    excluded = np.zeros(len(dense), dtype=bool)
    excluded[starts] = True
    acts = FeatureActs(
        item_ids=tuple(item.id for item in items),
        acts=sparse.csr_array(dense.astype(np.float32)),
        token_item=token_item,
        excluded=excluded,
        **joined,
    )
    explained = (acts.token_part == PARTS.index("explanation")) & ~excluded
    features = CollectedFeatures(
        acts=acts,
        token_text=token_text,
        texts={item.id: part.texts[item.id] for item, part in zip(items, parts, strict=True)},
        raw_mean_stem=rng.normal(size=(n, D_IN)).astype(np.float32),
        raw_mean_explanation=rng.normal(size=(n, D_IN)).astype(np.float32),
        has_explanation=np.bincount(token_item[explained], minlength=n) > 0,
        manifest={},
    )
    write_study(folder, items, features, tuple(map(_answer, items, range(n))), shard_items)
    manifest = read_json(folder / "manifest.json")
    manifest["provenance"]["sae"]["settings"] = {"d_sae": D_SAE}
    write_json(folder / "manifest.json", manifest)
    return items, features


def _answer(item: McqItem, number: int) -> ItemResult:
    """A right answer, a wrong one, or none, in turn."""
    gold = item.gold_letter
    if number % 6 == 5:
        correct = None if gold is None else False
        return ItemResult(item.id, item.subject, gold, None, None, correct, "truncated")
    predicted = "ABCDE"[(0 if item.answer is None else item.answer) if number % 2 else number % 5]
    logprobs = tuple(-0.5 - number / 50 if letter == predicted else -2.5 for letter in "ABCDE")
    return ItemResult(item.id, item.subject, gold, predicted, logprobs, None if gold is None else predicted == gold)


VERDICTS = """feature,chosen_by,verdict,effect,band_low,band_high,comparators
10,mentioned,shared_reasoning,2.5,0.1,0.9,99
12,mentioned,present_unused,0.25,,,
20,effect,untested,,,,
40,effect,hidden_driver,3.5,0.2,1.0,99
"""
CONCEPTS = [
    {
        "concept": "pneumonia",
        "forms": ["폐렴", "pneumonia"],
        "questions": 8,
        "features": [{"feature": 11, "auroc": 0.9}, {"feature": 13, "auroc": 0.7}],
    },
    {"concept": "fever", "forms": ["발열"], "questions": 6, "features": [{"feature": 11, "auroc": 0.6}]},
]


def make_whole_study(folder: Path, n: int) -> None:
    """`make_study` with what `align` and `index` leave: verdicts, concepts, a label, similarities of four cases."""
    make_study(folder, n)
    files = {"verdicts.csv": VERDICTS, "concepts.json": CONCEPTS, "labels.json": {"10": "폐렴 소견"}}
    files |= {"causal_items.json": [_removed(f"case {number}", k) for k, number in enumerate((3, 1, 8, 5))]}
    _write_alignment(folder / "alignment", files)
    arrays = {
        "matched": np.array([0.5, 0.2, 0.9, 0.1], np.float32),
        "mismatched_mean": np.array([0.4, 0.3, 0.1, 0.1], np.float32),
        "null": np.zeros(3, np.float32),
        "items": np.array([0, 2, 3, 7], np.int32),
    }
    save_file(arrays, folder / "alignment.safetensors")
    build_index(folder, progress=False)


def _removed(item_id: str, k: int) -> dict[str, Any]:
    """A row of `causal_items.json`: 0.5 - k / 8 above what random features do."""
    return {"id": item_id, "comprehensiveness": 0.75 - k / 8, "random_mean": 0.25, "z": None, "p": 0.5,
            "features": 3, "fresh": 0.0}  # fmt: skip


def _write_alignment(folder: Path, files: dict[str, Any]) -> None:
    """Files, each of a metric that is called as it begins; but for what is said case by case."""
    run = RunFolder(folder, KIND, {"metrics": {}})
    run.begin()
    write_json(run.path / "metrics.json", [])
    write_json(run.path / "notes.json", {})
    for name, content in files.items():
        if isinstance(content, str):
            (run.path / name).write_text(content, encoding="utf-8")
        else:
            write_json(run.path / name, content)
        metric = "comprehensiveness" if name == "causal_items.json" else name.split(".")[0]
        run.finish(metric, 1.0, settings={}, files=hashes(run.path, [name]))
