"""What the pages say and with which colours: texts in both languages, sentences on a case, the palette."""

import re
import warnings
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest

import sae_lens_med
from sae_lens_med.app import heat
from sae_lens_med.app.figures import inline, table
from sae_lens_med.app.sentences import NEAR, Calibration, case_sentences
from sae_lens_med.app.strings import STRINGS
from sae_lens_med.app.texts import script_json, shown
from sae_lens_med.app.views import Alignment, CaseRow, CaseView, Group, Option, PaintedSegment, PartText, Segment
from sae_lens_med.records import ItemResult

PACKAGE = Path(sae_lens_med.__file__).parent
TEMPLATES = sorted((PACKAGE / "templates" / "app").glob("*.j2"))
MODULES = [path for path in sorted((PACKAGE / "app").rglob("*.py")) if path.parent.name != "strings"]


def _keys_used() -> tuple[set[str], set[str]]:
    """Keys that templates and modules name, and beginnings of those that they put together."""
    whole: set[str] = set()
    begun: set[str] = set()
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        whole |= set(re.findall(r'\bs\(\s*"([^"]+)"\s*[,)]', text))
        begun |= set(re.findall(r'\bs\(\s*"([^"]+)"\s*~', text))
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        whole |= {key for key in re.findall(r'"([\w.-]+)"', text) if key in STRINGS}
        whole |= set(re.findall(r'(?<![.\w])text\("([^"]+)"', text))
        begun |= {key for key in re.findall(r'f"([a-z._]+\.)\{', text) if any(k.startswith(key) for k in STRINGS)}
    return whole, begun


def test_every_text_that_is_used_is_there_and_none_is_left_over() -> None:
    whole, begun = _keys_used()
    assert whole - set(STRINGS) == set()
    assert {begin for begin in begun if not any(key.startswith(begin) for key in STRINGS)} == set()
    unused = {key for key in STRINGS if key not in whole and not key.startswith(tuple(begun))}
    assert {key for key in unused if not key.startswith("missing.")} == set()


@pytest.mark.parametrize("key", STRINGS)
def test_a_text_is_in_both_languages_with_the_same_places(key: str) -> None:
    korean, english = STRINGS[key]
    assert korean.strip() and english.strip()
    places = [{name for _, name, _, _ in Formatter().parse(each) if name} for each in (korean, english)]
    assert places[0] == places[1]
    assert re.search("[가-힣]", korean) or not re.search("[a-z]{3}", korean), "the Korean text is not Korean"
    assert not re.search("[가-힣]", english)


# --- colours --------------------------------------------------------------------------------------------------------


