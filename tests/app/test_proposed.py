"""Accepting and rejecting what a model has proposed: by the JSON door, and in a browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sae_lens_med.app.create import create_app
from sae_lens_med.app.export import export_study
from sae_lens_med.app.guard import WRITE_TOKEN
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.views import Proposal
from tests.app.conftest import Visits, serving
from tests.app.reading_study import ECG, PRESSURE, RENAL
from tests.app.test_hostile import AXE_TAGS

ORIGIN = "http://127.0.0.1:8000"
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def _proposal(name: str, feature: int, label: str, **changed: Any) -> Proposal:
    values: dict[str, Any] = {
        "model": "writer-1", "judge": "judge-2", "time": "2026-11-01T00:00:00+00:00",
        "score": 0.9, "null": 0.55, "pieces": 20, "foreign": 4,
    }  # fmt: skip
    return Proposal(id=name, feature=feature, label=label, **values | changed)


@pytest.fixture
def own(study_folder: Path, tmp_path: Path) -> Path:
    """A copy of the study with three proposals, one of them hostile."""
    folder = tmp_path / "own"
    shutil.copytree(study_folder, folder)
    for name in ("labels.jsonl", "proposed.jsonl"):
        (folder / "app" / name).unlink(missing_ok=True)
    Proposals(folder / "app" / "proposed.jsonl").add(
        [
            _proposal(A, ECG, "심전도 소견"),
            _proposal(B, ECG, "<b>bold</b> \u202eturned", model="writer <i>", judge="writer <i>", null=None, foreign=0),
            _proposal(C, RENAL, "신부전", score=None, null=None, pieces=0, foreign=0),
        ]
    )
    return folder


@pytest.fixture
def ask(own: Path) -> Any:
    settings = Settings()
    client = TestClient(create_app([OpenStudy.open(own)], settings), ORIGIN, raise_server_exceptions=False)
    headers = {"origin": ORIGIN, "content-type": "application/json", WRITE_TOKEN: settings.write_token}

    def asked(feature: int, proposal: str, **changed: Any) -> Any:
        body = {"decision": "accepted", "author": "kim", "revision": 0, "entry_id": "0123456789abcdef"} | changed
        return client.post(f"/1/api/features/{feature}/proposals/{proposal}", json=body, headers=headers)

    asked.get = client.get  # type: ignore[attr-defined]
    asked.client = client  # type: ignore[attr-defined]
    return asked


def test_an_accepted_proposal_becomes_the_label_of_who_accepted_it(ask: Any) -> None:
    assert ask.get(f"/1/api/features/{ECG}").json()["name"]["label"] is None
    assert "심전도 소견" not in ask.get("/1/cases/0").text
    answer = ask(ECG, A)
    assert answer.status_code == 200 and answer.json()["decision"] == "accepted" and answer.json()["revision"] == 1
    feature = ask.get(f"/1/api/features/{ECG}").json()
    assert feature["name"]["label"] == "심전도 소견"
    (label,) = feature["labels"]
    assert (label["author"], label["source"], label["revision"]) == ("kim", "judge", 1)
    assert "심전도 소견" in ask.get("/1/cases/0").text
    page = ask.get(f"/1/features/{ECG}?lang=en").text
    assert "proposed by a model, accepted" in page and "Proposals that were decided on" in page
    assert [each["id"] for each in ask.get("/1/api/proposals").json()["proposals"]] == [B, C]


def test_a_click_that_is_sent_again_is_one_decision_and_another_ones_is_told(ask: Any) -> None:
    first, again = ask(ECG, A), ask(ECG, A)
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert len(ask.get(f"/1/api/features/{ECG}").json()["labels"]) == 1
    late = ask(ECG, A, decision="rejected", author="lee", entry_id="fedcba9876543210")
    assert late.status_code == 409 and "kim 님이" in late.json()["error"]
    # Somebody has written a label since the page was loaded: nothing is decided.
    stale = ask(ECG, B, author="lee", entry_id="fedcba9876543211")
    assert stale.status_code == 409 and "새로운 이름" in stale.json()["error"]
    assert [each["id"] for each in ask.get("/1/api/proposals").json()["proposals"]] == [B, C]
    assert ask(ECG, B, author="lee", entry_id="0123456789abcdef").status_code == 409
    assert ask(RENAL, C, entry_id="0123456789abcdef").status_code == 409
    assert ask(ECG, B, author="lee", revision=1, entry_id="fedcba9876543212").status_code == 200


def test_a_rejected_proposal_is_no_label(ask: Any) -> None:
    answer = ask(RENAL, C, decision="rejected")
    assert answer.status_code == 200 and answer.json()["revision"] is None
    feature = ask.get(f"/1/api/features/{RENAL}").json()
    assert feature["name"]["label"] is None and feature["labels"] == []
    assert feature["proposals"][0]["author"] == "kim"


@pytest.mark.parametrize(
    ("feature", "proposal", "changed", "status"),
    [
        (ECG, "d" * 32, {}, 404),
        (PRESSURE, A, {}, 404),
        (99_999, A, {}, 404),
        (ECG, "..", {}, 405),
        (ECG, "A" * 32, {}, 422),
        (ECG, A, {"decision": "perhaps"}, 422),
        (ECG, A, {"author": " "}, 422),
        (ECG, A, {"revision": False}, 422),
        (ECG, A, {"more": 1}, 422),
        (ECG, A, {"entry_id": "x"}, 422),
    ],
)
def test_what_cannot_be_decided_is_refused_and_nothing_is_written(
    ask: Any, own: Path, feature: int, proposal: str, changed: dict[str, Any], status: int
) -> None:
    before = (own / "app" / "proposed.jsonl").read_bytes()
    assert ask(feature, proposal, **changed).status_code == status
    assert (own / "app" / "proposed.jsonl").read_bytes() == before
    assert not (own / "app" / "labels.jsonl").exists()


def test_only_a_page_of_this_server_may_decide(ask: Any) -> None:
    body = {"decision": "accepted", "author": "kim", "revision": 0, "entry_id": "0123456789abcdef"}
    answer = ask.client.post(
        f"/1/api/features/{ECG}/proposals/{A}", json=body, headers={"origin": "http://evil.example"}
    )
    assert answer.status_code == 403


def test_a_folder_of_files_shows_proposals_as_proposed_without_buttons(own: Path, tmp_path: Path) -> None:
    export_study(OpenStudy.open(own), tmp_path / "pages", most_features=30)
    page = (tmp_path / "pages" / "en" / f"feature-{ECG}.html").read_text(encoding="utf-8")
    assert "Proposed labels" in page and "심전도 소견" in page and '<button type="button" class="first"' not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "\u202e" not in page
    assert "proposed.js" not in page


@pytest.fixture
def open_page(browser: Any, own: Path) -> Iterator[Visits]:
    with serving([OpenStudy.open(own)], Settings()) as address:
        visits = Visits(browser, address)
        yield visits
        visits.close()


def test_a_reader_accepts_one_and_rejects_one(open_page: Visits, own: Path) -> None:
    page = open_page("/1/features")
    page.get_by_role("link", name="결정을 기다리는 제안 3개").click()
    page.get_by_role("link", name="심전도 소견").click()
    page.get_by_role("button", name="이름으로 받아들이기: 심전도 소견").click()
    page.get_by_text("결정하는 사람의 이름을 먼저 적어 주세요.").wait_for()
    assert page.evaluate("document.activeElement.id") == "proposed-author"
    page.keyboard.type("김 의사")
    page.get_by_role("button", name="이름으로 받아들이기: 심전도 소견").click()
    page.locator("#label-now", has_text="심전도 소견").wait_for()
    assert page.locator("h1").inner_text() == "심전도 소견"
    page.wait_for_function("document.getElementById('proposed-author').value === '김 의사'")  # when its script has run
    page.get_by_role("button", name="물리치기: <b>bold</b>").press("Enter")
    page.locator("#proposed").wait_for(state="detached")
    page.get_by_text("결정된 제안").click()
    assert page.get_by_text("<b>bold</b>").is_visible() and page.get_by_text("물리침").is_visible()
    study = OpenStudy.open(own)
    assert study.names.labels.current(ECG) == "심전도 소견"
    assert {each.id: each.decision for each in study.proposals.all()} == {A: "accepted", B: "rejected", C: None}


def test_a_second_tab_is_told_what_somebody_else_decided(open_page: Visits, own: Path) -> None:
    page, other = open_page(f"/1/features/{ECG}"), open_page(f"/1/features/{ECG}", errors=True)
    for each, author in ((page, "kim"), (other, "lee")):
        each.locator("#proposed-author").fill(author)
    page.get_by_role("button", name="물리치기: 심전도 소견").click()
    page.get_by_text("결정된 제안").wait_for()
    other.get_by_role("button", name="이름으로 받아들이기: 심전도 소견").click()
    other.get_by_text(re.compile("kim 님이 .* 물리쳤습니다")).wait_for()
    assert OpenStudy.open(own).names.labels.current(ECG) is None


def test_without_javascript_proposals_are_read(open_page: Visits) -> None:
    page = open_page(f"/1/features/{ECG}", java_script_enabled=False)
    assert page.get_by_text("심전도 소견", exact=True).is_visible()
    assert not page.get_by_role("button", name="받아들이기").count()
    assert (
        "결정하려면 자바스크립트가 필요합니다." in page.content()
    )  # in <noscript>, which browsers under test leave unread


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [f"/1/features/{ECG}", "/1/proposed"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    open_page: Visits, path: str, scheme: str, width: int
) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="the audit needs axe-playwright-python")
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page = open_page(path, color_scheme=scheme, size=(width, 844))
    page.evaluate(source)
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", AXE_TAGS)
    assert [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
