"""Items as the rows of a file that every command reads with `--data`."""

from collections.abc import Sequence
from typing import Any

from sae_lens_med.records import McqItem


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
