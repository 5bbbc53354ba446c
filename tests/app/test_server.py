"""The server without a browser: who may read and write, what every answer carries, and its description."""

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from sae_lens_med.app.create import THREADS, create_app
from sae_lens_med.app.guard import HEADERS, WRITE_TOKEN
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.settings import Settings
from sae_lens_med.errors import ConfigError
from tests.app.conftest import serving
from tests.app.reading_study import ECG, PRESSURE, V4R, N, number_of

LABEL = {"label": "심전도", "author": "tester", "revision": 0, "entry_id": "0123456789abcdef"}


@pytest.fixture(scope="module")
def ask(study: OpenStudy) -> Any:
    """Asks an application with these settings, by the address that it goes by."""
    usual = Settings()
    apps = {id(usual): create_app([study], usual)}

    def asked(
        path: str,
        *,
        method: str = "GET",
        settings: Settings | None = None,
        headers: dict[str, str] | None = None,
        **how: Any,
    ) -> Any:
        app = apps.get(id(settings or usual)) or create_app([study], settings)
        # In a thread of its own: the browser's tests leave a loop running in this one.
        client = TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False, follow_redirects=False)
        return client.request(method, path, headers=headers or {}, **how)

    return asked


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/1/cases", 200),
        ("/static/app.css", 200),
        ("/openapi.json", 200),
        ("/nothing", 404),
        ("/static/../create.py", 404),
        ("/static/..%2fcreate.py", 404),
        ("/1/cases?page=x", 422),
        ("/1/api/cases/77777", 404),
        ("/1/cases/0/", 404),
        ("/docs", 404),
        ("/redoc", 404),
    ],
)
def test_every_answer_carries_the_policy(ask: Any, path: str, status: int) -> None:
    answer = ask(path)
    if answer.status_code == 307:
        answer = ask(answer.headers["location"].replace("http://127.0.0.1:8000", ""))
        status = 200
    assert answer.status_code == status
    for name, value in HEADERS.items():
        assert answer.headers[name] == value


def test_a_foreign_name_is_refused(ask: Any) -> None:
    for host, status in {
        "evil.example": 400, "127.0.0.1.nip.io": 400, "127.0.0.1.nip.io:8000": 400, "": 400,
        "localhost:8000": 200, "127.0.0.1": 200, "[::1]:8000": 200, "[::1]": 200,
    }.items():  # fmt: skip
        answer = ask("/1/cases", headers={"host": host})
        assert answer.status_code == status, host
        assert ("V4R" in answer.text) == (status == 200)


