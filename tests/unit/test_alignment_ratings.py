"""Metric #15: the form at the door, agreement as that of the table of ratings, arms by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lens_med.alignment.agreement import cohen_kappa, krippendorff_alpha
from sae_lens_med.alignment.ratings import arm_contrast, axes_of, axis_agreement, rating_metrics
from sae_lens_med.alignment.ratings_file import ARMS, AXES, CLINICIAN_AXES, LAY_AXES, Rating, read_ratings
from sae_lens_med.errors import DataError

GOOD: dict[str, Any] = {
    "item": "q1",
    "rater": "r1",
    "arm": "expert",
    "axis": "missing_content",
    "rating": "Yes, little clinical significance",
}


def _file(folder: Path, rows: list[dict[str, Any]], name: str = "ratings.json") -> Path:
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        fields = list(rows[0])
        lines = [",".join(fields), *(",".join(f'"{row[f]}"' for f in fields) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["ratings.json", "ratings.csv"])
def test_levels_by_text_and_by_number_are_one(tmp_path: Path, name: str) -> None:
    rows = [
        GOOD,
        GOOD | {"rater": "r2", "rating": 2},
        GOOD | {"axis": "bias", "rating": "No", "arm": " COT "},
        GOOD | {"axis": "bias", "rating": 1},
        GOOD | {"axis": "usefulness", "rating": 7.5},
    ]
    ratings = read_ratings(_file(tmp_path, rows, name))
    assert [r.value for r in ratings] == [0.5, 0.5, 1.0, 0.0, 7.5]
    assert ratings[2].arm == "cot"
    assert axes_of(ratings) == ("missing_content", "bias", "usefulness")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "experts"}, "there is no arm 'experts'; did you mean expert"),
        ({"axis": "missing_contents"}, "is nearly 'missing_content'"),
        ({"rating": "maybe"}, "not a level of missing_content; its levels are 1 yes, great"),
        ({"rating": 4}, "not a level of missing_content"),
        ({"rating": 0}, "not a level"),
        ({"rating": True}, "not a level"),
        ({"axis": "mine", "rating": "good"}, "an axis of your own, must be a number"),
        ({"axis": "mine", "rating": "nan"}, "must be a number"),
        ({"rater": " "}, "the field 'rater' is empty"),
        ({"item": None}, "the field 'item' is empty"),
        ({"name": "Dr."}, "there is no field 'name'"),
        ({}, "rates expert of item 'q1' on missing_content twice, first in entry 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_ratings(_file(tmp_path, [GOOD, GOOD | change]))
    assert "entry 2" in str(error.value)


def test_a_file_from_before_the_lay_axes_means_what_it_meant(tmp_path: Path) -> None:
    """Names that raters may have given to axes of their own, with numbers that are no levels."""
    names = ("helpfulness", "intent", "my_helpfulness", "answer_intent")
    rows = [GOOD, *(GOOD | {"axis": name, "rating": 7.5} for name in names)]
    assert [r.value for r in read_ratings(_file(tmp_path, rows))][1:] == [7.5] * len(names)
    with pytest.raises(DataError, match="is nearly 'lay_helpfulness'"):
        read_ratings(_file(tmp_path, [GOOD | {"axis": "lay_helpfullness", "rating": 2}]))


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content, message in (
        ("{}", "a JSON list"),
        ("[1]", "entry 1 is not an object"),
        ("[", "not a JSON"),
        ("[]", "no ratings"),
    ):
        path = tmp_path / "x.json"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_ratings(path)
    with pytest.raises(DataError, match="no such file"):
        read_ratings(tmp_path / "none.csv")


def _ratings(n: int, effect: float, seed: int = 0, raters: int = 3) -> list[Rating]:
    """Numbers on one axis: an item's quality, a rater's severity, and `effect` more for the expert."""
    rng = np.random.default_rng(seed)
    severity, quality = rng.normal(size=raters), rng.normal(size=n)
    return [
        Rating(f"q{i}", f"r{r}", arm, "score", quality[i] + severity[r] + effect * (arm == "expert") + rng.normal())
        for i in range(n)
        for r in range(raters)
        for arm in ("expert", "shuffled")
    ]


def test_agreement_is_that_of_the_table() -> None:
    rng = np.random.default_rng(0)
    ratings = [
        Rating(f"q{i}", f"r{r}", "expert", "missing_content", float(rng.integers(3)) / 2)
        for i in range(30)
        for r in range(3)
        if rng.random() < 0.8
    ]
    found = axis_agreement(ratings, "missing_content", 199, rng)
    table = np.full((3, 30), np.nan)
    for rating in ratings:
        table[int(rating.rater[1:]), int(rating.item[1:])] = rating.value
    assert found.alpha == pytest.approx(krippendorff_alpha(table, "ordinal"))
    assert found.n_units == int((np.isfinite(table).sum(axis=0) >= 2).sum())
    assert [kappa.raters for kappa in found.kappas] == [("r0", "r1"), ("r0", "r2"), ("r1", "r2")]
    both = np.isfinite(table[0]) & np.isfinite(table[1])
    assert found.kappas[0].n == int(both.sum())
    assert found.kappas[0].value == pytest.approx(cohen_kappa(table[0, both], table[1, both], "quadratic"))
    assert found.p is not None
    assert found.p > 0.01


def test_raters_who_agree_are_found_to() -> None:
    found = axis_agreement(_ratings(40, 0.0), "score", 199, np.random.default_rng(0))
    assert found.alpha is not None
    assert found.alpha > 0.1
    assert found.p == 1 / 200
    assert all(kappa.p is not None and kappa.p < 0.05 for kappa in found.kappas)


def test_arms_are_compared_within_item_and_rater() -> None:
    ratings = [
        Rating("q1", "r1", "expert", "score", 5.0),
        Rating("q1", "r1", "shuffled", "score", 2.0),
        Rating("q1", "r2", "expert", "score", 1.0),
        Rating("q1", "r2", "shuffled", "score", 2.0),
        Rating("q2", "r1", "expert", "score", 4.0),
        Rating("q2", "r2", "shuffled", "score", 9.0),  # another rater: not compared
        Rating("q3", "r1", "expert", "score", 4.0),
        Rating("q3", "r1", "shuffled", "score", 3.5),
    ]
    contrast = arm_contrast(ratings, "score", "expert", 99, np.random.default_rng(0))
    assert contrast.differences.tolist() == [1.0, 0.5]
    assert arm_contrast(ratings, "score", "cot", 99, np.random.default_rng(0)).p == 1
    assert arm_contrast(_ratings(40, 1.0), "score", "expert", 199, np.random.default_rng(0)).p == 1 / 200
    assert arm_contrast(_ratings(40, 0.0), "score", "expert", 199, np.random.default_rng(0)).p > 0.05


def test_records_have_null_and_small_n() -> None:
    metrics, notes = rating_metrics(_ratings(20, 1.0), draws=99)
    assert [m.name for m in metrics] == [
        "alignment/ratings_alpha",
        *["alignment/ratings_kappa"] * 3,
        "alignment/ratings_contrast",
    ]
    assert metrics[-1].group == "axis=score arm=expert"
    assert metrics[-1].p == 0.01
    assert metrics[-1].interval is not None
    assert metrics[-1].interval[0] > 0
    assert all(m.null_mean is not None and m.null_interval is not None for m in metrics)
    assert "n = 20 is small" in metrics[-1].notes
    assert notes == ()
    _, notes = rating_metrics([r for r in _ratings(5, 1.0) if r.arm == "expert"], draws=9)
    assert "No shuffled rationales were rated" in notes[0]
    _, notes = rating_metrics([Rating("q1", "r1", "expert", "bias", 1.0)], draws=9)
    assert "alpha is not measured" in notes[1]


def test_the_axes_are_the_twelve_and_two_and_worst_comes_first() -> None:
    assert (len(CLINICIAN_AXES), len(LAY_AXES), len(AXES)) == (12, 2, 14)
    assert AXES["lay_helpfulness"] == ("not helpful", "somewhat helpful", "very helpful")
    assert AXES["lay_intent"] == ("does not address query", "address query")
    assert AXES["bias"][-1] == AXES["missing_content"][-1] == AXES["incorrect_reasoning"][-1] == "no"
    assert AXES["correct_reasoning"][-1] == "yes"
    assert ARMS[-1] == "shuffled"
