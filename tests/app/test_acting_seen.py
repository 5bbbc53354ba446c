"""The pages on which people act, as those see them who see otherwise: forced colours, 200 % zoom, a telephone.

Steering and edited questions after a run, rating, agreement of two raters, proposed labels; in both languages.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.app.live.routes import Acting
from sae_lens_med.app.live.runs import Live
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.app.rating.axes import levels_of
from sae_lens_med.app.rating.desk import Desk
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.views import Proposal
from tests import fake_model
from tests.app.conftest import Visits, serving
from tests.app.reading_study import ECG, RENAL, V4R
from tests.app.test_hostile import AXE_TAGS
from tests.app.test_steering import run_and_wait

TIME = "2026-11-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def acted(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the study that two people have rated in part, and for which labels are proposed."""
    folder = tmp_path_factory.mktemp("acted") / "study"
    shutil.copytree(study_folder, folder)
    for name in ("labels.jsonl", "proposed.jsonl", "edited.jsonl"):
        (folder / "app" / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "app" / "ratings", ignore_errors=True)
    long = "흉통이 있는 환자의 심전도에서 아래벽 유도와 우측 흉부 유도에 ST분절 상승이 함께 있다는 소견"
    Proposals(folder / "app" / "proposed.jsonl").add(
        [
            Proposal("a" * 32, ECG, long, "Qwen/Qwen3-235B-A22B-Instruct-2507", "judge", TIME, 0.9, 0.55, 20, 4),
            Proposal("b" * 32, ECG, "x" * 120, "writer", "writer", TIME, 0.5, None, 20, 0),
            Proposal("c" * 32, RENAL, "신부전", "writer", "judge", TIME, None, None, 0, 0),
        ]
    )
    desk = Desk(OpenStudy.open(folder))
    for k, rater in enumerate(("r1", "a-pseudonym-of-32-letters-in-all")):
        desk.join(rater, "clinician")
        for n in range(8):
            unit = desk.desk(rater).unit
            assert unit is not None
            for m, asked in enumerate(unit.axes):
                levels = levels_of(asked.axis)
                level, click = levels[(n * k + m) % len(levels)], f"{rater[:2]}-{n}-{m}-id"
                desk.rate(rater, unit.unit, asked.axis, level, 0, 30.0, click)
    return folder


@pytest.fixture(scope="module")
def address(acted: Path) -> Iterator[str]:
    live = Live(fake_model.command())
    with serving([OpenStudy.open(acted)], Settings(), Acting(live)) as found:
        yield found
        live.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visits]:
    visits = Visits(browser, address)
    yield visits
    visits.close()


def _edited(page: Any) -> None:
    page.get_by_label(re.compile("^(질문|Question)$")).fill("혈압이 낮은 환자가 아니다. 처치는?")
    page.get_by_label(re.compile("^(선택지|Option) C$")).fill("좁은 화면에서 줄이 바뀔 만큼 긴 선택지")
    run_and_wait(page)
    page.locator("#keep-form").wait_for()


def _opened(page: Any) -> None:
    for each in page.locator("details").all():
        each.evaluate("e => { e.open = true; }")


PAGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "steer": (f"/1/cases/0/steer?features={ECG},{V4R}:amplify:2&view=researcher", run_and_wait),
    "edit": ("/1/cases/0/edit", _edited),
    "rate": ("/1/rate", _opened),
    "unit": ("/1/rate/r1", _opened),
    "agreement": ("/1/agreement", _opened),
    "feature": (f"/1/features/{ECG}", _opened),
    "proposed": ("/1/proposed", _opened),
}
SIZES = {"zoomed": ((640, 400), 2), "telephone": ((390, 844), 1), "wide": ((1280, 800), 1)}
each_page = pytest.mark.parametrize("name", PAGES)


def _page(visit: Visits, name: str, **how: Any) -> Any:
    path, act = PAGES[name]
    page = visit(path, **how)
    act(page)
    return page


def _axe(page: Any) -> list[Any]:
    package = pytest.importorskip("axe_playwright_python", reason="the audit needs axe-playwright-python")
    page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", AXE_TAGS)
    return [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found["violations"]]


@each_page
@pytest.mark.parametrize("locale", ["ko-KR", "en-GB"])
@pytest.mark.parametrize("size", ["zoomed", "telephone"])
def test_nothing_is_wider_than_its_window(visit: Visits, name: str, locale: str, size: str) -> None:
    """200 % zoom is half the window at twice the density. A table may scroll in a box of its own."""
    window, scale = SIZES[size]
    page = _page(visit, name, size=window, device_scale_factor=scale, locale=locale)
    cut = page.evaluate("""() => [...document.querySelectorAll('main *')].filter(e => {
      const own = e.getBoundingClientRect();
      return own.width && own.right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('.sr') && e.offsetParent;
    }).map(e => e.outerHTML.slice(0, 120))""")
    assert cut == []
    assert page.evaluate("document.documentElement.scrollWidth") <= window[0]


