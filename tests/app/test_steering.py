"""What if: features that are edited and questions that are changed, in a real browser. The model is a fake one
(`tests.fake_model`): what it answers is known, and it takes the time that a test needs."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sae_lens_med.app.create import create_app
from sae_lens_med.app.guard import WRITE_TOKEN
from sae_lens_med.app.live.routes import Acting
from sae_lens_med.app.live.runs import Live
from sae_lens_med.app.live.settings import LiveSettings
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.text import visible
from sae_lens_med.data import load_items
from tests import fake_model
from tests.app.conftest import WAIT, Visits, serving
from tests.app.reading_study import ECG, PRESSURE, V4R, number_of
from tests.app.test_stories import Actions

DONE = re.compile("끝났습니다|Done")
SETTINGS = Settings()


class Place:
    """A server with a model, and pages of it."""

    def __init__(self, live: Live, visits: Visits) -> None:
        self.live, self.visit = live, visits

    def __call__(self, path: str, **how: Any) -> Any:
        return self.visit(path, **how)


@contextmanager
def place(browser: Any, study: OpenStudy, pause: float = 0.0, **limits: Any) -> Iterator[Place]:
    live = Live(fake_model.command(pause), LiveSettings(**limits))
    with serving([study], SETTINGS, Acting(live)) as address:
        visits = Visits(browser, address)
        try:
            yield Place(live, visits)
        finally:
            live.close()
            visits.close()


@pytest.fixture(scope="module")
def fast(browser: Any, study: OpenStudy) -> Iterator[Place]:
    with place(browser, study) as found:
        yield found


def run_and_wait(page: Any) -> None:
    page.locator("#run").click()
    page.locator("#steer-status", has_text=DONE).wait_for()


def until(held: Callable[[], Any]) -> None:
    began = time.monotonic()
    while not held():
        assert time.monotonic() - began < WAIT / 1000, "it did not happen"
        time.sleep(0.02)


# --- stories ----------------------------------------------------------------------------------------------------------


def test_a_clinician_asks_what_if_this_feature_were_off(fast: Place) -> None:
    page, act = fast("/1/cases/0"), Actions(3)
    row = page.locator("li.feature", has=page.locator(f'a.paint[data-feature="{ECG}"]')).first
    act(lambda: row.get_by_role("link", name="이 특징이 꺼진다면?").click())
    page.locator("#run").wait_for()
    assert page.locator("fieldset[data-feature]").count() == 1
    assert page.get_by_role("combobox", name="무엇을").input_value() == "off"
    act(lambda: page.locator("#run").click())
    assert page.locator("#steer-status").inner_text()  # progress, at once
    page.locator("#steer-status", has_text=DONE).wait_for()
    said = page.locator("#verdict").inner_text()
    assert "답이 바뀌었습니다: B → A" in said and "범위 밖" in said and "한 문항의 결과" in said
    assert page.locator("#steer-said").inner_text().strip() != ""  # and it is read out
    n = int(re.findall(r"무작위 특징 (\d+)묶음", said)[0])
    assert 2 <= n < 20 and "묶음이 적어" in said  # few other features fire so strongly there
    note = page.locator("#found > p", has_text="두 방향 p").inner_text()
    assert f"{1 / (n + 1):.3f}" in note and f"{2 / (n + 1):.3f}" in note
    rows = page.locator("table.steered tbody tr")
    assert rows.count() == 4 and rows.nth(1).locator("svg .band").count() == 1
    assert [rows.nth(1).locator("td.n").nth(k).inner_text() for k in range(2)] == [
        "81%",
        "1%",
    ]  # softmax of 1, 3, 0, 0 and of 1, -3, 0, 0
    assert "<b>before</b>" in page.locator('[data-side="before"]').inner_text()


def test_the_address_keeps_the_setting(fast: Place) -> None:
    page = fast("/1/cases/0/steer?features=" + str(V4R))
    page.get_by_role("combobox", name="무엇을").select_option("amplify")
    number = page.get_by_role("spinbutton", name="세기, 숫자로")
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    assert number.input_value() == "1.5"  # by keyboard
    number.fill("2.5")
    assert slider.input_value() == "2.5"
    number.blur()
    page.get_by_role("combobox", name="이어 쓰는 글").select_option("64")
    run_and_wait(page)
    assert f"features={V4R}%3Aamplify%3A2.5" in page.url and "tokens=64" in page.url
    assert "답은 그대로 B" in page.locator("#verdict").inner_text()
    again = fast(page.url.removeprefix(fast.visit.address))
    assert again.get_by_role("combobox", name="무엇을").input_value() == "amplify"
    assert again.get_by_role("spinbutton", name="세기, 숫자로").input_value() == "2.5"
    again.get_by_role("link", name="English").click()
    again.wait_for_url("**lang=en**")
    assert again.get_by_role("spinbutton", name="Strength, as a number").input_value() == "2.5"
    again.get_by_role("link", name="remove").click()
    again.get_by_text("No feature is chosen yet").wait_for()


def test_features_are_added_without_a_script_and_the_page_says_that_running_needs_one(fast: Place) -> None:
    page = fast(f"/1/cases/0/steer?features={ECG}&view=researcher", java_script_enabled=False)
    assert "자바스크립트가 필요합니다" in page.locator("main").inner_text()
    assert not page.locator("#run").is_visible()
    page.get_by_label("번호로").fill(str(PRESSURE))
    page.get_by_role("button", name="더하기").click()
    page.wait_for_url("**features=**")
    assert page.locator("fieldset[data-feature]").count() == 2
    assert f"features={ECG}%3Aoff%2C{PRESSURE}%3Aoff" in page.url and "view=researcher" in page.url


def test_cancel_works_and_the_next_run_goes(browser: Any, study: OpenStudy) -> None:
    with place(browser, study, pause=0.7) as slow:
        page = slow(f"/1/cases/0/steer?features={ECG}")
        page.locator("#run").click()
        page.locator("#steer-status", has_text=re.compile("계산|무작위")).wait_for()
        began = time.monotonic()
        page.get_by_role("button", name="취소").click()
        page.locator("#steer-status", has_text="취소되었습니다").wait_for()
        took = time.monotonic() - began
        page.locator("#cancel").wait_for(state="hidden")
        assert page.locator("#run").is_enabled()
        assert slow.live._running is None or slow.live._running.over
        run_and_wait(page)
        assert "B → A" in page.locator("#verdict").inner_text()
        assert took < WAIT / 1000


def test_a_second_reader_sees_the_queue_and_reads_while_the_model_runs(browser: Any, study: OpenStudy) -> None:
    with place(browser, study, pause=1.0) as slow:
        first, second = (slow(f"/1/cases/0/steer?features={ECG}") for _ in range(2))
        first.locator("#run").click()
        first.locator("#steer-status", has_text=re.compile("계산|무작위")).wait_for()
        second.locator("#run").click()
        second.locator("#steer-status", has_text="앞에 1건").wait_for()
        reading = slow("/1/cases/1")
        assert "심전도" in reading.locator('[data-part="stem"]').inner_text()
        assert not first.get_by_text(DONE).is_visible()  # it runs still
        first.get_by_role("button", name="취소").click()
        second.locator("#steer-status", has_text=DONE).wait_for()


def test_a_page_that_is_left_lets_the_model_go(browser: Any, study: OpenStudy) -> None:
    with place(browser, study, pause=1.0) as slow:
        page = slow(f"/1/cases/0/steer?features={ECG}")
        page.locator("#run").click()
        page.locator("#steer-status", has_text=re.compile("계산|무작위")).wait_for()
        page.goto(f"{slow.visit.address}/1/cases")
        until(lambda: slow.live._running is None)
        assert [run.state for run in slow.live._runs.values()] == ["cancelled"]


def test_a_process_that_dies_is_a_sentence_on_the_page(browser: Any, study: OpenStudy) -> None:
    with place(browser, study, pause=1.0) as slow:
        page = slow(f"/1/cases/0/steer?features={ECG}")
        page.locator("#run").click()
        page.locator("#steer-status", has_text=re.compile("계산|무작위")).wait_for()
        assert slow.live.pid is not None
        os.kill(slow.live.pid, signal.SIGKILL)
        page.locator("#found .sheet", has_text="모델의 프로세스가 스스로 끝났습니다").wait_for()
        assert page.locator("#run").is_enabled()


# --- edited questions -------------------------------------------------------------------------------------------------


def test_a_question_is_edited_asked_again_and_kept(fast: Place, study: OpenStudy) -> None:
    kept, questions = study.folder / "app" / "edited.jsonl", (study.folder / "questions.jsonl").read_bytes()
    page, item = fast("/1/cases/0"), list(study.items.values())[0]
    page.get_by_role("link", name="문항을 고쳐 다시 묻기").click()
    stem = page.get_by_label("질문", exact=True)
    assert stem.input_value() == item.question
    stem.fill(item.question.replace("처치는?", "처치가 아니다 <i>?"))
    page.get_by_label("선택지 C").fill("경과 관찰")
    run_and_wait(page)
    assert "답이 바뀌었습니다: B → A" in page.locator("#verdict").inner_text()
    assert "아니다" in " ".join(page.locator("#found ins").all_inner_texts())
    assert page.locator("#found del").count() >= 2  # in the stem and in an option
    groups = page.locator(".changes section")
    assert [groups.nth(k).locator("li").count() for k in range(4)] == [1, 1, 1, 1]
    assert "V4R" in groups.nth(0).inner_text() and "혈압" in groups.nth(1).inner_text()
    page.get_by_label("고친 문항의 정답").select_option("C")
    page.get_by_label("이름").fill("김 의사")
    page.get_by_role("button", name="남기기").click()
    page.locator("#keep-status", has_text="app/edited.jsonl").wait_for()
    page.get_by_role("button", name="남기기").click()  # the same entry again
    (row,) = load_items(str(kept)).items
    kept.unlink()
    assert "처치가 아니다 <i>?" in row.question and row.options[2] == "경과 관찰" and row.answer == 2
    assert row.id != item.id and item.id in row.provenance["source"]
    assert (study.folder / "questions.jsonl").read_bytes() == questions


@pytest.mark.parametrize("name", ["script", "controls", "long", "letters", "unexplained", "ungraded", "unanswered"])
def test_hostile_cases_in_the_forms(fast: Place, study: OpenStudy, name: str) -> None:
    number = number_of(name)
    item = list(study.items.values())[number]
    page = fast(f"/1/cases/{number}/steer?features={ECG}:clamp:10")
    assert page.locator(".asked-again .text").inner_text().split() == visible(item.question).text.split()
    run_and_wait(page)
    assert page.locator("table.steered tbody tr").count() == len(item.options)
    page = fast(f"/1/cases/{number}/edit")
    assert page.get_by_label("질문", exact=True).input_value() == visible(item.question).text
    assert page.get_by_text("너무 길어").count() == (name == "long")
    page.get_by_label("선택지 A").fill("</textarea><script>alert(3)</script>\x00")
    run_and_wait(page)
    assert "</textarea><script>" in page.locator("#found ins").first.inner_text()


def test_nothing_edited_is_told(fast: Place) -> None:
    page = fast("/1/cases/0/edit", errors=True)
    page.locator("#run").click()
    page.locator("#steer-status", has_text="고친 것이 없습니다").wait_for()
    assert page.locator("#run").is_enabled()


# --- how it looks -----------------------------------------------------------------------------------------------------

PAGES = {"steer": f"/1/cases/0/steer?features={ECG},{V4R}:amplify:2", "edit": "/1/cases/0/edit"}


def _filled(page: Any, name: str) -> None:
    if name == "edit":
        page.get_by_label(re.compile("^(질문|Question)$")).fill("짧은 질문이 아니다.")
    run_and_wait(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(fast: Place, name: str, scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="the audit needs axe-playwright-python")
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page = fast(PAGES[name], color_scheme=scheme)
    _filled(page, name)
    page.evaluate(source)
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    assert [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found["violations"]] == []


@pytest.mark.parametrize("locale", ["ko-KR", "en-GB"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_telephone(fast: Place, name: str, locale: str) -> None:
    page = fast(PAGES[name], size=(390, 844), locale=locale)
    _filled(page, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)")


# --- without a browser ------------------------------------------------------------------------------------------------


def _headers(**more: str) -> dict[str, str]:
    own = {"origin": "http://127.0.0.1:8000", "content-type": "application/json", WRITE_TOKEN: SETTINGS.write_token}
    return own | more


def _client(study: OpenStudy, acting: Acting) -> TestClient:
    app = create_app([study], SETTINGS, acting)
    return TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False, follow_redirects=False)


@contextmanager
def asking(study: OpenStudy, pause: float = 0.0, **limits: Any) -> Iterator[TestClient]:
    live = Live(fake_model.command(pause), LiveSettings(**limits))
    try:
        yield _client(study, Acting(live))
    finally:
        live.close()


STEER = {"edits": [{"feature": ECG}], "new_tokens": 0}


def test_a_run_is_started_read_and_cancelled_as_json(study: OpenStudy) -> None:
    with asking(study) as client:
        told = client.post("/1/api/cases/0/steer", json=STEER, headers=_headers())
        assert told.status_code == 202 and told.json()["state"] == "queued"
        address = f"/1/api/steer/{told.json()['id']}"
        until(lambda: client.get(address).json()["state"] == "done")
        found = client.get(address).json()["steering"]
        assert found["watched"] == "B" and found["answer"] == "A" and found["outside"] is True
        assert found["n_sets"] == found["of_sets"] and found["edits"] == [
            {"feature": ECG, "how": "off", "strength": 1.0}
        ]
        again = client.request("DELETE", address, headers=_headers())
        assert again.status_code == 200 and again.json()["state"] == "done"  # it was over
        assert client.get("/1/api/steer/nothing-here").status_code == 404
        assert client.get(address.replace("/1/", "/2/")).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("steer", {"edits": []}, 422),
        ("steer", {"edits": [{"feature": ECG}] * 9}, 422),
        ("steer", {"edits": [{"feature": ECG}] * 2}, 422),
        ("steer", {"edits": [{"feature": -1}]}, 422),
        ("steer", {"edits": [{"feature": 10**6}]}, 404),
        ("steer", {"edits": [{"feature": ECG, "how": "explode"}]}, 422),
        ("steer", {"edits": [{"feature": ECG, "how": "clamp", "strength": 10.5}]}, 422),
        ("steer", {"edits": [{"feature": ECG, "how": "clamp", "strength": -1.0}]}, 422),
        ("steer", {"edits": [{"feature": ECG, "strength": "1"}]}, 422),
        ("steer", {"edits": [{"feature": str(ECG)}]}, 422),
        ("steer", {**STEER, "new_tokens": 257}, 422),
        ("steer", {**STEER, "more": 1}, 422),
        ("steer", "<script>", 422),
        ("edit", {"question": "x", "options": [None]}, 422),
        ("edit", {"question": "x", "options": [None] * 3}, 422),
        ("edit", {"question": "", "options": [None] * 4}, 422),
        ("edit", {"question": "x" * 50_000, "options": [None] * 4}, 422),
        ("keep", {"question": "x", "options": [None] * 4, "author": "k", "entry_id": "../../x"}, 422),
        ("keep", {"question": "x", "options": [None] * 4, "author": "k", "entry_id": "12345678", "answer": "Z"}, 422),
    ],
)
def test_values_that_cannot_be_are_refused_in_a_sentence(study: OpenStudy, path: str, body: Any, status: int) -> None:
    kept = study.folder / "app" / "edited.jsonl"  # other tests may have kept some
    before = kept.read_bytes() if kept.exists() else None
    with asking(study) as client:
        answer = client.post(f"/1/api/cases/0/{path}", json=body, headers=_headers())
        assert answer.status_code == status and answer.json()["error"]
        assert client.post(f"/1/api/cases/9999/{path}", json=body, headers=_headers()).status_code in (404, 422)
    assert (kept.read_bytes() if kept.exists() else None) == before


def test_more_than_four_waiting_are_told_to_come_again(study: OpenStudy) -> None:
    with asking(study, pause=30) as client:
        statuses = [client.post("/1/api/cases/0/steer", json=STEER, headers=_headers()) for _ in range(7)]
        assert {each.status_code for each in statuses[:4]} == {202} and statuses[-1].status_code == 429
        assert "모델을 기다립니다" in statuses[-1].json()["error"]
        places = [client.get(f"/1/api/steer/{each.json()['id']}").json()["place"] for each in statuses[:5]]
        assert places == [0, 1, 2, 3, 4]
        second = f"/1/api/steer/{statuses[1].json()['id']}"
        assert client.request("DELETE", second, headers=_headers()).json()["state"] == "cancelled"
        assert client.post("/1/api/cases/0/steer", json=STEER, headers=_headers()).status_code == 202


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"origin": "http://evil.example"}, 403), ({WRITE_TOKEN: "wrong"}, 403), ({"content-type": "text/plain"}, 403)],
)
def test_only_a_page_of_this_server_starts_and_cancels(study: OpenStudy, changed: dict[str, str], status: int) -> None:
    with asking(study) as client:
        headers = _headers(**changed)
        assert client.post("/1/api/cases/0/steer", json=STEER, headers=headers).status_code == status
        assert client.request("DELETE", "/1/api/steer/x", headers=headers).status_code == status


def test_a_server_without_a_model_says_what_to_do(study: OpenStudy) -> None:
    client = _client(study, Acting())
    answer = client.post("/1/api/cases/0/steer", json=STEER, headers=_headers())
    assert answer.status_code == 404 and "--no-model" in answer.json()["error"]
    page = client.get(f"/1/cases/0/steer?features={ECG}")
    assert page.status_code == 200 and "--no-model" in page.text and "disabled" in page.text
    assert client.get("/1/cases/0/edit").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/1/cases/0/steer?features=x", 422),
        ("/1/cases/0/steer?features=999999", 404),
        ("/1/cases/0/steer?tokens=999", 422),
        ("/1/cases/9999/steer", 404),
        ("/1/cases/9999/edit", 404),
        ("/1/runs/nothing-here", 404),
    ],
)
def test_addresses_that_mean_nothing_are_pages_that_say_so(study: OpenStudy, path: str, status: int) -> None:
    with asking(study) as client:
        answer = client.get(path)
        assert answer.status_code == status and "LLMXAI" in answer.text


# --- the stream -------------------------------------------------------------------------------------------------------


def _stream(address: str, path: str, **headers: str) -> tuple[int, list[dict[str, Any]]]:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=WAIT / 1000)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    blocks = [block for block in text.split("\n\n") if block.startswith("id:")]
    return answer.status, [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def _started(address: str) -> str:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=WAIT / 1000)
    headers = _headers(origin=address)
    connection.request("POST", "/1/api/cases/0/steer", json.dumps(STEER), headers)
    told = json.loads(connection.getresponse().read())
    connection.close()
    return f"/1/api/steer/{told['id']}/events"


def test_events_are_numbered_and_resumed(fast: Place) -> None:
    address = fast.visit.address
    path = _started(address)
    status, events = _stream(address, path)
    assert status == 200
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    names = [event["event"] for event in events]
    assert names[0] == "queued" and names[-1] == "done" and "baseline" in names and names.count("band") >= 1
    assert names.index("baseline") < names.index("edited") < names.index("band")
    bands = [json.loads(event["data"]) for event in events if event["event"] == "band"]
    assert bands[-1]["k"] == bands[-1]["n"]
    assert _stream(address, path, **{"last-event-id": "3"})[1] == events[3:]
    assert _stream(address, path, **{"last-event-id": str(len(events))})[1] == []
    assert _stream(address, path, **{"last-event-id": "-1 or 1=1"})[1] == events


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example"}, 400),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_a_stream_is_read_by_pages_of_this_server_alone(fast: Place, headers: dict[str, str], status: int) -> None:
    path = _started(fast.visit.address)
    assert _stream(fast.visit.address, path, **headers)[0] == status


def test_readers_of_streams_take_no_thread_from_those_who_read(browser: Any, study: OpenStudy) -> None:
    """Twenty follow one run; eight threads answer the pages."""
    with place(browser, study, pause=0.8) as slow:
        address = slow.visit.address
        path = _started(address)
        followers = [threading.Thread(target=_stream, args=(address, path)) for _ in range(20)]
        for each in followers:
            each.start()
        until(lambda: slow.live._running is not None and slow.live._running._readers == 20)
        connection = HTTPConnection(address.removeprefix("http://"), timeout=WAIT / 1000)
        connection.request("GET", "/1/cases/0")
        assert connection.getresponse().status == 200
        assert slow.live._running is not None  # it runs still
        for each in followers:
            each.join(WAIT / 1000)
