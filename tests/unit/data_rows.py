"""Rows of the two schemas, and files of them, for the tests of items."""

import gzip
import json
from pathlib import Path
from typing import Any

from sae_lens_med.data import load_items
from sae_lens_med.records import McqItem

KOR = {"id": "k1", "subject": "doctor", "question": "질문?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마"}
KOR |= {"answer": 3}
GEN: dict[str, Any] = {"id": "g1", "subject": "nurse", "question": "Which?", "options": ["x", "y", "z"], "answer": 1}


def write(path: Path, *rows: Any) -> str:
    data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return str(path)


def one(path: Path, row: dict[str, Any], **kwargs: Any) -> McqItem:
    return load_items(write(path / "a.jsonl", row), **kwargs).items[0]
