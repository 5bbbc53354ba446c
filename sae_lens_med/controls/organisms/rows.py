"""The exam as files that every command reads: items with `--data`, concepts with `--concepts`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.controls.organisms.cases import concepts, exam
from sae_lens_med.controls.organisms.tables import DISEASES
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import write_jsonl

CONCEPTS_FILE = "concepts.jsonl"


def write_exam(folder: Path, language: str, n: int, seed: int, diseases: int = len(DISEASES)) -> int:
    """Write `natural.jsonl` and `conflict.jsonl`, `n` items each, and `CONCEPTS_FILE`; return how many concepts."""
    for kind in ("natural", "conflict"):
        write_jsonl(folder / f"{kind}.jsonl", rows_of(exam(language, kind, n, seed, diseases)))
    listed = [
        {"concept": each.id, "category": each.category, language: list(each.forms)}
        for each in concepts(language, diseases)
    ]
    write_jsonl(folder / CONCEPTS_FILE, listed)
    return len(listed)


def rows_of(items: Sequence[McqItem]) -> list[dict[str, Any]]:
    """One row per item; reading them back (`data.load_items`) gives the same items."""
    rows = []
    for item in items:
        values = item.to_dict()
        rows.append(
            {
                "id": item.id,
                "subject": item.subject,
                "lang": item.language,
                "question": item.question,
                "options": list(item.options),
                "answer": item.gold_letter,
                "explanation": item.explanation,
                "explanation_source": item.explanation_source,
                "question_spans": values["question_spans"],
                **item.provenance,
            }
        )
    return rows
