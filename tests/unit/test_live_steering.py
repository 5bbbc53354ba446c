"""Edits of features: what is asked for, what stands beside it, and what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lens_med.app.live.band import random_sets
from sae_lens_med.app.live.steering import (
    ENOUGH,
    LEAST,
    FeatureEdit,
    SteerJob,
    checked,
    log_odds,
    read_edits,
    steer_job,
)
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.errors import ConfigError, DataError, NotFoundError, SaeLensMedError
from sae_lens_med.features.stand_ins import CALIPER, drives
from tests.app.reading_study import ECG, LEAD, V4R, number_of, write_reading_study
from tests.synthetic_study import D_SAE

FOLDER = {"folder": "x", "model": None, "sae": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> OpenStudy:
    return OpenStudy.open(write_reading_study(tmp_path_factory.mktemp("steering") / "study"))


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_an_address_says_what_is_done_to_which_feature() -> None:
    edits = read_edits("12, 9:amplify:2.5,7:clamp:0,3:suppress")
    assert edits == (
        FeatureEdit(12, "off", 1.0),
        FeatureEdit(9, "amplify", 2.5),
        FeatureEdit(7, "clamp", 0.0),
        FeatureEdit(3, "suppress", 1.0),
    )
    assert read_edits(",".join(edit.text for edit in edits)) == edits
    assert read_edits("") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "no edit of a feature"),
        ("1:explode", "off, amplify, suppress, clamp"),
        ("1:amplify:11", "between 0 and 10"),
        ("1:amplify:-1", "no edit of a feature"),
        ("1:amplify:1e9", "no edit of a feature"),
        ("1,1:clamp", "named twice"),
        (",".join(map(str, range(9))), "1 to 8 features"),
        ("1:<script>", "no edit of a feature"),
        ("9999999999", "no edit of a feature"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_edits(text)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -0.1, 10.01])
def test_a_strength_is_bounded(strength: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 10"):
        FeatureEdit(1, "clamp", strength)
    with pytest.raises(ConfigError, match="1 to 8 features"):
        checked([])


def test_strengths_are_multiples_of_each_features_own_maximum(study: OpenStudy) -> None:
    edits = [
        FeatureEdit(ECG),
        FeatureEdit(V4R, "amplify", 2),
        FeatureEdit(21, "suppress", 3),
        FeatureEdit(22, "clamp", 4),
    ]
    job = steer_job(study, 0, edits, FOLDER, n_sets=5)
    assert study.index is not None
    most = study.index.maximum.astype(float)
    rows = job.request()["edits"]
    assert rows[0] == {
        "put": [[ECG, 0.0], [22, pytest.approx(4 * most[22])]],
        "add": [[V4R, pytest.approx(2 * most[V4R])], [21, pytest.approx(-3 * most[21])]],
    }
    assert len(rows) == 1 + len(job.sets.sets)
    for row, chosen in zip(rows[1:], job.sets.sets.tolist(), strict=True):
        assert row["put"][1] == [chosen[3], pytest.approx(4 * most[chosen[3]])]
        assert row["add"][1] == [chosen[2], pytest.approx(-3 * most[chosen[2]])]


@pytest.mark.parametrize(
    ("number", "edits", "more", "error", "said"),
    [
        (999, [FeatureEdit(1)], {}, NotFoundError, "no case 999"),
        (-1, [FeatureEdit(1)], {}, NotFoundError, "no case -1"),
        (0, [FeatureEdit(D_SAE)], {}, NotFoundError, f"no feature {D_SAE}"),
        (0, [FeatureEdit(10, "amplify")], {}, ConfigError, "never fires"),
        (0, [FeatureEdit(1)], {"new_tokens": 257}, ConfigError, "0 to 256 tokens"),
        (0, [FeatureEdit(1), FeatureEdit(1, "clamp")], {}, ConfigError, "named twice"),
    ],
)
def test_what_a_study_has_not_got_is_refused(
    study: OpenStudy,
    number: int,
    edits: list[FeatureEdit],
    more: dict[str, Any],
    error: type[SaeLensMedError],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        steer_job(study, number, edits, FOLDER, n_sets=5, **more)


# --- random features --------------------------------------------------------------------------------------------------


def _drive(study: OpenStudy, number: int) -> np.ndarray:
    assert study.part is not None
    return np.asarray(drives(study.part.item(number).acts).todense()).ravel()


def test_random_features_for_one_that_is_off_fire_as_strongly_in_the_question(study: OpenStudy) -> None:
    drive, index = _drive(study, 0), study.index
    assert index is not None
    own = int(np.argsort(-drive)[len(drive[drive > 0]) // 2])  # of middling strength, where there are many
    found = random_sets([own], [True], drive, index, 20, np.random.default_rng(0))
    drawn = found.sets[:, 0]
    assert len(drawn) > 3 and len(set(drawn.tolist())) == len(drawn) and own not in drawn
    assert (np.abs(np.log(drive[drawn] / drive[own])) <= np.log(CALIPER) + 1e-9).all()
    assert index.kept[drawn].all()
    assert found.problem == ("" if len(drawn) == 20 else "steer.band.few")
    apart = np.abs(np.log(np.maximum(drive, 1e-9) / drive[own]))
    alike = np.flatnonzero((drive > 0) & index.kept & (apart <= np.log(CALIPER)))
    assert len(drawn) > len(alike) / 2  # but for those that are in far more or far fewer cases
    again = random_sets([own], [True], drive, index, 20, np.random.default_rng(0))
    assert (again.sets == found.sets).all()


def test_random_features_for_one_that_is_raised_need_not_fire_in_the_question(study: OpenStudy) -> None:
    drive, index = _drive(study, 0), study.index
    assert index is not None
    own = int(np.flatnonzero((drive == 0) & (index.count > 0) & index.kept)[0])
    found = random_sets([own], [False], drive, index, 10, np.random.default_rng(0))
    drawn = found.sets[:, 0]
    assert len(drawn) == 10 == len(set(drawn.tolist())) and own not in drawn and found.problem == ""
    # Nearer in how often and how strongly they fire than the median of all that fire.
    place = np.stack([np.log(np.maximum(index.count, 1)), np.log(np.maximum(index.mean, 1e-9))], axis=1)
    apart = np.linalg.norm(place - place[own], axis=1)
    fires = np.flatnonzero((index.count > 0) & index.kept & (np.arange(len(drive)) != own))
    assert apart[drawn].max() <= np.sort(apart[fires])[19] + 1e-9


def test_sets_of_both_kinds_hold_no_feature_twice_and_are_not_the_edited_one(study: OpenStudy) -> None:
    drive, index = _drive(study, 0), study.index
    assert index is not None
    firing = np.argsort(-drive)[5:8].tolist()
    given = [*firing, ECG]
    found = random_sets(given, [True, True, True, False], drive, index, 12, np.random.default_rng(1))
    assert len(found.sets) > 2
    assert len({tuple(row) for row in found.sets.tolist()}) == len(found.sets)
    for row in found.sets.tolist():
        assert len(set(row)) == 4 and set(row) != set(given) and ECG not in row
        assert all(drive[feature] > 0 for feature in row[:3])


def test_where_nothing_is_alike_there_is_no_band_and_it_is_said(study: OpenStudy) -> None:
    drive, index = _drive(study, 0).copy(), study.index
    assert index is not None
    silent = int(np.flatnonzero(drive == 0)[0])
    assert random_sets([silent], [True], drive, index, 5, np.random.default_rng(0)).problem == "steer.band.silent"
    drive[ECG] = 1e6
    alone = random_sets([ECG], [True], drive, index, 5, np.random.default_rng(0))
    assert alone.problem == "steer.band.alone" and alone.sets.shape == (0, 1)
    many = random_sets([ECG], [False], drive, index, 10_000, np.random.default_rng(0))
    assert many.problem == "steer.band.alone"


def _few_alike(study: OpenStudy, n: int) -> tuple[np.ndarray, int, int]:
    """Drives in which one feature fires far more strongly than all but `n` others; that feature, and one of middling
    strength."""
    drive, index = _drive(study, 0).copy(), study.index
    assert index is not None
    firing = np.flatnonzero((drive > 0) & index.kept)
    firing = firing[np.argsort(-drive[firing])]
    strong = firing[: n + 1]
    drive[strong] = 1e6 * np.linspace(1.0, 1.2, n + 1)
    middling = firing[n + 1 :]
    drive[middling] = np.linspace(1.0, 1.4, len(middling))
    return drive, int(strong[0]), int(middling[len(middling) // 2])


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("off", [True, False])
def test_a_band_is_left_as_seldom_as_is_said_though_few_others_are_as_strong_as_one_of_two(
    study: OpenStudy, n: int, off: bool
) -> None:
    """Effects that are drawn alike, a strong feature's a hundred times as large: the edited set lies outside of 20 in
    two of 21 cases. Were the strong one never drawn, it would be in all of them for n = 1, in half for n = 3."""
    drive, strong, weak = _few_alike(study, n)
    index = study.index
    assert index is not None
    rng = np.random.default_rng(3)
    outside, tries = 0, 300
    for _ in range(tries):
        effect = rng.standard_normal(len(drive)) * np.where(drive > 1e5, 100.0, 1.0)
        found = random_sets([weak, strong], [off, True], drive, index, 20, rng)
        assert len(found.sets) == 20 and found.problem == ""
        others = effect[found.sets].sum(axis=1)
        assert (np.abs(np.log(drive[found.sets[:, 1]] / drive[strong])) <= np.log(CALIPER) + 1e-9).all()
        outside += not others.min() <= effect[[weak, strong]].sum() <= others.max()
    expected = 2 / 21
    assert outside / tries < expected + 3 * np.sqrt(expected * (1 - expected) / tries)
    alone = random_sets([strong], [True], drive, index, 20, rng)
    assert len(alone.sets) <= n and strong not in alone.sets and alone.problem == "steer.band.few"


def test_two_strong_features_are_never_stood_for_by_a_weak_one(study: OpenStudy) -> None:
    """Where one other is as strong, a set has it for one of them and keeps the other."""
    drive, first, _ = _few_alike(study, 2)
    index = study.index
    assert index is not None
    second = int(np.flatnonzero((drive > 1e5) & (np.arange(len(drive)) != first))[0])
    found = random_sets([first, second], [True, True], drive, index, 20, np.random.default_rng(0))
    (third,) = set(np.flatnonzero(drive > 1e5).tolist()) - {first, second}
    assert len(found.sets) >= 1 and found.problem == "steer.band.few"
    for row in found.sets.tolist():
        assert third in row and set(row) <= {first, second, third}


# --- what is said -----------------------------------------------------------------------------------------------------


def _run(job: SteerJob, after: list[float], random: list[list[float]]) -> None:
    job.take("baseline", {"logits": [1.0, 3.0, 0.0, 0.0]})
    job.take("edited", {"logits": after, "size": 2.0})
    for first in range(0, len(random), 3):
        job.take("band", {"logits": random[first : first + 3]})


@pytest.fixture
def job(study: OpenStudy) -> SteerJob:
    found = steer_job(study, 0, [FeatureEdit(ECG, "amplify", 1)], FOLDER, n_sets=20)
    assert len(found.sets.sets) == 20
    return found


def _random(moves: list[float]) -> list[list[float]]:
    return [[1.0, 3.0 + move, 0.0, 0.0] for move in moves]


def test_probabilities_and_log_odds_are_those_of_the_softmax(job: SteerJob) -> None:
    _run(job, [2.0, 2.5, 0.0, -1.0], _random([0.1]))
    view = job.view()
    e = np.exp([1.0, 3.0, 0.0, 0.0])
    p = e / e.sum()
    assert [o.before for o in view.options] == pytest.approx(p.tolist())
    q = np.exp([2.0, 2.5, 0.0, -1.0]) / np.exp([2.0, 2.5, 0.0, -1.0]).sum()
    assert [o.after for o in view.options] == pytest.approx(q.tolist())
    assert (view.watched, view.answer) == ("B", "B")
    assert view.change == pytest.approx(np.log(q[1] / (1 - q[1])) - np.log(p[1] / (1 - p[1])))
    assert log_odds(np.array([500.0, 0.0]), 0) == pytest.approx(500)  # where the probability is 1


def test_outside_is_beyond_all_random_sets_and_p_says_how_seldom_that_is(job: SteerJob) -> None:
    moves = np.linspace(-1, 0.9, 20).tolist()
    _run(job, [1.0, 1.5, 0.0, 0.0], _random(moves))
    view = job.view()
    assert view.outside is True and view.n_sets == view.of_sets == 20
    assert view.p == pytest.approx(2 / 21) and view.low == pytest.approx(-1) and view.high == pytest.approx(0.9)
    assert view.options[1].low is not None and view.options[1].low < view.options[1].before < view.options[1].high  # type: ignore[operator]


def test_inside_says_nothing_and_a_tie_is_inside(job: SteerJob) -> None:
    _run(job, [1.0, 2.5, 0.0, 0.0], _random(np.linspace(-1, 0.9, 20).tolist()))
    assert job.view().outside is False
    # Six of the random changes are as low: twice (1 + 6) of 21.
    assert job.view().p == pytest.approx(2 * 7 / 21)
    tie = steer_job_like(job)
    _run(tie, [1.0, 2.0, 0.0, 0.0], _random([-1.0] * 20))
    assert tie.view().outside is False and tie.view().p == 1.0


@pytest.mark.parametrize(
    ("change", "moves", "outside", "less"),
    [
        (-1.5, np.linspace(-1, 0.9, 20), True, False),  # further than all, in its direction
        (1.5, np.linspace(-1, 0.9, 20), True, False),
        (-0.1, np.linspace(-2, -0.5, 20), True, True),  # all others move the answer further, the same way
        (0.0, np.linspace(0.5, 2, 20), True, True),
        (0.1, np.linspace(-2, -0.5, 20), True, False),  # the other way, where none goes
        (-3.0, np.linspace(-2, -0.5, 20), True, False),
        (0.1, np.linspace(-1, 0.9, 20), False, False),
        (-0.7, np.linspace(-2, -0.5, 20), False, False),
    ],
)
def test_an_effect_that_is_less_than_all_random_ones_is_not_told_as_more(
    job: SteerJob, change: float, moves: Any, outside: bool, less: bool
) -> None:
    _run(job, [1.0, 3.0 + change, 0.0, 0.0], _random(moves.tolist()))
    view = job.view()
    assert (view.outside, view.less) == (outside, less)


@pytest.mark.parametrize("n", [1, 2, LEAST - 1, LEAST, ENOUGH - 1])
def test_of_fewer_than_the_least_number_of_sets_nothing_is_said(study: OpenStudy, n: int) -> None:
    job = steer_job(study, 0, [FeatureEdit(ECG, "amplify", 1)], FOLDER, n_sets=n)
    assert len(job.sets.sets) == n
    _run(job, [1.0, 1.5, 0.0, 0.0], _random([0.1 * k for k in range(n)]))
    view = job.view()
    assert view.n_sets == view.of_sets == n and view.change is not None and view.low == 0
    if n < LEAST:
        assert view.outside is None and view.less is None and view.p is None
    else:
        assert view.outside is True and view.p == pytest.approx(2 / (n + 1))


def steer_job_like(job: SteerJob) -> SteerJob:
    return SteerJob(job.case, job.edits, 0, job.sets, job.folder, job.maxima)


def test_nothing_is_said_before_all_random_sets_have_run(job: SteerJob) -> None:
    assert job.view().options == () and job.view().outside is None
    _run(job, [1.0, 1.5, 0.0, 0.0], _random([0.0] * 19))
    assert job.view().outside is None and job.view().n_sets == 19
    assert job.take("band", {"logits": _random([0.0])}) == {"k": 20, "n": 20}
    assert job.view().outside is True


def test_without_random_sets_nothing_is_called_outside(study: OpenStudy) -> None:
    job = steer_job(study, 0, [FeatureEdit(0)], FOLDER, n_sets=20)
    assert job.sets.problem == "steer.band.silent" and len(job.request()["edits"]) == 1
    _run(job, [1.0, 3.0, 0.0, 0.0], [])
    view = job.view()
    assert view.outside is None and view.p is None and view.band_problem == "steer.band.silent"


def test_a_case_with_26_options_has_a_probability_for_each(study: OpenStudy) -> None:
    job = steer_job(study, number_of("letters"), [FeatureEdit(ECG, "amplify", 1)], FOLDER, n_sets=4)
    job.take("baseline", {"logits": np.linspace(0, 1, 26).tolist()})
    assert [o.letter for o in job.view().options][-1] == "Z" and job.view().watched == "Z"


def test_a_study_without_an_index_says_so(study: OpenStudy, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(study.folder, bare)
    shutil.rmtree(bare / "app")
    with pytest.raises(NotFoundError, match="no collected features with an index"):
        steer_job(OpenStudy.open(bare), 0, [FeatureEdit(ECG)], FOLDER, n_sets=5)


def test_an_open_question_has_no_answer_to_compare(study: OpenStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    first = next(iter(study.items))
    monkeypatch.setitem(study.items, first, replace(study.items[first], options=(), answer=None))
    with pytest.raises(DataError, match="no options"):
        steer_job(study, 0, [FeatureEdit(LEAD)], FOLDER, n_sets=5)
