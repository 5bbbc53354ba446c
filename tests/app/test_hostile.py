"""Texts and folders that nobody wishes for, and readers whose browser does less, or shows it otherwise."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.settings import Settings
from tests.app.conftest import Visits, painted, serving
from tests.app.reading_study import ECG, HOSTILE, SINK, number_of

AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
PAGES = {
    "list": "/1/cases",
    "case": f"/1/cases/0?feature={ECG}&view=researcher",
    "feature": f"/1/features/{ECG}?back=0",
    "features": "/1/features",
    "search": "/1/search?q=심전도",
    "study": "/1/study",
    "compare": "/compare",
}


def test_markup_in_a_text_is_shown_and_not_run(visit: Visits) -> None:
    page = visit(f"/1/cases/{number_of('script')}")
    assert page.locator('[data-part="stem"]').inner_text() == HOSTILE["script"]
    assert page.locator(".part script, .part b, .part img, .part i").count() == 0


def test_control_characters_are_pictures_and_painting_still_hits_its_words(visit: Visits) -> None:
    page = visit(f"/1/cases/{number_of('controls')}")
    text = page.locator('[data-part="stem"]').evaluate("e => e.textContent")
    assert "널␀문자와" in text and "\u202e" not in text and "U+202E" in text
    data = json.loads(page.locator("#case-data").text_content())
    edges = [sum(data["parts"][0]["segments"][: k + 1]) for k in range(len(data["parts"][0]["segments"]))]
    words = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    assert "혈압은?" in words and "있는" in words


def test_an_option_of_150_000_characters_is_cut_until_it_is_asked_for(visit: Visits) -> None:
    number = number_of("long")
    page = visit(f"/1/cases/{number}")
    option = page.locator('[data-part="option:B"]')
    assert len(option.evaluate("e => e.textContent")) == 20_000
    page.get_by_role("link", name="전체 보기").click()
    assert len(option.evaluate("e => e.textContent")) == 100_001
    assert page.locator("#said").is_visible()


def test_odd_cases_say_what_they_lack(visit: Visits) -> None:
    page = visit(f"/1/cases/{number_of('letters')}")
    assert page.locator(".options li").count() == 26
    page.goto(f"{visit.address}/1/cases/{number_of('unexplained')}")
    assert "이 문항에는 해설이 없습니다" in page.locator(".explained").inner_text()
    assert "비교할 수 없습니다" in page.locator("#said").inner_text()
    page.goto(f"{visit.address}/1/cases/{number_of('ungraded')}")
    assert "정답은 알려져 있지 않습니다" in page.locator("#said").inner_text()
    page.goto(f"{visit.address}/1/cases/{number_of('unanswered')}")
    assert "모델이 답을 고르지 않았습니다" in page.locator("#said").inner_text()
    assert page.locator(".tag.is-model").count() == 0


def test_a_word_that_no_metric_counts_has_a_wavy_line_and_is_never_painted(visit: Visits) -> None:
    page = visit(f"/1/cases/{number_of('letters')}?feature={ECG}&view=researcher")
    assert painted(page) == []  # it fires at no other word of this case
    marked = page.evaluate(
        "Array.from(CSS.highlights.get('excluded')).map(r => r.startContainer.data.slice(r.startOffset, r.endOffset))"
    )
    assert HOSTILE["letters"].count(SINK) == 1 and set(marked) == {SINK}
    line = "e => getComputedStyle(e, '::highlight(excluded)').textDecorationStyle"
    assert page.locator('[data-part="stem"]').evaluate(line) == "wavy"
    assert "물결선" in page.locator(".features-side").inner_text()
    page.goto(f"{visit.address}/1/cases/0?view=researcher")
    assert painted(page) == []
    assert page.evaluate("CSS.highlights.has('excluded')") is False
    assert "물결선" not in page.locator(".features-side").inner_text()


@pytest.mark.parametrize("lost", ["app", "features", "items.jsonl", "metrics.json", "alignment"])
def test_a_folder_without_one_of_its_parts_shows_the_rest_and_says_what_makes_it(
    browser: Any, study_folder: Path, tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder)
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    with serving([OpenStudy.open(folder)], Settings()) as address:
        visits = Visits(browser, address)
        page = visits("/1/study")
        assert "sae-lens-med" in page.locator(".sheet code").first.inner_text()
        paths = ["/1/cases", "/1/cases/0", f"/1/cases/0?feature={ECG}&find=V4R", "/1/features", "/1/search?q=혈압"]
        for path in paths:
            page.goto(address + path)
            assert page.locator("h1").inner_text() != "보일 수 없습니다", path
        page.goto(f"{address}/1/cases/0")
        assert "V4R" in page.locator('[data-part="stem"]').inner_text()
        visits.close()


def test_without_javascript_the_server_paints(visit: Visits) -> None:
    page = visit("/1/cases/0", java_script_enabled=False)
    page.locator(f'a.paint[data-feature="{ECG}"]').first.click()
    marks = page.locator('[data-part="stem"] mark').all_inner_texts()
    assert marks == ["심전도에서"]
    page.get_by_label("이 글자에서 켜진 특징:").fill("V4R")
    page.get_by_role("button", name="찾기").click()
    assert page.locator("#token li").count() > 1
    page.goto(f"{visit.address}/1/cases")
    page.get_by_role("searchbox").fill("심전도")
    page.get_by_role("button", name="보기").click()
    assert page.locator("table.cases tbody tr").count() > 5


def test_marks_of_the_server_and_highlights_of_the_browser_are_the_same(visit: Visits) -> None:
    plain = visit(f"/1/cases/0?feature={ECG}", java_script_enabled=False)
    marks = [
        (part, mark.inner_text(), int(mark.get_attribute("class")[1:]))
        for part in ("stem", "explanation")
        for mark in plain.locator(f'[data-part="{part}"] mark').all()
    ]
    page = visit(f"/1/cases/0?feature={ECG}")
    highlights = [each for each in painted(page) if each[0] in ("stem", "explanation")]
    assert sorted(marks) == sorted(highlights) and marks


def test_a_browser_without_highlights_paints_with_marks(visit: Visits) -> None:
    page = visit("/1/cases/1")
    context = page.context
    context.add_init_script("delete window.Highlight;")
    page.goto(f"{visit.address}/1/cases/0")
    page.locator(f'a.paint[data-feature="{ECG}"]').first.focus()
    assert page.locator('[data-part="stem"] mark').all_inner_texts() == ["심전도에서"]
    page.keyboard.press("Escape")
    assert page.locator('[data-part="stem"] mark').count() == 0


def test_a_case_can_be_read_and_painted_by_keyboard_alone(visit: Visits) -> None:
    page = visit("/1/cases/0")
    page.locator('[data-part="stem"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    cursor = page.evaluate(
        "Array.from(CSS.highlights.get('cursor')).map(r => r.startContainer.data.slice(r.startOffset, r.endOffset))"
    )
    assert cursor == ["남성이"]
    page.keyboard.press("Enter")
    page.locator("#token li").first.wait_for()
    page.locator("a.paint").first.focus()
    before = page.evaluate("document.activeElement.dataset.feature")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.feature") != before
    page.keyboard.press("Space")
    page.wait_for_selector("#painted:not([hidden])")
    page.keyboard.press("j")
    page.wait_for_url("**/1/cases/1*")


def test_letters_as_keys_can_be_switched_off(visit: Visits) -> None:
    page = visit("/1/cases/0")
    page.get_by_role("button", name="단축키").click()
    page.get_by_label("글자 단축키 사용").uncheck()
    page.get_by_role("button", name="닫기").click()
    page.keyboard.press("j")
    page.wait_for_timeout(300)
    assert page.url.endswith("/1/cases/0")


@pytest.mark.parametrize("locale", ["ko-KR", "en-GB"])
@pytest.mark.parametrize(
    ("size", "scale"), [((1280, 800), 1), ((640, 400), 2), ((390, 844), 1), ((1920, 1000), 1)], ids=str
)
def test_nothing_is_wider_than_its_window(visit: Visits, size: tuple[int, int], scale: int, locale: str) -> None:
    """200 % zoom is half the window at twice the density."""
    page = visit("/1/cases/0", size=size, device_scale_factor=scale, locale=locale)
    for path in PAGES.values():
        page.goto(visit.address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path


def test_on_a_narrow_screen_the_painted_texts_stay_above_the_features(visit: Visits) -> None:
    page = visit("/1/cases/0?view=researcher", size=(390, 844))
    page.get_by_role("button", name="모델 안의 특징").click()
    last = page.locator('[data-group="expert"] a.paint').last
    last.click()
    assert page.evaluate("scrollY") > 400
    for part in ("stem", "explanation"):
        box = page.locator(f'[data-part="{part}"]').bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 844 / 2
    hidden = page.evaluate("""() => {
      const box = document.querySelector('.texts').getBoundingClientRect();
      return [...document.querySelectorAll('.feature a')].filter(a => {
        a.focus();
        const own = a.getBoundingClientRect();
        return own.top < box.bottom || own.bottom > innerHeight;
      }).length;
    }""")
    assert hidden == 0


def test_a_text_that_scrolls_is_moved_to_where_the_chosen_feature_fires(visit: Visits) -> None:
    page = visit("/1/cases/0", size=(390, 844))
    page.get_by_role("button", name="모델 안의 특징").click()
    page.locator(f'[data-group="shared"] a.paint[data-feature="{ECG}"]').click()
    seen = page.evaluate("""() => ['stem', 'explanation'].map(part => {
      const box = document.querySelector(`[data-part="${part}"]`).getBoundingClientRect();
      const ranges = [...CSS.highlights.values()].flatMap(each => [...each]);
      return ranges.some(r => {
        if (r.startContainer.parentElement.dataset.part !== part) return false;
        const range = document.createRange();
        range.setStart(r.startContainer, r.startOffset);
        range.setEnd(r.endContainer, r.endOffset);
        const own = range.getBoundingClientRect();
        return own.top >= box.top && own.bottom <= box.bottom;
      });
    })""")
    assert seen == [True, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(visit: Visits, name: str, scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="the audit needs axe-playwright-python")
    source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page = visit(PAGES[name], color_scheme=scheme)
    page.evaluate(source)
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", AXE_TAGS)
    assert [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found["violations"]] == []


def test_forced_colours_leave_the_paint_as_an_underline(visit: Visits) -> None:
    page = visit(f"/1/cases/0?feature={ECG}", forced_colors="active", java_script_enabled=False)
    mark = page.locator('[data-part="stem"] mark').first
    style = """e => [getComputedStyle(e).textDecorationLine, getComputedStyle(e).backgroundColor,
                     getComputedStyle(document.body).backgroundColor]"""
    line, background, page_background = mark.evaluate(style)
    assert line == "underline" and background == page_background


def test_the_theme_and_the_language_that_were_chosen_last(visit: Visits) -> None:
    page = visit("/1/cases/0")
    assert page.locator("html").get_attribute("lang") == "ko"
    page.get_by_role("link", name="English").click()
    page.get_by_role("button", name="Light/dark").click()
    page.goto(f"{visit.address}/1/features")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_a_label_is_written_once_and_a_second_tab_is_told(visit: Visits, study_folder: Path) -> None:
    page, other = visit("/1/features/40"), visit("/1/features/40", errors=True)
    for each in (page, other):
        each.locator("#label-box summary").click()
        each.get_by_label("새 이름").fill("첫째 <b>" if each is page else "둘째")
        each.get_by_label("적은 사람").fill("tester")
    page.get_by_role("button", name="저장").click()
    page.wait_for_selector("#label-now")
    assert page.locator("#label-now").inner_text() == "첫째 <b>"
    assert page.locator("h1").inner_text() == "첫째 <b>"
    other.get_by_role("button", name="저장").click()
    other.get_by_text("그사이 다른 사람이 적었습니다").wait_for()
    assert "첫째" in other.locator("#label-status").inner_text()
    written = (study_folder / "app" / "labels.jsonl").read_text(encoding="utf-8")
    assert written.count("첫째") == 1 and "둘째" not in written


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 404), ("/1/cases/9999", 404), ("/3/cases", 422), ("/1/cases?active=x", 422)]
)
def test_errors_are_pages_in_the_same_dress(visit: Visits, path: str, status: int) -> None:
    page = visit("/1/cases", errors=True)
    answer = page.goto(visit.address + path)
    assert answer.status == status
    assert page.locator("h1").inner_text() == "보일 수 없습니다"
    assert "연구용" in page.locator(".notice").inner_text()


PICTURES = {
    "case-ko-light": (f"/1/cases/0?feature={ECG}&lang=ko", (1280, 800), "light"),
    "case-en-dark": (f"/1/cases/1?feature={ECG}&lang=en&view=researcher", (1280, 900), "dark"),
    "case-390": (f"/1/cases/0?feature={ECG}&lang=ko", (390, 844), "light"),
    "list": ("/1/cases?lang=ko", (1280, 800), "light"),
    "feature": (f"/1/features/{ECG}?lang=ko&back=0", (1280, 1000), "light"),
    "study": ("/1/study?lang=en", (1280, 1200), "light"),
    "compare": ("/compare?lang=ko", (1280, 1000), "dark"),
}


@pytest.mark.skipif("LLMXAI_PICTURES" not in os.environ, reason="LLMXAI_PICTURES names no folder for pictures")
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_for_people(visit: Visits, name: str) -> None:
    path, size, scheme = PICTURES[name]
    page = visit(path, size=size, color_scheme=scheme)
    folder = Path(os.environ["LLMXAI_PICTURES"])
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