def test_another_address_needs_the_token_and_shows_nothing_without(ask: Any) -> None:
    settings = Settings(host="0.0.0.0")
    assert len(settings.token) >= 32
    refused = ask("/1/cases", settings=settings)
    assert refused.status_code == 401 and "V4R" not in refused.text and "made-by-hand" not in refused.text
    assert ask("/1/cases?token=wrong", settings=settings).status_code == 401
    assert ask("/static/app.css", settings=settings).status_code == 200  # what the refusal is dressed in
    assert ask("/1/api/cases/0", settings=settings).json().keys() == {"error"}
    answer = ask(f"/1/cases?text=x&token={settings.token}", settings=settings)
    assert answer.status_code == 303 and answer.headers["location"] == "/1/cases?text=x"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    name, value = answer.headers["set-cookie"].split(";")[0].split("=", 1)
    assert ask("/1/cases", settings=settings, headers={"cookie": f"{name}={value}"}).status_code == 200
    assert settings.token in settings.url(1) and "token" not in Settings().url(1)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": None}, 403),
        ({"origin": None, "sec-fetch-site": "same-origin"}, 404),
        ({"content-type": "text/plain"}, 403),
        ({WRITE_TOKEN: "wrong"}, 403),
        ({}, 404),
    ],
)
def test_only_a_page_of_this_server_may_write(ask: Any, changed: dict[str, str | None], status: int) -> None:
    settings = Settings()
    headers = {"origin": "http://127.0.0.1:8000", "content-type": "application/json", WRITE_TOKEN: settings.write_token}
    sent = {name: value for name, value in (headers | changed).items() if value is not None}
    # Of a feature that is not there, so that nothing is written even where it may be.
    answer = ask(
        "/1/api/features/99999/label", method="POST", settings=settings, headers=sent, content=json.dumps(LABEL)
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_a_page_gives_away_the_token_of_its_process_alone(ask: Any) -> None:
    settings = Settings()
    assert settings.write_token in ask("/1/cases", settings=settings).text
    assert settings.write_token != Settings().write_token


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"port": 70_000}, "a port is"),
        ({"host": "a b"}, "no address"),
        ({"host": "0.0.0.0", "token": "short"}, "32 characters"),
        ({"page_size": 0}, "page_size"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(**wrong)


def test_languages_by_address_cookie_and_browser(ask: Any) -> None:
    def language(path: str = "/1/cases", **headers: str) -> str:
        return re.findall(r'<html lang="(\w+)"', ask(path, headers=headers).text)[0]

    assert language() == "ko"
    assert language(**{"accept-language": "en-GB,en;q=0.9,ko;q=0.8"}) == "en"
    assert language(**{"accept-language": "fr, ko;q=0.5, en;q=0.1"}) == "ko"
    assert language(**{"accept-language": "en", "cookie": "llmxai-lang=ko"}) == "ko"
    assert language("/1/cases?lang=en", **{"cookie": "llmxai-lang=ko"}) == "en"
    assert language("/1/cases?lang=xx") == "ko"


def test_pages_are_small(ask: Any) -> None:
    for path in ("/1/cases", "/1/cases/0?view=researcher", f"/1/features/{ECG}", "/1/study", "/1/search?q=심전도"):
        assert len(ask(path).content) <= 150_000, path
    assert len(ask(f"/1/cases/{number_of('long')}").content) <= 500_000


def test_json_and_page_say_the_same(ask: Any, study: OpenStudy) -> None:
    case = ask("/1/api/cases/0").json()
    assert case == json.loads(json.dumps(study.case(0, "activation", 5).to_dict()))
    shared = next(group for group in case["groups"] if group["kind"] == "shared")
    assert {ECG, V4R} <= {feature["name"]["index"] for feature in shared["features"]}
    paint = ask(f"/1/api/cases/0/paint?feature={PRESSURE}").json()["paint"]
    stem = case["parts"][0]
    words = {stem["text"][s["start"] : s["end"]] for p in paint for s in [stem["segments"][p["segment"]]]}
    assert words == {"혈압"}
    assert ask("/1/api/cases?answer=none").json()["total"] == 1
    assert ask("/1/api/cases?text=심전도").json()["total"] >= N // 2


def test_links_keep_the_filters_and_forms_send_them(ask: Any) -> None:
    page = ask("/1/cases/2?text=신부전&answer=wrong&view=researcher").text
    after = re.findall(r'rel="next" href="([^"]+)"', page.split("<body>")[1])[0].replace("&amp;", "&")
    assert "answer=wrong" in after and "view=researcher" in after and "text=%EC" in after
    number = int(re.findall(r"cases/(\d+)", after)[0])
    assert "신부전" in ask(f"/1/api/cases/{number}").json()["parts"][0]["text"]


def test_what_is_measured_of_the_instrument_is_what_its_benchmark_found(study: OpenStudy) -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "organisms.json"
    sheet = json.loads(results.read_text(encoding="utf-8"))["sheet"]["natural"]
    packaged = Path(sys.modules["sae_lens_med"].__file__ or "").parent / "app" / "instrument.json"
    shown = json.loads(packaged.read_text(encoding="utf-8"))
    assert shown["rows"]
    for row in shown["rows"]:
        sides = [sheet[name][row["value"]] for name in ("concepts", "shortcut")]
        assert row["claims"] == [side["claims"] for side in sides]
        assert {side["organisms"] for side in sides} == {shown["organisms"]}


def test_serving_loads_no_torch(study_folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sae_lens_med.app.create import THREADS, create_app
from sae_lens_med.app.opened import OpenStudy
from starlette.testclient import TestClient
client = TestClient(create_app([OpenStudy.open(Path({str(study_folder)!r}))]), base_url="http://127.0.0.1")
steered = "/1/cases/0/steer?features={ECG}"
for path in ("/1/cases", "/1/cases/0", "/1/features/{ECG}", "/1/search?q=a", "/1/study", steered, "/1/cases/0/edit"):
    assert client.get(path).status_code == 200, path
print([m for m in ("torch", "transformers", "sae_lens", "datasets") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_what_is_described_is_what_is_answered(study: OpenStudy) -> None:
    """Schemathesis, by its own generator, against the description."""
    schemathesis = pytest.importorskip("schemathesis", reason="the description is tested with schemathesis")
    from hypothesis import HealthCheck, Phase, given, seed, settings

    chosen = Settings()
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app([study], chosen), headers={"host": "127.0.0.1"})
    headers = {"host": "127.0.0.1", "origin": "http://127.0.0.1", WRITE_TOKEN: chosen.write_token}
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    asked = 0
    for operation in (each.ok() for each in schema.get_all_operations()):

        @seed(0)
        @settings(
            max_examples=8,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
            database=None,
        )
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            nonlocal asked
            asked += 1
            if case.method.upper() == "POST":
                case.path_parameters["slot"] = 2  # where there is no study, so that nothing is written
            case.call_and_validate(headers=headers, checks=checks)

        holds()
    assert asked > 40


def test_a_crowd_of_readers_is_answered_by_eight_threads(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread keeps memory of its own: with forty the server held twice what it holds with eight."""
    study, entered, go_on = OpenStudy.open(study_folder), [], threading.Event()

    def slow(query: str, limit: int = 30) -> tuple[()]:  # noqa: ARG001 - as OpenStudy.search
        entered.append(query)
        go_on.wait(20)
        return ()

    monkeypatch.setattr(study, "search", slow)
    with serving([study], Settings()) as address, ThreadPoolExecutor(20) as readers:
        asked = [readers.submit(urlopen, f"{address}/1/api/search?q=reader{i}", timeout=30) for i in range(20)]
        try:
            began = time.monotonic()
            while len(entered) < THREADS and time.monotonic() - began < 20:
                time.sleep(0.05)
            time.sleep(0.5)  # in which the others would come in, too
            at_once = len(entered)
        finally:
            go_on.set()
        assert [each.result().status for each in asked] == [200] * 20
    assert at_once == THREADS == 8 and len(entered) == 20


@pytest.mark.parametrize("path", ["/1/cases", "/1/cases/0", "/static/app.css", "/1/api/cases", "/nothing"])
def test_head_is_get_without_the_body(ask: Any, path: str) -> None:
    got, head = ask(path), ask(path, method="HEAD")
    assert head.status_code == got.status_code
    assert head.content == b""
    assert got.content
    assert {name: head.headers[name] for name in (*HEADERS, "content-type", "content-length")} == {
        name: got.headers[name] for name in (*HEADERS, "content-type", "content-length")
    }


@pytest.mark.parametrize(
    ("path", "name", "korean", "english"),
    [
        ("/1/cases/0?at=x%20y", "at", "“stem:12”처럼", "its part and a number"),
        ("/1/cases?page=x", "page", "정수가 아닙니다", "no whole number"),
        ("/1/cases?page=0", "page", "1 이상이어야", "1 or more"),
        ("/1/cases?sort=size", "sort", "다음 중 하나여야", "one of"),
        ("/1/cases/0?whole=perhaps", "whole", "true 또는 false", "true or false"),
        (f"/1/search?q={'x' * 201}", "q", "200자 이하", "at most 200 characters"),
        ("/1/cases/99999999999999999999", "number", "2147483647 이하", "2147483647 or less"),
    ],
)
def test_a_value_that_cannot_be_used_is_said_in_the_language_of_the_page(
    ask: Any, path: str, name: str, korean: str, english: str
) -> None:
    for code, said in (("ko", korean), ("en", english)):
        answer = ask(path, headers={"accept-language": code})
        assert answer.status_code == 422
        page = answer.text
        assert f"{name}: " in page
        assert said in page
        assert not re.search(r"\\w|\^|should (be|match)|Input", page), "words of the library"


def test_what_was_written_wrongly_is_said_field_by_field(ask: Any) -> None:
    settings = Settings()
    headers = {"origin": "http://127.0.0.1:8000", WRITE_TOKEN: settings.write_token, "accept-language": "ko"}
    body = {**LABEL, "author": " ", "revision": "0", "colour": "red"}
    answer = ask("/1/api/features/1/label", method="POST", settings=settings, headers=headers, json=body)
    assert answer.status_code == 422
    said = answer.json()["error"]
    assert all(part in said for part in ("author: ", "revision: 정수가 아닙니다.", "colour: 없는 항목입니다."))
    assert "JSON" in ask(
        "/1/api/features/1/label", method="POST", settings=settings, content=b"{",
        headers={**headers, "content-type": "application/json"},
    ).json()["error"]  # fmt: skip
