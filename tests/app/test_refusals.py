"""Everything that a page can refuse is said in the reader's language, in Korean as in English."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import sae_lens_med
from sae_lens_med.app.create import create_app
from sae_lens_med.app.guard import WRITE_TOKEN
from sae_lens_med.app.live.routes import Acting, OpenJob
from sae_lens_med.app.live.runs import Live
from sae_lens_med.app.live.settings import MAX_CHARACTERS, LiveSettings
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.app.refusals import Words, refusal, sentence_of
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.strings import STRINGS
from sae_lens_med.app.views import Proposal
from sae_lens_med.errors import DataError, ReadOnlyError, StudyError
from tests import fake_model
from tests.app.reading_study import ECG
from tests.app.test_steering import until

APP = Path(sae_lens_med.__file__).parent / "app"
ORIGIN = "http://127.0.0.1:8000"
KOREAN = re.compile("[가-힣]")
COMMANDS = {
    "attribution.py", "directions.py", "export.py", "index.py", "index_files.py", "labelling.py", "licences.py",
    "settings.py", "live/settings.py",
}  # fmt: skip
"""Modules that commands alone reach: what they raise is read in a terminal, in English."""
TYPED = {
    ("case_list.py", "a page and its size"), ("cases.py", "features are ordered by"),
    ("cases.py", "at least one feature"), ("feature_view.py", "features are ordered by"),
    ("search.py", "a search gives"), ("create.py", "one study is served"), ("views.py", "a proposed label needs"),
    ("rating/units.py", "its format is"), ("rating/units.py", "an arm is unknown"),
    ("rating/units.py", "at least two"), ("rating/units.py", " is there already"),
    ("rating/export.py", "ratings are written as"), ("rating/export.py", " is there already"),
}  # fmt: skip
"""What an address or a body cannot ask for, since its values are checked before (`invalid`), and what is caught."""


def _raised() -> Iterator[tuple[str, str]]:
    """Module, and the literal text, of each error of the package that a module for pages raises by itself."""
    kinds = {"BusyError", "ConfigError", "ConflictError", "DataError", "ModelError", "NotFoundError", "StudyError"}
    for path in sorted(APP.rglob("*.py")):
        name = path.relative_to(APP).as_posix()
        if name in COMMANDS or name.startswith("neuronpedia/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            made = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id in kinds:
                texts = [c.value for c in ast.walk(made) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
                yield name, " ".join(texts)


def test_no_page_raises_an_error_that_is_in_english_alone() -> None:
    found = [(name, text) for name, text in _raised() if not any(n == name and t in text for n, t in TYPED)]
    assert found == [], "say it by `refusals.refusal`, with a key of `strings.refusals`"
    assert {each for each in TYPED if not any(n == each[0] and each[1] in text for n, text in _raised())} == set()


def test_a_sentence_is_the_message_in_english_and_in_korean_another() -> None:
    error = refusal(DataError, "refused.line.empty", what=Words("refused.line.author"))
    assert str(error) == "the author is empty; write one." == sentence_of(error, "en")
    assert sentence_of(error, "ko") == "적은 사람 칸이 비어 있습니다. 적어 주십시오."
    braces = refusal(StudyError, "refused.file", name="{study}")  # what a reader wrote is no place of the text
    assert str(braces) == "there is no file {study}."
    full = ReadOnlyError("x/labels.jsonl", "No space left on device")
    assert str(full) == sentence_of(full, "en")
    assert "x/labels.jsonl" in str(sentence_of(full, "ko")) and KOREAN.search(str(sentence_of(full, "ko")))
    other = StudyError("something below is damaged.")
    assert (sentence_of(other, "en"), sentence_of(other, "ko")) == ("something below is damaged.", None)


# --- by the doors -----------------------------------------------------------------------------------------------------


class Asked:
    """Asks the same thing twice, of readers of both languages."""

    def __init__(self, folder: Path, acting: Acting | None = None) -> None:
        settings = Settings()
        self.folder, self.acting = folder, acting
        app = create_app([OpenStudy.open(folder)], settings, acting)
        self.client = TestClient(app, ORIGIN, raise_server_exceptions=False, follow_redirects=False)
        self.headers = {"origin": ORIGIN, "content-type": "application/json", WRITE_TOKEN: settings.write_token}

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, tuple[int, str]]:
        found = {}
        for code in ("ko", "en"):
            given = {**self.headers, "accept-language": code, **headers}
            content = None if body is None else json.dumps(body)  # with NaN and halves of pairs, as a hostile client
            answer = self.client.request(method, path, content=content, headers=given)
            text = answer.json()["error"] if "/api/" in path else _shown(answer.text)
            found[code] = (answer.status_code, text or "")
        return found


def _shown(page: str) -> str:
    main = re.search(r"<main.*?</main>", page, re.DOTALL)
    return re.sub(r"<[^>]+>", " ", main[0] if main else page)


def _both(found: dict[str, tuple[int, str]], status: int) -> None:
    assert {each for each, _ in found.values()} == {status}
    (_, korean), (_, english) = found["ko"], found["en"]
    assert KOREAN.search(korean), korean
    assert english and not KOREAN.search(english), english
    # A sentence of its own, and not an English one with a Korean word before it.
    assert not re.search(r"[a-z]{2,} (is|are|has|have|cannot|needs?) ", korean), korean


@pytest.fixture
def folder(study_folder: Path, tmp_path: Path) -> Path:
    """A copy of the study that nobody has written into, with one proposed label."""
    target = tmp_path / "own"
    shutil.copytree(study_folder, target)
    for name in ("labels.jsonl", "proposed.jsonl", "edited.jsonl"):
        (target / "app" / name).unlink(missing_ok=True)
    shutil.rmtree(target / "app" / "ratings", ignore_errors=True)
    Proposals(target / "app" / "proposed.jsonl").add(
        [Proposal("a" * 32, ECG, "ECG", "w", "j", "2026-11-01T00:00:00+00:00", 0.9, 0.5, 20, 4)]
    )
    return target


@pytest.fixture
def ask(folder: Path) -> Iterator[Asked]:
    live = Live(fake_model.command(), LiveSettings())
    try:
        yield Asked(folder, Acting(live))
    finally:
        live.close()


NAN = float("nan")
LABEL = {"label": "x", "author": "kim", "revision": 0, "entry_id": "0123456789"}
DECIDED = {"decision": "accepted", "author": "kim", "revision": 0, "entry_id": "0123456789"}
KEEP = {"question": "x", "options": [None] * 4, "author": "kim", "entry_id": "0123456789"}
RATED = {"unit": "0" * 16, "axis": "bias", "rating": "no", "revision": 0, "seconds": 1.0, "entry_id": "0123456789"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/1/cases/9999", None, 404),
        ("GET", "/1/features/99999999", None, 404),
        ("GET", "/1/cases?active=99999999", None, 404),
        ("GET", "/1/files/x.svg", None, 404),
        ("GET", "/compare", None, 404),
        ("GET", "/2/cases", None, 404),
        ("GET", "/nothing", None, 404),
        ("GET", "/static/nothing.js", None, 404),
        ("GET", "/1/api/cases/9999", None, 404),
        ("GET", "/1/api/cases/0/token?part=stem&segment=9999", None, 404),
        ("GET", "/1/api/cases/0/paint?feature=99999999", None, 404),
        ("POST", "/1/api/cases/0", None, 405),
        ("GET", "/1/cases?page=0", None, 422),
        ("GET", "/1/cases/0/steer?features=x", None, 422),
        ("GET", "/1/cases/0/steer?features=1:explode", None, 422),
        ("GET", "/1/cases/0/steer?features=1:clamp:11", None, 422),
        ("GET", "/1/cases/0/steer?features=1,1", None, 422),
        ("GET", "/1/cases/0/steer?features=1,2,3,4,5,6,7,8,9", None, 422),
        ("GET", "/1/cases/0/steer?tokens=999", None, 422),
        ("GET", "/1/cases/0/steer?f=1&how=off&strength=x", None, 422),
        ("GET", "/1/cases/0/steer?f=1&how=off&strength=nan", None, 422),
        ("GET", "/1/cases/0/steer?features=99999999", None, 404),
        ("GET", "/1/runs/nothing-here", None, 404),
        ("GET", "/1/api/steer/nothing-here", None, 404),
        ("POST", "/1/api/cases/0/steer", {"edits": []}, 422),
        ("POST", "/1/api/cases/0/steer", {"edits": [{"feature": ECG}] * 9}, 422),
        ("POST", "/1/api/cases/0/steer", {"edits": [{"feature": ECG}] * 2}, 422),
        ("POST", "/1/api/cases/0/steer", {"edits": 7}, 422),
        ("POST", "/1/api/cases/0/steer", {"edits": [{"feature": ECG, "how": "explode"}]}, 422),
        ("POST", "/1/api/cases/0/steer", {"edits": [{"feature": ECG, "strength": "x"}]}, 422),
        ("POST", "/1/api/cases/0/steer", {"edits": [{"feature": 99999999}]}, 404),
        ("POST", "/1/api/cases/0/steer", {"edits": [{"feature": 10, "how": "amplify"}]}, 422),  # it never fires
        ("POST", "/1/api/cases/0/edit", {"question": None, "options": [None] * 4}, 422),
        ("POST", "/1/api/cases/0/edit", {"question": " ", "options": [None] * 4}, 422),
        ("POST", "/1/api/cases/0/edit", {"question": None, "options": ["", None, None, None]}, 422),
        ("POST", "/1/api/cases/0/edit", {"question": "x" * (MAX_CHARACTERS + 1), "options": [None] * 4}, 422),
        ("POST", "/1/api/cases/0/edit", {"question": "x" * 100_000, "options": [None] * 4}, 422),
        ("POST", "/1/api/cases/0/edit", {"question": "\ud800", "options": [None] * 4}, 422),
        ("POST", "/1/api/cases/0/edit", {"question": "x", "options": [None] * 3}, 422),
        ("POST", "/1/api/cases/0/keep", {**KEEP, "answer": "Z"}, 422),
        ("POST", "/1/api/cases/0/keep", {**KEEP, "answer": "1"}, 422),
        ("POST", "/1/api/cases/0/keep", {**KEEP, "author": " "}, 422),
        ("POST", "/1/api/cases/0/keep", {**KEEP, "entry_id": "../../x"}, 422),
        ("POST", f"/1/api/features/{ECG}/label", {**LABEL, "revision": 7}, 409),
        ("POST", f"/1/api/features/{ECG}/label", {**LABEL, "label": "x" * 301}, 422),
        ("POST", f"/1/api/features/{ECG}/label", {**LABEL, "label": "\udc00"}, 422),
        ("POST", "/1/api/features/99999999/label", LABEL, 404),
        ("POST", f"/1/api/features/{ECG}/proposals/{'b' * 32}", DECIDED, 404),
        ("POST", f"/1/api/features/{ECG}/proposals/x", DECIDED, 422),
        ("POST", f"/1/api/features/{ECG}/proposals/{'a' * 32}", {**DECIDED, "revision": 3}, 409),
        ("GET", "/1/rate/nobody", None, 404),
        ("GET", "/1/files/ratings.csv", None, 404),
        ("POST", "/1/api/rate", {"rater": "../x", "role": "lay"}, 422),
        ("POST", "/1/api/rate", {"rater": "r1", "role": "king"}, 422),
        ("POST", "/1/api/rate/nobody", RATED, 404),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_in_both_languages(ask: Asked, method: str, path: str, body: Any, status: int) -> None:
    _both(ask(method, path, body), status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({WRITE_TOKEN: "old"}, 403),
        ({"content-type": "text/plain"}, 403),
        ({"host": "evil.example"}, 400),
        ({"content-length": str(9 * 2**20)}, 413),
        ({"transfer-encoding": "chunked"}, 413),
    ],
)
def test_what_the_guard_refuses(ask: Asked, headers: dict[str, str], status: int) -> None:
    _both(ask("POST", f"/1/api/features/{ECG}/label", LABEL, **headers), status)


def test_what_raters_are_refused(ask: Asked) -> None:
    join = {"rater": "r1", "role": "clinician"}
    assert ask.client.post("/1/api/rate", json=join, headers=ask.headers).status_code == 200
    _both(ask("POST", "/1/api/rate", {**join, "role": "lay"}), 409)
    _both(ask("POST", "/1/api/rate", {**join, "rater": "R1"}), 409)
    _both(ask("GET", "/1/rate/r2"), 404)
    _both(ask("GET", f"/1/rate/r1?unit={'0' * 16}"), 404)
    unit = ask.client.get("/1/api/rate/r1").json()["unit"]["unit"]
    for changed, status in (
        ({}, 404),
        ({"unit": unit, "axis": "lay_intent"}, 422),
        ({"unit": unit, "axis": "bias", "rating": "perhaps"}, 422),
        ({"unit": unit, "revision": 3}, 422),
        ({"unit": unit, "seconds": 90_000.0}, 422),
        ({"unit": unit, "seconds": NAN}, 422),
    ):
        _both(ask("POST", "/1/api/rate/r1", RATED | changed), status)
    first = RATED | {"unit": unit}
    assert ask.client.post("/1/api/rate/r1", json=first, headers=ask.headers).status_code == 200
    _both(ask("POST", "/1/api/rate/r1", first | {"rating": "yes", "entry_id": "other-entry"}), 409)
    _both(ask("GET", "/1/files/ratings.txt"), 422)


def test_a_decision_that_somebody_has_taken(ask: Asked) -> None:
    path = f"/1/api/features/{ECG}/proposals/{'a' * 32}"
    assert ask.client.post(path, json=DECIDED, headers=ask.headers).status_code == 200
    _both(ask("POST", path, {**DECIDED, "entry_id": "another-one"}), 409)


def test_a_folder_that_cannot_be_written(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sae_lens_med.runs.append_log.fcntl.lockf", full)
    for path, body in (
        (f"/1/api/features/{ECG}/label", LABEL),
        ("/1/api/cases/0/keep", KEEP),
        (f"/1/api/features/{ECG}/proposals/{'a' * 32}", DECIDED),
    ):
        found = ask("POST", path, body)
        _both(found, 403)
        assert all("No space left on device" in text for _, text in found.values())


def test_a_queue_that_is_full_and_a_server_without_a_model(folder: Path) -> None:
    live = Live(fake_model.command(30), LiveSettings(waiting=0))
    try:
        ask = Asked(folder, Acting(live))
        body = {"edits": [{"feature": ECG}]}
        assert ask.client.post("/1/api/cases/0/steer", json=body, headers=ask.headers).status_code == 202
        _both(ask("POST", "/1/api/cases/0/steer", body), 429)
    finally:
        live.close()
    none = Asked(folder)
    _both(none("POST", "/1/api/cases/0/steer", {"edits": [{"feature": ECG}]}), 404)
    for code, place in (("ko", 0), ("en", 1)):
        page = none.client.get(f"/1/cases/0/steer?features={ECG}", headers={"accept-language": code}).text
        assert STRINGS["steer.none"][place] in page


@pytest.mark.parametrize("problem", sorted(key for key in STRINGS if key.startswith("steer.problem.")))
def test_a_run_that_ends_early_is_told_as_a_page_and_as_json(ask: Asked, problem: str) -> None:
    assert ask.acting is not None and ask.acting.live is not None
    body = {"edits": [{"feature": ECG}]}
    name = ask.client.post("/1/api/cases/0/steer", json=body, headers=ask.headers).json()["id"]
    run = ask.acting.live.get(1, name)
    until(lambda: run.over)
    run.problem, run.detail = problem, ""
    _both(ask("GET", f"/1/api/steer/{name}"), 200)
    for code, place in (("ko", 0), ("en", 1)):
        page = ask.client.get(f"/1/runs/{name}", headers={"accept-language": code}).text
        assert STRINGS[problem][place].split("'")[0] in page


@pytest.mark.parametrize("act", ["die", "fail", "fail.short"])
def test_what_the_process_of_the_model_says_is_told(act: str, folder: Path) -> None:
    """Its own sentence by its key; one of a room below, and one of the system, behind a sentence in Korean."""
    live = Live(fake_model.command(), LiveSettings())
    try:
        ask = Asked(folder, Acting(live))
        run = live.submit(1, OpenJob({"folder": "x", "act": act}))
        until(lambda: run.over)
        address = f"/1/api/steer/{run.id}"
        found = {code: ask.client.get(address, headers={"accept-language": code}).json() for code in ("ko", "en")}
        assert {each["state"] for each in found.values()} == {"failed"}
        assert KOREAN.search(found["ko"]["error"]) and not KOREAN.search(found["en"]["error"])
        key = {"die": "steer.problem.ended", "fail": "steer.problem.model", "fail.short": "steer.problem.short"}[act]
        assert found["ko"]["error"].startswith(STRINGS[key][0])
        assert ("the model is not there." in found["ko"]["error"]) == (act == "fail")
    finally:
        live.close()


def test_a_stale_index_and_a_damaged_one_are_told(folder: Path) -> None:
    questions = folder / "questions.jsonl"
    questions.write_text(questions.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    for code, place in (("ko", 0), ("en", 1)):
        page = Asked(folder).client.get("/1/cases", headers={"accept-language": code}).text
        assert STRINGS["missing.why.stale"][place] in page and "sae-lens-med index" in page
        other = STRINGS["missing.why.stale"][1 - place]
        assert other not in page
    _both(Asked(folder, Acting(Live(fake_model.command())))(
        "POST", "/1/api/cases/0/steer", {"edits": [{"feature": ECG}]}), 404)  # fmt: skip
    _both(Asked(folder)("GET", f"/1/cases?active={ECG}"), 404)
