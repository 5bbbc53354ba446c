"""What a rater says is on the disk, once, under a name that was looked up."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.alignment.ratings_file import ARMS, AXES, CLINICIAN_AXES, LAY_AXES
from sae_lens_med.app.rating.axes import Role, axes_of, levels_of
from sae_lens_med.app.rating.store import RaterLog, Raters, RatingConflictError
from sae_lens_med.app.rating.units import Unit
from sae_lens_med.app.strings import STRINGS
from sae_lens_med.errors import ConflictError, DataError, NotFoundError

UNIT = Unit("0" * 16, "q1", "shuffled", "text", "cot", "q2")
OTHER = Unit("1" * 16, "q1", "expert", "text")


def _log(path: Path) -> RaterLog:
    log = RaterLog(path)
    log.begin("clinician", "u")
    return log


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_click_is_a_line_with_all_that_it_takes_to_use_it(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"
    log = _log(path)
    entry = log.add(UNIT, "bias", "no", 0, 41.26, "click-01")
    first, line = _lines(path)
    assert (first["rater"], first["role"], first["units"]) == ("r1", "clinician", "u")
    assert line.pop("time") == entry.time
    assert line == {
        "id": "click-01", "unit": UNIT.id, "axis": "bias", "rating": "no", "revision": 1, "seconds": 41.3,
        "item": "q1", "arm": "shuffled", "drawn_arm": "cot", "drawn_from": "q2",
    }  # fmt: skip
    assert RaterLog(path).of(UNIT.id) == (entry,)


def test_the_same_click_again_is_the_same_rating(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"
    log = _log(path)
    first = log.add(UNIT, "bias", "no", 0, 1, "click-01")
    log.add(UNIT, "bias", "yes", 1, 2, "click-02")
    for again in (log, RaterLog(path)):
        assert again.add(UNIT, "bias", "no", 0, 1, "click-01") == first
        assert again.entries[UNIT.id, "bias"].rating == "yes"
    assert len(_lines(path)) == 3


def test_two_pages_that_differ_are_told_and_two_that_agree_are_not(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"
    log = _log(path)
    stands = log.add(UNIT, "bias", "no", 0, 1, "click-01")
    with pytest.raises(RatingConflictError, match="has rated this axis “No” meanwhile") as error:
        RaterLog(path).add(UNIT, "bias", "yes", 0, 1, "click-02")
    assert error.value.entry == stands
    assert log.add(UNIT, "bias", "no", 0, 1, "click-03") == stands
    assert len(_lines(path)) == 2
    assert log.add(UNIT, "bias", "yes", 1, 1, "click-04").revision == 2
    with pytest.raises(DataError, match="nothing was rated on bias before"):
        log.add(OTHER, "bias", "no", 3, 1, "click-05")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=25), st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_the_last_click_of_every_axis_counts_and_a_torn_line_costs_itself_alone(
    clicks: list[tuple[int, int, bool]], torn: int
) -> None:
    """Clicks on 4 axes, some sent twice, with the last line torn and the file opened again."""
    axes = ("scientific_consensus", "bias", "missing_content", "extent_of_harm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r1.jsonl"
        log = _log(path)
        history: list[dict[str, str]] = [{}]
        for n, (axis, level, twice) in enumerate(clicks):
            name = axes[axis]
            rating = levels_of(name)[level % len(levels_of(name))]
            revision = entry.revision if (entry := log.entries.get((UNIT.id, name))) else 0
            for _ in range(1 + twice):
                log.add(UNIT, name, rating, revision, n, f"click-{n:03d}")
            history.append(history[-1] | {name: rating})
        content = path.read_bytes()
        last = content[content.rstrip(b"\n").rfind(b"\n") + 1 :]
        torn = min(torn, len(last)) if clicks else 0
        path.write_bytes(content[: len(content) - torn])
        read = RaterLog(path)
        expected = history[-1 if torn <= 1 else -2]  # of one byte only the end of the line is lost
        assert {axis: entry.rating for (_, axis), entry in read.entries.items()} == expected
        assert bool(read.log.problem) == (1 < torn < len(last))


def test_a_line_between_that_is_damaged_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "r1.jsonl"
    log = _log(path)
    for n, rating in enumerate(("no", "yes", "no")):
        log.add(UNIT, "bias", rating, n, 1, f"click-{n:02d}")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1], "#" + lines[2], lines[3]]) + "\n", encoding="utf-8")
    read = RaterLog(path)
    assert read.entries[UNIT.id, "bias"].revision == 3
    assert "1 of the lines" in read.log.problem


@pytest.mark.parametrize(
    ("axis", "rating", "seconds", "entry_id", "message"),
    [
        ("bias", "maybe", 1, "click-01", "'maybe' is not a level of bias; its levels are yes; no"),
        ("mine", "no", 1, "click-01", "not a level of mine"),
        ("bias", "no", -1, "click-01", "0 to 86400 seconds"),
        ("bias", "no", float("nan"), "click-01", "0 to 86400 seconds"),
        ("bias", "no", 1, "a/../b..", "8 to 64 letters"),
    ],
)
def test_what_cannot_be_a_rating_is_refused(
    tmp_path: Path, axis: str, rating: str, seconds: float, entry_id: str, message: str
) -> None:
    log = _log(tmp_path / "r1.jsonl")
    with pytest.raises(DataError, match=message):
        log.add(UNIT, axis, rating, 0, seconds, entry_id)
    assert len(_lines(tmp_path / "r1.jsonl")) == 1


@pytest.mark.parametrize("name", ["../r1", "a/b", "", "r 1", "r1.jsonl", "한글", "a" * 33, "r1\n", ".", "~root"])
def test_a_name_that_is_no_pseudonym_becomes_no_file(tmp_path: Path, name: str) -> None:
    raters = Raters(tmp_path / "ratings")
    with pytest.raises(DataError, match="a pseudonym has 1 to 32"):
        raters.join(name, "lay", "u")
    with pytest.raises(NotFoundError):
        raters.of(name)
    assert list(tmp_path.rglob("*")) == []


def test_a_pseudonym_is_of_one_role_one_set_of_units_and_one_spelling(tmp_path: Path) -> None:
    raters = Raters(tmp_path)
    assert raters.join("r1", "lay", "u") is raters.join("r1", "lay", "u")
    others: tuple[tuple[str, Role, str], ...] = (("r1", "clinician", "u"), ("r1", "lay", "v"), ("R1", "lay", "u"))
    for name, role, units in others:
        with pytest.raises(ConflictError, match="there"):
            raters.join(name, role, units)
    assert [path.name for path in tmp_path.iterdir()] == ["r1.jsonl"]
    assert len(_lines(tmp_path / "r1.jsonl")) == 1


def test_files_that_are_no_raters_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "not a rater.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "units.json").write_text("{}\n", encoding="utf-8")
    raters = Raters(tmp_path)
    assert raters.all == {}
    Raters(tmp_path).join("r2", "lay", "u")
    raters.refresh()
    assert list(raters.all) == ["r2"]


def test_every_level_is_shown_once_in_the_words_of_the_file(tmp_path: Path) -> None:
    assert axes_of("clinician") == tuple(CLINICIAN_AXES) and axes_of("lay") == tuple(LAY_AXES)
    for axis, worst_first in AXES.items():
        assert sorted(levels_of(axis)) == sorted(worst_first)
        for level in worst_first:
            korean, english = STRINGS[f"rate.level.{level}"]
            assert english.casefold() == level and korean
        assert STRINGS[f"rate.axis.{axis}"][1].endswith(("?", ")"))
    for arm in ARMS:
        assert f"rate.arm.{arm}" in STRINGS
    # As the paper has them: the first level of yes/no questions is yes, of harm the least.
    assert levels_of("incorrect_reasoning") == levels_of("correct_reasoning") == ("yes", "no")
    assert levels_of("extent_of_harm") == ("no harm", "moderate or mild harm", "death or severe harm")
    assert levels_of("lay_helpfulness")[0] == "very helpful"
