"""What is rated, and what comes of it: units, the rater's desk, the export, agreement, and the doors of the server."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from sae_lens_med.alignment.ratings import rating_metrics
from sae_lens_med.alignment.ratings_file import ARMS, AXES, read_ratings
from sae_lens_med.alignment.reasoning_texts import ReasonedItem
from sae_lens_med.app.create import create_app
from sae_lens_med.app.guard import WRITE_TOKEN
from sae_lens_med.app.index import build_index
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.rating.agreement import DRAWS, measure_agreement
from sae_lens_med.app.rating.axes import Role, axes_of, levels_of
from sae_lens_med.app.rating.desk import Desk, rater_order
from sae_lens_med.app.rating.export import ratings_text, write_ratings
from sae_lens_med.app.rating.units import draw_units, read_units
from sae_lens_med.app.settings import Settings
from sae_lens_med.cli import app as commands
from sae_lens_med.errors import ConfigError, ConflictError, DataError, NotFoundError, StudyError
from sae_lens_med.runs.partial import PartialResults
from tests.app.reading_study import ECG, OPTIONS
from tests.synthetic_study import synthetic, write_study

REASONED = 20
CASES = 12


def _reasoned(folder: Path, *, model: dict[str, Any] | None = None, other_items: bool = False) -> None:
    """As the metric `reasoning` keeps what the model wrote, of the first cases."""
    study = OpenStudy.open(folder)
    items = list(study.items.values())[:REASONED]
    run = [replace(item, question=item.question + " ") for item in items] if other_items else items
    identity = {
        "model": model or study.provenance.model,
        "items": [item.to_dict() for item in run],
        "shots": [],
        "seed": 0,
    }
    kept = PartialResults(folder / "alignment" / "reasoning.0123456789ab.jsonl", identity)
    for n, item in enumerate(items):
        text = f"환자 {n}: {item.options[0]} 보다 다른 처치가 낫다.\n\n\n정답은 B 로 본다."
        kept.append([ReasonedItem(item.id, 4, text, "B", (), (), "B", (), "B")])


@pytest.fixture
def folder(study_folder: Path, tmp_path: Path) -> Path:
    """A copy with reasoning of the model, that nobody has rated."""
    copy = copytree(study_folder, tmp_path / "rated", ignore=lambda _, names: [n for n in names if n == "ratings"])
    _reasoned(copy)
    return copy


@pytest.fixture
def desk(folder: Path) -> Desk:
    found = Desk(OpenStudy.open(folder))
    found.draw(CASES, "a seed")
    return found


def _rate_all(desk: Desk, rater: str, n: int, choose: Any) -> None:
    """The first `n` units, with `choose(unit, axis)` on every axis."""
    log = desk.raters.of(rater)
    assert desk.units is not None and log.role is not None
    for unit in rater_order(desk.units, rater)[:n]:
        for axis in axes_of(log.role):
            desk.rate(rater, unit.id, axis, choose(unit, axis), 0, 30.0, f"{unit.id}-{axis}")


# --- units ----------------------------------------------------------------------------------------------------------


def test_every_case_of_the_draw_has_every_arm_and_the_null_is_never_its_own(desk: Desk) -> None:
    units, items = desk.units, desk.study.items
    assert units is not None
    assert Counter(unit.arm for unit in units.units) == dict.fromkeys(ARMS, CASES) and not units.left_out
    texts = {(unit.item, unit.arm): unit.text for unit in units.units}
    for unit in units.units:
        if unit.arm != "shuffled":
            assert unit.drawn_arm is unit.drawn_from is None
            continue
        assert unit.drawn_from not in (None, unit.item) and unit.drawn_arm in ("expert", "cot", "feature_label")
        assert unit.text not in [texts[unit.item, arm] for arm in ("expert", "cot", "feature_label")]
        assert items[unit.drawn_from].subject == items[unit.item].subject
    assert set(Counter(u.drawn_arm for u in units.units if u.arm == "shuffled").values()) == {CASES // 3}


def test_what_the_study_masks_is_masked_in_every_arm(desk: Desk) -> None:
    assert desk.units is not None
    cot = [unit.text for unit in desk.units.units if unit.arm == "cot"]
    assert all("…" in text and "정답은 B" not in text and "\n\n\n" not in text for text in cot)
    for unit in desk.units.units:
        assert not [option for option in OPTIONS if len(option) > 2 and option in unit.text], unit.arm


def test_the_seed_draws_the_same_texts_and_the_ids_say_nothing(desk: Desk, folder: Path, tmp_path: Path) -> None:
    again = draw_units(OpenStudy.open(folder), tmp_path / "again", cases=CASES, seed="a seed")
    other = draw_units(OpenStudy.open(folder), tmp_path / "other", cases=CASES, seed="another")
    assert desk.units is not None
    plain = [[(u.item, u.arm, u.text, u.drawn_from) for u in each.units] for each in (desk.units, again, other)]
    assert plain[0] == plain[1] != plain[2]
    assert not {unit.id for unit in desk.units.units} & {unit.id for unit in again.units}
    assert read_units(tmp_path / "again", desk.study) == again


def test_a_label_that_is_changed_later_does_not_change_what_is_rated(folder: Path, tmp_path: Path) -> None:
    study = OpenStudy.open(folder)
    study.label(ECG, "심장 검사 소견", "kim", 0, "0123456789abcdef")
    before = draw_units(study, tmp_path / "before", cases=30, seed="s")
    labelled = [unit for unit in before.units if unit.arm == "feature_label" and "심장 검사 소견" in unit.text]
    assert labelled
    study.label(ECG, "다른 이름", "kim", 1, "1123456789abcdef")
    assert read_units(tmp_path / "before", study) == before
    after = draw_units(study, tmp_path / "after", cases=30, seed="s")
    now = [u.text for u in after.units if u.arm == "feature_label" and u.item == labelled[0].item]
    assert now and now != [labelled[0].text]


@pytest.mark.parametrize("how", [{"model": {"name": "another"}}, {"other_items": True}])
def test_reasoning_of_another_model_or_of_other_questions_is_not_this_models(
    study_folder: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    copy = copytree(study_folder, tmp_path / "rated", ignore=lambda _, names: [n for n in names if n == "ratings"])
    _reasoned(copy, **how)
    units = draw_units(OpenStudy.open(copy), tmp_path / "units", cases=CASES)
    assert units.left_out == {"cot": {"none": CASES}}
    assert {u.drawn_arm for u in units.units} == {None, "expert", "feature_label"}


def test_damaged_reasoning_is_said(folder: Path, tmp_path: Path) -> None:
    path = next((folder / "alignment").glob("reasoning.*.jsonl"))
    path.write_bytes(b"{}\n" + path.read_bytes())
    units = draw_units(OpenStudy.open(folder), tmp_path / "units", cases=CASES)
    assert units.left_out == {"cot": {"none": CASES}}
    assert "is not read" in units.notes[0] and str(path) in units.notes[0]


def test_what_the_model_wrote_with_its_answer_is_its_reasoning(folder: Path, tmp_path: Path) -> None:
    """Of a study whose method reasons; the answer's line is left out."""
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    for values in lines:
        values["text"] = "혈압이 낮으므로 먼저 수액을 고려한다.\n정답: B"
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    units = draw_units(OpenStudy.open(folder), tmp_path / "units", cases=CASES)
    assert {unit.text for unit in units.units if unit.arm == "cot"} == {"혈압이 낮으므로 먼저 수액을 고려한다."}