@each_page
@pytest.mark.parametrize("size", SIZES)
def test_what_has_the_focus_is_never_covered(visit: Visits, name: str, size: str) -> None:
    """Tab through the page: of each stop some part is seen, whatever stays in place while the page scrolls."""
    window, scale = SIZES[size]
    page = _page(visit, name, size=window, device_scale_factor=scale)
    page.locator(".skip").focus()  # the first stop
    stops, covered = 0, []
    for _ in range(120):
        page.keyboard.press("Tab")
        seen = page.evaluate("""() => {
          const e = document.activeElement;
          if (!e || e === document.body) return null;
          const own = e.getBoundingClientRect(), xs = [0.1, 0.5, 0.9], found = [];
          for (const fx of xs) for (const fy of xs) {
            const x = own.left + fx * own.width, y = own.top + fy * own.height;
            const top = x >= 0 && y >= 0 && x < innerWidth && y < innerHeight && document.elementFromPoint(x, y);
            if (top && (e.contains(top) || top.contains(e) && !top.matches('.rate-end'))) found.push(1);
          }
          return [found.length, e.outerHTML.slice(0, 120)];
        }""")
        if seen is None:
            break
        stops += 1
        if not seen[0]:
            covered.append(seen[1])
    assert stops > 5 and covered == []


@each_page
def test_forced_colours_leave_nothing_out_that_colour_says(visit: Visits, name: str) -> None:
    page = _page(visit, name, forced_colors="active")
    assert _axe(page) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    fills = "e => getComputedStyle(e).fill"
    if name in ("steer", "edit"):
        bars = page.locator("#found svg.bars").first
        before, after = (bars.locator(f".{side}").evaluate(fills) for side in ("before", "after"))
        assert len({before, after, ground}) == 3
        legend = page.locator("#found .legend")
        assert (legend.locator(".before").evaluate(fills), legend.locator(".after").evaluate(fills)) == (before, after)
        if name == "steer":
            band = page.locator("#found svg.bars .band").first.evaluate("e => getComputedStyle(e).stroke")
            assert band not in (ground, "none") and band != after
    if name == "edit":
        line = "e => getComputedStyle(e).textDecorationLine"
        assert page.locator("#found del").first.evaluate(line) == "line-through"
        assert page.locator("#found ins").first.evaluate(line) == "underline"
    if name == "unit":
        page.locator(".axis-asked input").first.focus()
        outline = "e => [getComputedStyle(e).outlineStyle, getComputedStyle(e).outlineColor]"
        style, colour = page.locator(".axis-asked").first.evaluate(outline)
        assert style == "solid" and colour != ground
        assert page.locator(".axis-asked").nth(1).evaluate(outline)[0] == "none"
    if name in ("feature", "proposed"):
        badge = page.locator(".badge, .proposals a").first
        assert badge.evaluate("e => getComputedStyle(e).color") != ground


@each_page
def test_the_focus_is_seen_where_colours_are_forced(visit: Visits, name: str) -> None:
    page = _page(visit, name, forced_colors="active")
    page.locator(".skip").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        width, style = page.locator(":focus").evaluate(
            "e => [getComputedStyle(e).outlineWidth, getComputedStyle(e).outlineStyle]"
        )
        assert style != "none" and float(width.removesuffix("px")) >= 1


PICTURES = {
    "ko-light": {"size": (1280, 900), "locale": "ko-KR", "color_scheme": "light"},
    "en-dark": {"size": (1280, 900), "locale": "en-GB", "color_scheme": "dark"},
    "390": {"size": (390, 844), "locale": "ko-KR"},
    "zoomed": {"size": (640, 400), "device_scale_factor": 2, "locale": "ko-KR"},
    "forced": {"size": (1280, 900), "locale": "ko-KR", "forced_colors": "active"},
}


@pytest.mark.skipif("LLMXAI_PICTURES" not in os.environ, reason="LLMXAI_PICTURES names no folder for pictures")
@each_page
@pytest.mark.parametrize("dress", PICTURES)
def test_pictures_for_people(visit: Visits, name: str, dress: str) -> None:
    page = _page(visit, name, **PICTURES[dress])
    folder = Path(os.environ["LLMXAI_PICTURES"])
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}-{dress}.png", full_page=dress != "zoomed")
