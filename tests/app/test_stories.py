"""What a clinician and a researcher come to do, each within its limit of actions, in a real browser."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.app.export import export_study
from sae_lens_med.app.opened import OpenStudy
from tests.app.conftest import Visits, painted
from tests.app.reading_study import ECG, LEAD, V4R


class Actions:
    """Counts what a reader does."""

    def __init__(self, most: int) -> None:
        self.most, self.done = most, 0

    def __call__(self, act: Any) -> Any:
        self.done += 1
        assert self.done <= self.most, f"more than {self.most} actions"
        return act()


def _paint(page: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part, text, _ in painted(page):
        found.setdefault(part, set()).add(text)
    return found


def _search(page: Any, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    page.get_by_role("searchbox").press("Enter")


# --- clinician ------------------------------------------------------------------------------------------------------


def test_a_clinician_finds_a_wrong_case_and_reads_what_was_chosen_and_what_is_right(visit: Visits) -> None:
    page, act = visit("/"), Actions(3)
    act(lambda: _search(page, "심전도"))
    page.wait_for_url("**text=**")
    act(lambda: page.get_by_role("link", name="오답", exact=False).first.click())
    page.wait_for_url("**answer=wrong**")
    act(lambda: page.locator("table.cases a").first.click())
    said = page.locator("#said")
    said.wait_for()
    assert re.search(r"오답.*모델의 선택은 ([A-Z]), 정답은 ([A-Z])입니다", said.inner_text().replace("\n", " "))
    for seen in (said, page.locator(".tag.is-gold"), page.locator(".tag.is-model"), page.locator(".explained .part")):
        box = seen.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + min(box["height"], 40) <= 800
    assert page.evaluate("scrollY") == 0


def test_a_clinician_sees_where_the_model_looks_by_focusing_a_feature(visit: Visits) -> None:
    page, act = visit("/1/cases/0"), Actions(1)
    shared = page.locator('[data-group="shared"] a.paint')
    words = {ECG: "심전도", V4R: "V4R", LEAD: "V4R"}

    def painted_is_the_word_of(link: Any) -> None:
        word, found = words[int(link.get_attribute("data-feature"))], _paint(page)
        assert {"stem", "explanation"} <= set(found)
        assert all(text.startswith(word) for part in ("stem", "explanation") for text in found[part])

    act(lambda: shared.first.focus())
    painted_is_the_word_of(shared.first)
    assert "함께 켜진" in page.locator("#said").inner_text()
    assert "그것으로 답했다는 뜻은 아닙니다" in page.locator("#said").inner_text()
    for k in range(3):
        shared.nth(k).hover()
        painted_is_the_word_of(shared.nth(k))
    page.mouse.move(0, 0)
    assert _paint(page) == {}


def test_a_second_feature_has_a_dotted_line_while_the_first_stays_painted(visit: Visits) -> None:
    page = visit(f"/1/cases/0?feature={ECG}")
    first = _paint(page)
    assert first
    page.locator(f'a.paint[data-feature="{V4R}"]').first.hover()
    assert _paint(page) == first
    text_of = "r => r.startContainer.data.slice(r.startOffset, r.endOffset)"
    assert set(page.evaluate(f"Array.from(CSS.highlights.get('second') || []).map({text_of})")) == {"V4R"}
    line = "e => getComputedStyle(e, '::highlight(second)').textDecorationStyle"
    assert page.locator('[data-part="stem"]').evaluate(line) == "dotted"
    assert "V4R" in page.locator("#live").inner_text()
    page.mouse.move(0, 0)
    assert page.evaluate("CSS.highlights.has('second')") is False
    assert _paint(page) == first


def test_a_clinician_follows_a_feature_to_other_cases_and_comes_back(visit: Visits) -> None:
    page, act = visit("/1/cases/0"), Actions(3)
    row = page.locator("li.feature", has=page.locator(f'a.paint[data-feature="{ECG}"]')).first
    act(lambda: row.get_by_role("link", name="자세히").click())
    others = page.locator("table.cases a")
    others.first.wait_for()
    assert others.count() >= 3
    act(lambda: others.nth(1).click())
    page.locator(".case").wait_for()
    act(lambda: page.go_back())
    page.get_by_role("link", name="문항 1 로 돌아가기").click()
    page.wait_for_selector("#painted:not([hidden])")
    assert page.url.endswith(f"/1/cases/0?feature={ECG}")
    assert "심전도에서" in _paint(page)["stem"]


def test_what_is_painted_is_what_the_page_names_and_its_links_keep(visit: Visits) -> None:
    page = visit(f"/1/cases/0?feature={ECG}")
    page.locator(f'a.paint[data-feature="{V4R}"]').first.click()
    assert "V4R" in page.locator("#painted-name").inner_text()
    assert f"/features/{V4R}?" in page.locator("#painted-more").get_attribute("href")
    page.get_by_role("link", name="English").click()
    page.wait_for_url("**lang=en**")
    assert {text for _, text, _ in painted(page)} == {"V4R"}


# --- researcher -----------------------------------------------------------------------------------------------------


def test_a_researcher_goes_from_a_number_to_a_case_that_lowers_it(visit: Visits) -> None:
    page, act = visit("/1/cases?view=researcher"), Actions(3)
    act(lambda: page.get_by_role("link", name="연구 결과").click())
    act(lambda: page.get_by_role("link", name="이 값을 가장 낮추는 문항").first.click())
    page.wait_for_url("**sort=difference**")
    column = page.locator("table.cases tbody tr td:last-child").all_inner_texts()
    values = [float(text) for text in column if text != "–"]
    assert values == sorted(values) and len(values) > 10
    act(lambda: page.locator("table.cases a").first.click())
    page.locator(".case").wait_for()
    assert page.locator("html").get_attribute("data-view") == "researcher"


def test_a_researcher_finds_features_by_word_and_concept_and_sorts_them(visit: Visits) -> None:
    page, act = visit("/1/search"), Actions(4)
    act(lambda: _search(page, "신부전"))
    page.locator(".hits li").first.wait_for()
    kinds = {text.split("\n")[0] for text in page.locator(".hits li").all_inner_texts()}
    assert {"개념", "낱말", "문항"} <= kinds
    act(lambda: page.get_by_role("link", name="특징", exact=True).click())
    act(lambda: page.get_by_role("link", name="AUROC 순").click())
    page.wait_for_url("**order=auroc**")
    scores = [float(t) for t in page.locator("tbody tr td:nth-child(6)").all_inner_texts() if t != "–"]
    assert scores == sorted(scores, reverse=True) and len(scores) >= 2
    act(lambda: page.locator("tbody tr a").nth(1).click())
    page.locator("#h-concepts").wait_for()


def test_a_researcher_asks_what_fires_at_a_word_and_hands_the_view_on(visit: Visits) -> None:
    page, act = visit("/1/cases/0?view=researcher&scale=text"), Actions(3)
    act(lambda: (page.get_by_label("이 글자에서 켜진 특징:").fill("V4R"), page.keyboard.press("Enter")))
    listed = page.locator("#token li a")
    listed.first.wait_for()
    order = [int(link.get_attribute("data-feature")) for link in listed.all()]
    assert {V4R, LEAD} <= set(order)
    values = dict(zip(order, map(float, page.locator("#token li .n").all_inner_texts()), strict=True))
    assert values[V4R] > values[LEAD]
    act(lambda: page.locator(f'#token li a[data-feature="{V4R}"]').click())
    page.wait_for_selector("#painted:not([hidden])")
    permalink = page.url
    assert page.locator("#permalink").get_attribute("href") == permalink
    shown = _paint(page)

    again = visit(permalink)
    again.wait_for_selector("#painted:not([hidden])")
    assert _paint(again) == shown
    assert again.locator("#scale").get_attribute("data-scale") == "text"
    assert again.locator("html").get_attribute("data-view") == "researcher"
    assert again.locator("#token").is_visible()


def test_a_researcher_compares_two_studies_and_saves_figure_and_table(visit: Visits) -> None:
    page, act = visit("/1/cases"), Actions(4)
    act(lambda: page.get_by_role("link", name="두 연구 비교").click())
    page.wait_for_url("**/compare")
    heads = page.locator("thead th").all_inner_texts()
    assert "first" in heads and "second" in heads and sum("귀무" in head for head in heads) == 2
    assert page.locator("figure svg desc").text_content() != ""
    with page.expect_download() as saved:
        act(lambda: page.get_by_role("link", name="SVG").click())
    assert Path(saved.value.path()).read_text(encoding="utf-8").startswith("<svg")
    with page.expect_download() as saved:
        act(lambda: page.get_by_role("link", name="CSV").click())
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"))))
    shown = page.locator("tbody tr").first.locator("td").first.inner_text()
    assert rows and f"{float(rows[0]['first: value']):.4f}" == shown


# --- from disk ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported(study: OpenStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "pages"
    export_study(study, folder, most_features=30)
    return folder


def test_the_pages_of_an_export_open_from_disk_with_painting_and_search(visit: Visits, exported: Path) -> None:
    page = visit((exported / "ko" / "case-0.html").as_uri())
    assert "모델의 선택은" in page.locator("#said").inner_text()
    page.locator(f'a.paint[data-feature="{ECG}"]').first.focus()
    assert "심전도에서" in _paint(page)["stem"]
    page.get_by_role("link", name="검색").click()
    _search(page, "V4R")
    page.locator("#hits li").first.wait_for()
    kinds = {text.split("\n")[0] for text in page.locator(".hits li").all_inner_texts()}
    assert kinds == {"특징", "문항"}
    page.locator("#hits a").first.click()
    page.locator("#h-contexts").wait_for()
    page.get_by_role("link", name="English").click()
    page.wait_for_url("**/en/**")
    page.get_by_role("link", name="Study").click()
    page.locator("figure svg").first.wait_for()


def test_every_link_of_an_export_leads_to_a_file_of_it(exported: Path) -> None:
    pages = list(exported.rglob("*.html"))
    assert len(pages) > 150
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) <= 500_000, path
        assert 'type="module"' not in text
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            file = target.split("?")[0].split("#")[0]
            if file and not file.startswith("data:"):
                assert (path.parent / file).exists(), f"{path.name} links to {target}"


def test_an_export_never_replaces_anything(study: OpenStudy, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(Exception, match="holds something already"):
        export_study(study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