def _synthetic(folder: Path, source: str, change: Any = lambda items: items) -> OpenStudy:
    items, features, results = synthetic(12, source=source)
    return OpenStudy.open(write_study(folder, tuple(change(items)), features, results))


def test_an_explanation_that_no_expert_wrote_is_left_out_and_counted(tmp_path: Path) -> None:
    def half(items: Any) -> Any:
        return [replace(x, explanation_source="model") if n % 2 else x for n, x in enumerate(items)]

    units = draw_units(_synthetic(tmp_path / "study", "expert", half), tmp_path / "units", cases=CASES)
    assert Counter(unit.arm for unit in units.units) == {"expert": 6, "shuffled": 6}
    assert units.left_out == {"cot": {"none": 6}, "feature_label": {"none": 6}}
    with pytest.raises(DataError, match="0 cases of this study have a rationale that can be rated"):
        draw_units(_synthetic(tmp_path / "model", "model"), tmp_path / "none")


def test_a_case_without_an_experts_explanation_is_rated_in_its_other_arms(folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    for values in lines:
        if values["explanation"] is not None:
            values["explanation_source"] = "illustrative"
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    next((folder / "alignment").glob("reasoning.*.jsonl")).unlink()
    build_index(folder, progress=False)  # of the questions as they are now
    _reasoned(folder)
    units = draw_units(OpenStudy.open(folder), tmp_path / "units", cases=CASES)
    assert units.left_out == {"expert": {"not_expert": CASES}}
    assert Counter(u.arm for u in units.units) == {"cot": CASES, "feature_label": CASES, "shuffled": CASES}


def test_a_near_duplicate_is_neither_rated_beside_its_twin_nor_its_null(tmp_path: Path) -> None:
    """All but two questions are one case told again: only three are drawn, and each null is of another case."""

    def twins(items: Any) -> Any:
        return [replace(x, question=items[0].question + f" {n}") if n < 10 else x for n, x in enumerate(items)]

    study = _synthetic(tmp_path / "study", "expert", twins)
    units = draw_units(study, tmp_path / "units", cases=CASES)
    near = {f"q{n}" for n in range(10)}
    assert len(units.items) == 3 and len(set(units.items) & near) == 1
    for unit in units.units:
        assert unit.arm != "shuffled" or not {unit.item, unit.drawn_from} <= near


def test_units_are_never_drawn_again_over_those_that_are_there(desk: Desk, folder: Path) -> None:
    path = folder / "app" / "ratings" / "units.json"
    before = path.read_bytes()
    with pytest.raises(StudyError, match="is there already"):
        desk.draw(CASES)
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="at least two cases"):
        draw_units(desk.study, folder / "other", cases=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "its format is 2"),
        ({"units": [{"id": "x"}]}, "is missing the field"),
        ({"extra": 1}, "has no field 'extra'"),
    ],
)
def test_damaged_units_are_refused_in_a_sentence(
    desk: Desk, folder: Path, change: dict[str, Any], message: str
) -> None:
    path = folder / "app" / "ratings" / "units.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_units(path.parent, desk.study)


