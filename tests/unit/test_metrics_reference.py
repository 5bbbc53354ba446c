"""`docs/metrics.md` is what the list of metrics says now."""

from pathlib import Path

from sae_lens_med.alignment import METRICS
from sae_lens_med.metrics.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_fresh() -> None:
    text = reference(METRICS)
    assert PAGE.read_text(encoding="utf-8") == text, "run: sae-lens-med list-metrics --markdown > docs/metrics.md"
    for metric in METRICS:
        assert f"## {metric.number}. {metric.title}" in text