def _linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _luminance(linear: np.ndarray) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear)


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1."""
    low, high = sorted((_luminance(_linear(one)), _luminance(_linear(other))))
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_painted_text_can_be_read_and_the_steps_be_told_apart(theme: int) -> None:
    palette = (heat.LIGHT, heat.DARK)[theme]
    assert len(palette) == heat.STEPS
    assert all(_contrast(colour, heat.TEXT[theme]) >= 4.5 for colour in palette)
    assert _contrast(palette[-1], heat.PAGE[theme]) >= 3
    assert _contrast(heat.LINES[theme], heat.PAGE[theme]) >= 3
    direction = -1 if theme == 0 else 1
    for see in (np.eye(3), *DEFICIENCIES.values()):
        seen = [_luminance(np.clip(see @ _linear(colour), 0, 1)) for colour in palette]
        assert all(direction * (b - a) > 0 for a, b in zip(seen, seen[1:], strict=False))


def test_the_style_sheet_has_the_colours_that_the_palette_was_measured_on() -> None:
    css = (PACKAGE / "app" / "static" / "app.css").read_text(encoding="utf-8")
    assert f"--bg: light-dark({heat.PAGE[0]}, {heat.PAGE[1]})" in css
    assert f"--fg: light-dark({heat.TEXT[0]}, {heat.TEXT[1]})" in css


def test_colours_of_text_have_contrast_in_both_themes() -> None:
    css = (PACKAGE / "app" / "static" / "app.css").read_text(encoding="utf-8")
    pairs = {m[1]: (m[2], m[3]) for m in re.finditer(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)}
    for name in ("fg", "muted", "a", "good", "bad"):
        for ground in ("bg", "card", "warn-bg", "pick"):
            for theme in (0, 1):
                assert _contrast(pairs[name][theme], pairs[ground][theme]) >= 4.5, (name, ground, theme)
    for theme in (0, 1):
        assert _contrast(pairs["edge"][theme], pairs["bg"][theme]) >= 3


def test_a_step_is_an_eighth_of_the_maximum() -> None:
    assert [heat.step(value, 8.0) for value in (0.0, 0.001, 1.0, 1.001, 4.0, 7.999, 8.0, 9.0)] == [
        0, 1, 1, 2, 4, 8, 8, 8,
    ]  # fmt: skip
    assert heat.step(1.0, 0.0) == 0


# --- texts ----------------------------------------------------------------------------------------------------------


def test_pieces_put_together_are_the_text_and_count_as_a_browser_does() -> None:
    text = "가😀나 다"  # the emoji is two units of UTF-16
    found = heat.pieces(text, [(1, 3, 2.0), (5, 6, 8.0)], 8.0)
    assert "".join(piece.text for piece in found) == text
    assert [(piece.text, piece.step) for piece in found] == [("가", 0), ("😀", 2), ("나 ", 0), ("다", 8)]


def test_a_long_text_is_cut_with_its_segments() -> None:
    part = PartText(
        "stem", "가나다라", (Segment(0, 1, (0,)), Segment(1, 3, (1,)), Segment(3, 4, (2,))), masked=((0, 4),)
    )
    painted = (PaintedSegment("stem", 0, 1.0), PaintedSegment("stem", 2, 1.0), PaintedSegment("other", 1, 1.0))
    found = shown(part, 2, painted, 1.0)
    assert ("".join(piece.text for piece in found.pieces), found.cut, found.length) == ("가나", True, 4)
    assert found.segments == part.segments[:1] and found.masked == ()


def test_json_in_a_page_cannot_end_its_script() -> None:
    text = script_json({"x": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert "\\u003c/script\\u003e" in text


def test_figures_in_a_page_hold_no_style_and_keep_their_marks() -> None:
    drawn = inline(
        '<svg xmlns="http://www.w3.org/2000/svg"><style>svg{}</style><path d="M0" style="fill: #112233; stroke: none"/>'
        '<text style="font: bold 9px sans-serif; text-anchor: end">&lt;x&gt;</text></svg>'
    )
    assert "style" not in drawn
    assert (
        'fill="#112233"' in drawn and 'font-size="9"' in drawn and 'text-anchor="end"' in drawn and "&lt;x&gt;" in drawn
    )


def test_a_table_holds_no_formula() -> None:
    assert table(["a", "b"], [["=1+1", -0.5], ["@x", None]]) == "a,b\n'=1+1,-0.5\n'@x,\n"


# --- sentences ------------------------------------------------------------------------------------------------------


def _case(**row: Any) -> CaseView:
    values = {"prediction": "B", "gold": "A", "correct": False, "reason": None, "margin": 0.2} | row
    line = CaseRow(0, "q", "s", "ko", "t", difference=0.1, **values)
    groups = (Group("shared", 3, ()), Group("model", 7, ()), Group("expert", 2, ()))
    options = (Option("A", None, predicted=False, gold=True), Option("B", None, predicted=True, gold=False))
    return CaseView(line, (), options, "expert", Alignment(0.5, 0.4, 2, 9), groups, "activation")


def test_what_is_shared_is_never_said_to_be_the_reason() -> None:
    for sentence in case_sentences(_case(), Calibration((), ()))[1:]:
        assert "does not show that the model answered by it" in sentence.en
        assert "그것으로 답했다는 뜻은 아닙니다" in sentence.ko
        assert "3" in sentence.en and "3개" in sentence.ko


@pytest.mark.parametrize(
    ("row", "english"),
    [
        ({}, "The model chose B; A is right."),
        ({"prediction": "A", "correct": True}, "The model chose A, which is right."),
        ({"gold": None, "correct": None}, "The model chose B; the right answer is not known."),
        ({"prediction": None, "reason": "truncated"}, "The model chose no option; A is right. Counted as wrong."),
    ],
)
def test_the_first_sentence_says_what_was_chosen_and_what_is_right(row: dict[str, Any], english: str) -> None:
    assert case_sentences(_case(**row), Calibration((), ()))[0].en == english


def test_confidence_stands_beside_how_often_it_was_right() -> None:
    """60 cases: the unsure ones always wrong, the sure ones always right."""
    results = {}
    for i in range(60):
        sure = i >= 30
        logprobs = (-0.05, -4.0) if sure else (-0.69, -0.70 - 0.001 * i)
        results[f"q{i}"] = ItemResult(f"q{i}", "s", "A", "A" if sure else "B", logprobs, sure)
    calibration = Calibration.of(results)
    assert calibration.near(0.0) == (0, NEAR)
    assert calibration.near(0.96) == (NEAR, NEAR)
    assert f"right in 0 of {NEAR}" in case_sentences(_case(margin=0.001), calibration)[1].en
    few = Calibration.of(dict(list(results.items())[: NEAR - 1]))
    assert few.near(0.0) is None


def test_a_png_is_in_korean_only_where_a_font_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    from sae_lens_med.app import figures
    from sae_lens_med.languages import ENGLISH, KOREAN, Language
    from sae_lens_med.plots.style import new_axes, own_settings

    asked: list[Language] = []

    def draw(language: Language) -> Axes:
        asked.append(language)
        with own_settings():
            (axes,) = new_axes(1, 1, 2.0, 1.0)
        axes.set_title("가" if language is KOREAN else "a")
        return axes

    for font, drawn in ((None, ENGLISH), ("DejaVu Sans", KOREAN)):
        monkeypatch.setattr(figures, "hangul_font", lambda font=font: font)
        assert figures.png_language(KOREAN) is drawn
        assert figures.png_language(ENGLISH) is ENGLISH
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that no font has
        assert figures.png(draw, KOREAN).startswith(b"\x89PNG")
    assert asked == [figures.png_language(KOREAN)]
