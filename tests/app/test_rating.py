"""Rating in a real browser: by keyboard alone, through a crash, a reload and a second window; nothing of the arms."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import uvicorn

from sae_lens_med.alignment.ratings_file import ARMS, AXES, CLINICIAN_AXES, LAY_AXES, read_ratings
from sae_lens_med.app.create import create_app
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.rating.axes import levels_of
from sae_lens_med.app.settings import Settings
from tests.app.conftest import Visits


class Restarted:
    """A server that can be killed and started again at the same address, each time with another write token."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.sent: dict[str, bytes] = {}
        """By address, everything that was answered there, headers too."""
        self.start()

    def start(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen()
        self.port = listening.getsockname()[1]
        app = create_app([OpenStudy.open(self.folder)], Settings())

        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                if scope["type"] == "http":
                    told = message.get("body", b"") + b" ".join(b": ".join(pair) for pair in message.get("headers", ()))
                    self.sent[scope["path"]] = self.sent.get(scope["path"], b"") + told
                await send(message)

            await app(scope, receive, sent)

        self._server = uvicorn.Server(uvicorn.Config(recorded, log_level="critical", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def rated_folder(study_folder: Path, tmp_path: Path) -> Path:
    """A copy of the study that nobody has rated."""
    return copytree(study_folder, tmp_path / "rated", ignore=lambda _, names: [n for n in names if n == "ratings"])


@pytest.fixture
def crashing(rated_folder: Path) -> Iterator[Restarted]:
    server = Restarted(rated_folder)
    yield server
    server.kill()


@pytest.fixture
def rate(browser: Any, crashing: Restarted) -> Iterator[Visits]:
    visits = Visits(browser, crashing.address)
    yield visits
    visits.close()


def _begin(page: Any, rater: str = "r1", role: str = "clinician") -> None:
    page.get_by_label("가명").fill(rater)
    page.locator(f'[name="role"][value="{role}"]').check()
    page.get_by_role("button", name="평가 시작").click()
    page.locator("#rate-form").wait_for()
    # The script sets the focus where the first answer belongs; a key that comes before has no question.
    page.wait_for_function("() => document.getElementById('rate-form').contains(document.activeElement)")


def _unit(page: Any) -> str:
    return page.locator("#rate-form").get_attribute("data-unit")


def _saved(page: Any, n: int = 12, of: int = 12) -> None:
    text = f"저장됨 · {n} / {of}"
    page.wait_for_function("text => document.getElementById('rate-status').textContent === text", arg=text)


def _log(folder: Path, rater: str = "r1") -> list[dict[str, Any]]:
    text = (folder / "app" / "ratings" / f"{rater}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _next(page: Any, unit: str) -> None:
    page.keyboard.press("Enter")
    page.wait_for_function("unit => document.getElementById('rate-form')?.dataset.unit !== unit", arg=unit)
    page.wait_for_load_state()


def _answer(seen: dict[tuple[str, str], str], unit: str, digits: str) -> None:
    for axis, digit in zip(CLINICIAN_AXES, digits, strict=True):
        seen[unit, axis] = levels_of(axis)[int(digit) - 1]


def test_ten_units_by_keyboard_with_a_crash_a_reload_and_a_second_window(
    rate: Visits, crashing: Restarted, rated_folder: Path, tmp_path: Path
) -> None:
    """Story 5 of the clinician: at most 14 key presses a unit, nothing is lost and nothing doubled."""
    page = rate("/1/rate", errors=True)  # a server that is down is an error that browsers log
    _begin(page)
    seen: dict[tuple[str, str], str] = {}
    for n in range(10):
        unit, presses = _unit(page), 0
        digits = "".join(str(1 + (n + k) % min(2, len(levels_of(axis)))) for k, axis in enumerate(CLINICIAN_AXES))
        for k, digit in enumerate(digits):
            if n == 3 and k == 5:  # a reload between two answers
                _saved(page, 5)
                page.reload()
                assert page.locator(".axis-asked input:checked").count() == 5
            if n == 5 and k == 4:  # the server dies; what is answered meanwhile waits, through a reload too
                _saved(page, 4)
                crashing.kill()
            if n == 5 and k == 8:
                page.wait_for_function("() => document.getElementById('rate-status').textContent.includes('4개를')")
                crashing.start()
            page.keyboard.press(digit)
            presses += 1
        _answer(seen, unit, digits)
        if n == 7:  # a second window of the same rater shows what the first one has answered
            _saved(page)
            second = page.context.new_page()
            second.goto(f"{rate.address}/1/rate/r1?unit={unit}")
            assert second.locator(".axis-asked input:checked").count() == 12
            second.close()
        _next(page, unit)
        assert presses + 1 <= 14
    lines = _log(rated_folder)
    clicks = lines[1:]
    assert len(clicks) == len({each["id"] for each in clicks}) == 120, "nothing is lost or doubled"
    assert {(each["unit"], each["axis"]): each["rating"] for each in clicks} == seen
    assert all(each["revision"] == 1 and each["seconds"] >= 0 and each["arm"] in ARMS for each in clicks)
    told = {path: body.decode() for path, body in crashing.sent.items() if "/rate" in path and "static" not in path}
    assert {"/1/rate", "/1/rate/r1", "/1/api/rate", "/1/api/rate/r1"} == set(told)
    for path, text in told.items():
        for word in (*ARMS, "drawn_from", "drawn_arm", "prediction", "probability", r"case-\d\d\d"):
            assert not re.search(rf"\b{word}\b", text), (path, word)
    page.goto(f"{rate.address}/1/rate")
    assert "10 / " in page.locator("tbody tr").first.inner_text()
    with page.expect_download() as download:
        page.evaluate("location.assign('/1/files/ratings.jsonl')")
    file = tmp_path / "ratings.jsonl"
    download.value.save_as(file)
    arms = {each["unit"]: (each["item"], each["arm"]) for each in clicks}
    found = {(r.item, r.arm, r.axis): r.value for r in read_ratings(file)}
    assert found == {
        (*arms[unit], axis): AXES[axis].index(level) / (len(AXES[axis]) - 1) for (unit, axis), level in seen.items()
    }


def test_an_answer_whose_reply_was_lost_is_sent_again_and_counts_once(
    rate: Visits, crashing: Restarted, rated_folder: Path
) -> None:
    """The server dies after the line was written and before it could say so."""
    page = rate("/1/rate", errors=True)
    _begin(page)

    def dies(route: Any) -> None:
        assert route.fetch().status == 200
        crashing.kill()
        route.abort()

    page.route("**/api/rate/r1", dies, times=1)
    page.keyboard.press("1")
    page.wait_for_function("() => document.getElementById('rate-status').textContent.includes('1개를')")
    assert len(_log(rated_folder)) == 2
    crashing.start()
    _saved(page, 1)
    page.reload()
    _saved(page, 1)
    assert len(_log(rated_folder)) == 2
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('llmxai-rating:')).length") == 0


def test_two_windows_that_differ_are_shown_and_neither_is_written_over(rate: Visits, rated_folder: Path) -> None:
    page = rate("/1/rate", errors=True)
    _begin(page)
    second = page.context.new_page()
    second.goto(page.url)
    page.keyboard.press("1")
    _saved(page, 1)
    second.locator(".axis-asked input").first.focus()
    second.keyboard.press("2")
    clash = second.locator(".clash").first
    second.wait_for_function("() => document.querySelector('.clash').textContent !== ''")
    assert "합의에 부합함" in clash.inner_text() and "합의에 어긋남" in clash.inner_text()
    assert second.locator(".axis-asked input").first.is_checked()
    assert [line["rating"] for line in _log(rated_folder)[1:]] == ["aligned with consensus"]
    second.locator(".axis-asked input").first.focus()
    second.keyboard.press("2")
    _saved(second, 1)
    assert [(line["rating"], line["revision"]) for line in _log(rated_folder)[1:]] == [
        ("aligned with consensus", 1),
        ("opposed to consensus", 2),
    ]


def test_thirty_ratings_by_keyboard_and_a_changed_mind(rate: Visits, rated_folder: Path) -> None:
    """Digits act in a group alone, arrows and Space as in any browser; the last answer counts."""
    page = rate("/1/rate")
    _begin(page)
    for n in range(30):
        unit = _unit(page)
        page.keyboard.press("2" if n % 3 else "1")
        if n % 12 == 11:
            _next(page, unit)
    page.keyboard.press("ArrowDown")
    _saved(page, 7)
    assert len(_log(rated_folder)) == 32
    page.locator("h1").click()
    page.keyboard.press("1")
    page.wait_for_timeout(200)
    assert len(_log(rated_folder)) == 32, "a digit outside of a group does nothing"


def test_people_without_training_are_asked_two_questions(rate: Visits, rated_folder: Path) -> None:
    page = rate("/1/rate", locale="en-GB")
    page.get_by_label("Pseudonym").fill("lay-1")
    page.get_by_label("not trained in medicine").check()
    page.get_by_role("button", name="Start").click()
    page.locator("#rate-form").wait_for()
    unit = _unit(page)
    assert page.locator(".axis-asked").count() == 2
    assert "Very helpful" in page.locator(".levels").nth(1).inner_text()
    page.keyboard.press("1")
    page.keyboard.press("3")
    _next(page, unit)
    assert {line["axis"]: line["rating"] for line in _log(rated_folder, "lay-1")[1:]} == {
        "lay_intent": "address query",
        "lay_helpfulness": "not helpful",
    }
    assert set(LAY_AXES) == {"lay_intent", "lay_helpfulness"}


def test_a_pseudonym_in_another_role_is_refused_and_remembered_in_its_own(rate: Visits) -> None:
    page = rate("/1/rate", errors=True)
    _begin(page)
    page.goto(f"{rate.address}/1/rate")
    assert page.get_by_label("가명").input_value() == "r1"
    page.locator('[name="role"][value="lay"]').check()
    page.get_by_role("button", name="평가 시작").click()
    page.wait_for_function("() => document.getElementById('join-status').textContent.includes('r1')")


@pytest.mark.parametrize("path", ["/1/rate", "/1/rate/r1", "/1/agreement"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(rate: Visits, path: str, scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="the audit needs axe-playwright-python")
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page = rate("/1/rate", color_scheme=scheme)
    _begin(page)
    page.keyboard.press("1")
    _saved(page, 1)
    page.goto(rate.address + path)
    page.evaluate(source)
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"])
    assert [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found["violations"]] == []


@pytest.mark.parametrize(("size", "scale"), [((1280, 800), 1), ((640, 400), 2), ((390, 844), 1)], ids=str)
def test_nothing_is_wider_than_its_window(rate: Visits, size: tuple[int, int], scale: int) -> None:
    page = rate("/1/rate", size=size, device_scale_factor=scale)
    _begin(page)
    for path in ("/1/rate", "/1/rate/r1", "/1/agreement"):
        page.goto(rate.address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