# --- the desk -------------------------------------------------------------------------------------------------------


def test_a_rater_sees_a_question_and_a_text_and_nothing_of_where_it_comes_from(desk: Desk) -> None:
    desk.join("r1", "clinician")
    assert desk.units is not None
    by_id = {unit.id: unit for unit in desk.units.units}
    for place, unit in enumerate(rater_order(desk.units, "r1")):
        shown = desk.desk("r1", unit.id).unit
        assert shown is not None and shown.number == place + 1
        values = shown.to_dict()
        assert set(values) == {"unit", "number", "language", "stem", "options", "text", "axes", "ratings", "before"}
        said = json.dumps(values, ensure_ascii=False)
        assert by_id[shown.unit].text in shown.text
        assert by_id[shown.unit].item not in said and not [arm for arm in ARMS if arm in said]
        assert [option.right for option in shown.options].count(True) <= 1


def test_a_rater_goes_on_where_he_or_she_stopped(desk: Desk, folder: Path) -> None:
    desk.join("p1", "lay")
    _rate_all(desk, "p1", 3, lambda _, axis: levels_of(axis)[0])
    for again in (desk, Desk(OpenStudy.open(folder))):
        found = again.desk("p1")
        assert (found.progress.done, found.progress.of, found.progress.ratings) == (3, 4 * CASES, 6)
        assert found.progress.seconds == 30
        assert found.unit is not None and found.unit.number == 4 and not found.unit.ratings
        assert again.desk("p1", found.unit.before).unit.ratings[0].rating == "address query"  # type: ignore[union-attr]
    _rate_all(desk, "p1", 4 * CASES, lambda _, axis: levels_of(axis)[0])
    assert desk.desk("p1").unit is None


def test_raters_see_other_orders_of_the_same_units(desk: Desk) -> None:
    assert desk.units is not None
    orders = [[unit.id for unit in rater_order(desk.units, rater)] for rater in ("r1", "r2", "r3")]
    assert len({tuple(order) for order in orders}) == 3
    assert len({frozenset(order) for order in orders}) == 1


def test_what_does_not_fit_is_refused(desk: Desk) -> None:
    desk.join("p1", "lay")
    unit = rater_order(desk.units, "p1")[0].id  # type: ignore[arg-type]  # they are drawn
    with pytest.raises(DataError, match="p1 is not asked for 'bias'"):
        desk.rate("p1", unit, "bias", "no", 0, 1.0, "click-01")
    with pytest.raises(NotFoundError, match="no such unit"):
        desk.rate("p1", "f" * 16, "lay_intent", "address query", 0, 1.0, "click-01")
    with pytest.raises(NotFoundError, match="no rater 'r9'"):
        desk.desk("r9")


