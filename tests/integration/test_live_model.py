"""What if, on the packaged twins: two models that answer one exam alike, one by the findings and one by a place.

Their real process, opened as the server opens it.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lens_med import load_model, load_sae
from sae_lens_med.app.index import build_index
from sae_lens_med.app.live.edited import EditedView, edited_job
from sae_lens_med.app.live.process import python_module
from sae_lens_med.app.live.routes import MODEL_PROCESS
from sae_lens_med.app.live.runs import Job, Live, Run
from sae_lens_med.app.live.steering import FeatureEdit, SteerView, steer_job
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.controls.organisms.rows import write_exam
from sae_lens_med.data import load_items
from sae_lens_med.features.stand_ins import drives
from sae_lens_med.study.run import run_study
from sae_lens_med.study.twins import EXAM_SEED, TWINS

N_ITEMS, CASE = 40, 2
"""Of the exam. Fewer do not tell which features are the place's; on eight of them the answer to the third question
rests."""


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OpenStudy]:
    folder = tmp_path_factory.mktemp("twins")
    write_exam(folder / "exam", "ko", N_ITEMS, EXAM_SEED)
    data = load_items(str(folder / "exam" / "natural.jsonl"))
    opened = {}
    for name, organism in TWINS.items():
        run_study(load_model(organism), load_sae(organism), data, folder / name, permutations=99, progress=False)
        build_index(folder / name, progress=False)
        opened[name] = OpenStudy.open(folder / name)
    return opened


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    opened = Live(python_module(MODEL_PROCESS))
    yield opened
    opened.close()


def place_of(study: OpenStudy) -> dict[str, Any]:
    return {"folder": str(study.folder), "model": None, "sae": None}


def ran(live: Live, job: Job) -> Run:
    run = live.submit(1, job, lasting=True)
    began = time.monotonic()
    while not run.over:
        assert time.monotonic() - began < 240
        time.sleep(0.02)
    assert run.state == "done", f"{run.problem} {run.detail}"
    return run


def features_of_the_place(study: OpenStudy, most: int = 8) -> list[FeatureEdit]:
    """Those that fire at its words, the strongest in the question first."""
    assert study.part is not None and study.d_sae is not None
    drive = np.asarray(drives(study.part.item(CASE).acts).todense()).ravel()
    own = [int(f) for f in np.argsort(-drive) if drive[f] > 0 and study.feature(int(f)).drives == "place"]
    return [FeatureEdit(feature) for feature in own[:most]]


def steered(live: Live, study: OpenStudy, edits: list[FeatureEdit], new_tokens: int = 0) -> SteerView:
    run = ran(live, steer_job(study, CASE, edits, place_of(study), n_sets=20, new_tokens=new_tokens))
    view = run.job.view()
    assert isinstance(view, SteerView)
    return view


def test_without_the_place_the_shortcut_answers_otherwise_and_the_other_twin_does_not(
    live: Live, twins: dict[str, OpenStudy]
) -> None:
    found = {name: steered(live, study, features_of_the_place(study), 4) for name, study in twins.items()}
    shortcut, concepts = found["shortcut"], found["concepts"]
    gold = list(twins["shortcut"].items.values())[CASE].gold_letter
    assert shortcut.watched == concepts.watched == gold  # both are right, unedited
    assert shortcut.answer != gold and concepts.answer == gold
    assert shortcut.outside is True and concepts.outside is False
    assert shortcut.n_sets == concepts.n_sets == 20 and shortcut.p == pytest.approx(2 / 21)
    assert shortcut.before_text.strip().startswith(gold or "-")
    assert shortcut.after_text.strip().startswith(shortcut.answer or "-")


def test_what_is_answered_unedited_is_what_the_study_found(live: Live, twins: dict[str, OpenStudy]) -> None:
    study = twins["concepts"]
    view = steered(live, study, [FeatureEdit(features_of_the_place(study)[0].feature, "amplify", 0.0)])
    stored = study.case(CASE).options
    assert [o.before for o in view.options] == pytest.approx([o.probability for o in stored], abs=1e-5)
    assert [o.after for o in view.options] == [o.before for o in view.options]  # nothing was added
    assert view.outside is False and view.change == 0 and view.size == 0


def test_a_finding_that_is_edited_moves_the_twin_that_answers_by_findings(
    live: Live, twins: dict[str, OpenStudy]
) -> None:
    found = {}
    for name, study in twins.items():
        question = list(study.items.values())[CASE].question
        edited = question.replace("소변량 증가", "소변량 감소")
        assert edited != question
        view = ran(live, edited_job(study, CASE, edited, (None,) * 4, place_of(study))).job.view()
        assert isinstance(view, EditedView)
        found[name] = view
    assert found["concepts"].answer_after != found["concepts"].answer_before
    assert found["shortcut"].answer_after == found["shortcut"].answer_before
    for name, view in found.items():
        assert view.totals[0] > 0 and view.totals[1] > 0
        # Read again from the original, the features are those that the study collected.
        part, study = twins[name].part, twins[name]
        assert part is not None
        acts = part.item(CASE).acts
        counted = ~acts.excluded & (acts.token_part == 0)
        maxima = acts.acts[np.flatnonzero(counted)].max(axis=0).toarray().ravel()
        for change in view.changes:
            assert change.before == pytest.approx(maxima[change.name.index], rel=1e-3, abs=1e-3), study.name


def test_another_model_is_refused_in_a_sentence(live: Live, twins: dict[str, OpenStudy]) -> None:
    study = twins["concepts"]
    other = place_of(study) | {"model": TWINS["shortcut"]}
    run = live.submit(1, steer_job(study, CASE, [FeatureEdit(1)], other, n_sets=2), lasting=True)
    began = time.monotonic()
    while not run.over:
        assert time.monotonic() - began < 240
        time.sleep(0.02)
    assert (run.state, run.problem) == ("failed", "steer.problem.model")
    assert "name the study's model with --model" in run.detail
    assert Path(place_of(study)["folder"]).is_dir() and live.pid is not None  # the process lives