def test_ratings_of_units_that_are_gone_are_said_and_not_mixed_with_others(desk: Desk, folder: Path) -> None:
    desk.join("p1", "lay")
    _rate_all(desk, "p1", 2, lambda _, axis: levels_of(axis)[0])
    (folder / "app" / "ratings" / "units.json").unlink()
    again = Desk(OpenStudy.open(folder))
    again.draw(CASES)
    listed = again.listed().raters
    assert (listed[0].of, listed[0].done) == (0, 0) and "drawn before" in listed[0].problem
    with pytest.raises(ConflictError, match="are not those of the study any more"):
        again.desk("p1")


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rated(desk: Desk) -> Desk:
    """Two clinicians and one other; the null is rated worst, and what r2 changed counts as changed."""
    raters: dict[str, Role] = {"r1": "clinician", "r2": "clinician", "p1": "lay"}
    for rater, role in raters.items():
        desk.join(rater, role)
        _rate_all(desk, rater, 24, lambda unit, axis: AXES[axis][0 if unit.arm == "shuffled" else -1])
    unit = rater_order(desk.units, "r2")[0]  # type: ignore[arg-type]  # they are drawn
    entry = desk.raters.of("r2").entries[unit.id, "bias"]
    changed = "yes" if entry.rating == "no" else "no"
    desk.rate("r2", unit.id, "bias", changed, 1, 40.0, "changed-his-mind")
    return desk


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_the_export_gives_back_what_was_clicked(rated: Desk, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ratings{ending}"
    write_ratings(rated.rows(), path)
    found = {(r.rater, r.item, r.arm, r.axis): r.value for r in read_ratings(path)}
    clicked = {}
    for rater in ("r1", "r2", "p1"):
        log = (rated.folder / f"{rater}.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        for line in map(json.loads, log):
            levels = AXES[line["axis"]]
            value = levels.index(line["rating"]) / (len(levels) - 1)
            clicked[rater, line["item"], line["arm"], line["axis"]] = value
    assert found == clicked and len(found) == 24 * (12 + 12 + 2)
    with pytest.raises(ConfigError, match="add --force"):
        write_ratings(rated.rows(), path)


def test_a_formula_is_not_written_into_a_table(tmp_path: Path) -> None:
    row = {"item": "=1+1", "rater": "r1", "arm": "expert", "axis": "bias", "rating": "no"}
    with pytest.raises(DataError, match=r"'=1\+1' for a formula; write the ratings as \.jsonl"):
        ratings_text([row], ".csv")
    assert json.loads(ratings_text([row], ".jsonl")) == row
    for rows, ending, kind in (([], ".csv", NotFoundError), ([row], ".xlsx", ConfigError)):
        with pytest.raises(kind):
            ratings_text(rows, ending)


def test_agreement_is_that_of_the_exported_file_and_says_what_is_few(rated: Desk, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    write_ratings(rated.rows(), path)
    found = measure_agreement(rated.rows(), rated.units, rated.listed().raters)
    metrics, _ = rating_metrics(read_ratings(path), draws=DRAWS)
    assert [each.value for each in (*found.alphas, *found.kappas, *found.contrasts)] == sorted(
        metrics, key=lambda m: ("alpha", "kappa", "contrast").index(m.name.rpartition("_")[2])
    )
    alpha = {each.axis: each.value for each in found.alphas}
    assert alpha["missing_content"].value == 1 and alpha["bias"].value < 1
    assert alpha["bias"].interval is not None and "cannot carry a claim" in alpha["bias"].notes
    assert {each.of for each in found.kappas} == {"r1,r2"}
    expert = next(c.value for c in found.contrasts if (c.axis, c.of) == ("missing_content", "expert"))
    assert expert.value == 1 and expert.p is not None and expert.p < 0.05
    assert [(arm.arm, arm.units) for arm in found.arms] == [(arm, CASES) for arm in ARMS]


# --- doors ----------------------------------------------------------------------------------------------------------


def _client(desk: Desk, **settings: Any) -> tuple[TestClient, dict[str, str]]:
    chosen = Settings(**settings)
    client = TestClient(create_app([desk.study], chosen), "http://127.0.0.1:8000", follow_redirects=False)
    return client, {"origin": "http://127.0.0.1:8000", WRITE_TOKEN: chosen.write_token}


def test_writing_needs_a_page_of_this_server(desk: Desk) -> None:
    client, headers = _client(desk)
    body = {"rater": "r1", "role": "lay"}
    for missing in headers:
        rest = {name: value for name, value in headers.items() if name != missing}
        assert client.post("/1/api/rate", json=body, headers=rest).status_code == 403
    assert client.get("/1/api/rate").json() == {"drawn": True, "raters": []}
    assert client.post("/1/api/rate", json=body, headers=headers).json()["of"] == 4 * CASES


def test_the_doors_of_a_rater(desk: Desk) -> None:
    client, headers = _client(desk)

    def post(path: str, **body: Any) -> Any:
        return client.post(path, json=body, headers=headers)

    for bad in (
        {"rater": "../r1", "role": "lay"},
        {"rater": "r1", "role": "nurse"},
        {"rater": "r1"},
        {"rater": "r1\n", "role": "lay"},
    ):
        assert post("/1/api/rate", **bad).status_code == 422
    assert post("/1/api/rate", rater="r1", role="clinician").status_code == 200
    assert post("/1/api/rate", rater="r1", role="lay").status_code == 409
    unit = client.get("/1/api/rate/r1").json()["unit"]["unit"]
    body = {"unit": unit, "axis": "bias", "rating": "no", "revision": 0, "seconds": 1.5, "entry_id": "click-01"}
    saved = post("/1/api/rate/r1", **body)
    assert saved.json()["entry"]["revision"] == 1 and saved.json()["done"] == 0
    assert post("/1/api/rate/r1", **body).json()["entry"] == saved.json()["entry"]
    clash = post("/1/api/rate/r1", **body | {"rating": "yes", "entry_id": "click-02"})
    assert clash.status_code == 409 and clash.json()["entry"] == saved.json()["entry"]
    for change, status in (
        ({"rating": "perhaps"}, 422), ({"axis": "lay_intent"}, 422), ({"unit": "0" * 16}, 404), ({"unit": "x"}, 422),
        ({"seconds": -1}, 422), ({"revision": "0"}, 422), ({"arm": "expert"}, 422), ({"entry_id": "../../x"}, 422),
    ):  # fmt: skip
        assert post("/1/api/rate/r1", **body | {"entry_id": "click-03"} | change).status_code == status, change
    assert post("/1/api/rate/r2", **body).status_code == 404
    for path in ("/1/rate/r2", "/1/rate/r1?unit=" + "0" * 16, "/2/rate", "/1/rate/..%2funits"):
        assert client.get(path).status_code == 404, path
    assert client.get("/1/files/ratings.csv").text.startswith("item,rater,arm,axis,rating\n")
    assert client.get("/1/files/ratings.xlsx").status_code in (404, 422)


def test_a_server_for_raters_alone_answers_nothing_else(rated: Desk) -> None:
    client, _ = _client(rated, rating_only=True)
    assert client.get("/").headers["location"] == "/1/rate"
    for path in ("/1/rate", "/1/rate/r1", "/1/api/rate", "/1/api/rate/r1", "/static/rate.js"):
        assert client.get(path).status_code == 200, path
    for path in (
        "/1/cases", "/1/cases/0", "/1/api/cases/0", "/1/features", "/1/study", "/1/search", "/1/agreement",
        "/1/api/agreement", "/1/files/ratings.csv", "/1/files/ratings.jsonl", "/1/files/metrics.csv", "/api/studies",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert 'href="/1/cases' not in client.get("/1/rate").text
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "/api/rate" not in path]


def test_the_page_for_raters_leads_to_no_page_that_tells(rated: Desk) -> None:
    client, _ = _client(rated)
    page = client.get("/1/rate/r1").text
    for told in ("/cases", "/features", "/study", "/search", "/agreement", "/files/"):
        assert f'href="/1{told}' not in page, told
    assert "/agreement" not in client.get("/1/rate").text
    assert "/1/agreement" in client.get("/1/study").text
    for code in ("ko", "en"):
        owner = client.get(f"/1/agreement?lang={code}").text
        assert "feature_label" in owner and ("(few)" in owner or "(적음)" in owner)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_draws_counts_and_writes(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(commands, ["ratings", str(folder), *arguments])

    assert "Nothing was drawn yet" in run().output
    assert isinstance(run("--output", str(tmp_path / "r.csv")).exception, NotFoundError)
    assert isinstance(run("--seed", "x").exception, ConfigError)
    drawn = run("--draw", "6")
    assert "6 cases; feature_label 6, expert 6, cot 6, shuffled 6" in drawn.output
    assert isinstance(run("--draw", "6").exception, StudyError)
    desk = Desk(OpenStudy.open(folder))
    desk.join("p1", "lay")
    _rate_all(desk, "p1", 4, lambda _, axis: levels_of(axis)[0])
    path = tmp_path / "r.csv"
    assert run("--output", str(path)).exit_code == 0
    assert isinstance(run("--output", str(path)).exception, ConfigError)
    values = json.loads(run("--output", str(path), "--force", "--json").stdout)
    assert (values["cases"], values["ratings"], values["output"]) == (6, 8, str(path))
    assert [(r["rater"], r["role"], r["done"], r["of"]) for r in values["raters"]] == [("p1", "lay", 4, 24)]
    with path.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8 == len(read_ratings(path))
