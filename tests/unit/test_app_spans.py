"""What is painted is what was run: tokens of the prompt and of the masked explanation, in the item's own characters."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.app.spans import Layout, lay_out, segments
from sae_lens_med.app.text import cut, visible
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.features.store import TEXTS
from sae_lens_med.records import PARTS, McqItem
from tests.app_study import collected, make_items

SHOTS = [
    McqItem("shot", "doctor", "ko", "환자는 발열로 왔다. 치료는?", ("아스피린", "수액"), 0, "수액이 아니다.", "expert"),
]


def shown(layout: Layout, part: int, segment: int) -> str:
    """The characters of a segment, cut as a browser would: in UTF-16 code units."""
    found = layout.parts[part].segments[segment]
    return layout.parts[part].text.encode("utf-16-le")[2 * found.start : 2 * found.end].decode("utf-16-le")


WORDS = st.sampled_from(
    [
        *(
            "환자는",
            "발열과",
            "혈압",
            "82/50",
            "V4R",
            "ST분절",
            "당뇨병이",
            "흉통으로",
            "왔다.",
            "the",
            "patient",
            "fever",
        ),
        *(
            unicodedata.normalize("NFD", "심전도에서"),
            "résumé",
            "e\u0301te",
            "👩🏽‍⚕️",
            "𝒳",
            "☝️",
            "10㎎",
            "℃",
            "\u3000",
            "  ",
        ),
        *("정답은", "A.", "B번이", "(C)", "①", "…", "아니다,"),
    ]
)
SENTENCE = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
OPTION = st.lists(WORDS, min_size=1, max_size=3).map(" ".join).filter(str.strip)


@st.composite
def items(draw: st.DrawFn) -> McqItem:
    question = draw(SENTENCE.filter(str.strip))
    options = draw(st.lists(OPTION, min_size=2, max_size=5))
    pieces = draw(st.lists(st.one_of(SENTENCE, st.sampled_from(options), st.just(question)), min_size=1, max_size=5))
    explanation = draw(st.sampled_from([" ", "\n", ""])).join(pieces)
    language = draw(st.sampled_from(["ko", "en"]))
    lead = draw(st.sampled_from(["", "  ", "\n"]))
    has_one = bool(explanation.strip())
    return McqItem(
        "q", "s", language, lead + question, tuple(options), 0, explanation if has_one else None,
        "expert" if has_one else None,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(items(), st.booleans())
def test_a_token_covers_the_characters_that_it_was_run_with(item: McqItem, after_shots: bool) -> None:
    part = collected(item, SHOTS if after_shots else [])
    layout = lay_out(item, part)
    assert not layout.problem
    assert [text.key for text in layout.parts][: 1 + len(item.options)] == [
        "stem",
        *(f"option:{letter}" for letter in "ABCDE"[: len(item.options)]),
    ]
    assert [text.text for text in layout.parts] == [
        item.question, *item.options, *([item.explanation] if item.explanation is not None else [])
    ]  # fmt: skip
    acts = part.acts
    wanted = {"stem": "stem", "option": "option:", "explanation": "explanation"}
    for token in range(len(acts.excluded)):
        name = PARTS[acts.token_part[token]]
        run = part.texts["q"][TEXTS[part.token_text[token]]][acts.char_start[token] : acts.char_end[token]]
        places = layout.at.get(token, ())
        if name == "other" or not run.strip():
            assert not places
            continue
        # A token that goes over into the layout ("\nA") belongs to a text with its own characters only.
        text = "".join(shown(layout, number, place) for number, place in places)
        assert text
        assert all(layout.parts[number].key.startswith(wanted[name]) for number, _ in places)
        whole = "".join(text.split())
        assert whole in "".join(run.split()) or "".join(run.split()) in whole
        if name == "explanation":
            begin = min(layout.parts[n].segments[s].start for n, s in places)
            end = max(layout.parts[n].segments[s].end for n, s in places)
            original = layout.parts[places[0][0]].text.encode("utf-16-le")[2 * begin : 2 * end].decode("utf-16-le")
            # What was run stands there, word for word; around it at most the rest of a written character.
            assert run.strip() in original
            if regex.findall(r"\X", original) == list(original):
                assert run.strip() == original


@settings(max_examples=60, deadline=None)
@given(items())
def test_segments_ascend_cut_no_written_character_and_leave_masked_text_alone(item: McqItem) -> None:
    layout = lay_out(item, collected(item, []))
    for text in layout.parts:
        units = np.cumsum([0, *(len(each.encode("utf-16-le")) // 2 for each in regex.findall(r"\X", text.text))])
        bounds = [bound for segment in text.segments for bound in (segment.start, segment.end)]
        assert bounds == sorted(bounds)
        assert set(bounds) <= set(units.tolist())
        assert all(segment.start < segment.end for segment in text.segments)
        for start, end in text.masked:
            assert all(segment.end <= start or segment.start >= end for segment in text.segments)


@given(items())
def test_what_is_masked_is_what_the_model_was_not_shown(item: McqItem) -> None:
    """Without the masked spans, and the placeholders, original and masked text are one text."""
    if item.explanation is None:
        return
    masked = mask_leakage(item)
    kept, left, at = [], [], 0
    for span in masked.originals:
        kept.append(item.explanation[at : span.start])
        at = span.end
    kept.append(item.explanation[at:])
    at = 0
    for span in masked.placeholders:
        left.append(masked.text[at : span.start])
        at = span.end
    left.append(masked.text[at:])
    assert kept == left
    assert len(masked.originals) == len(masked.placeholders)


def test_tokens_of_one_syllable_are_one_segment() -> None:
    """Byte-level tokens: each of a syllable's three carries the whole syllable."""
    item = McqItem("q", "s", "ko", "뷁꿿 왔다?", ("가", "나"), 0)
    part = collected(item, [])
    layout = lay_out(item, part)
    stem = layout.parts[0]
    assert shown(layout, 0, 0) == "뷁"
    assert len(stem.segments[0].tokens) == 3
    assert shown(layout, 0, 1) == "꿿"
    assert not set(stem.segments[0].tokens) & set(stem.segments[1].tokens)


def test_segments_by_hand() -> None:
    text = " ab c\u0301d "
    assert segments(text, [(0, 3, 0), (2, 4, 1), (4, 5, 2), (5, 7, 3), (7, 8, 4)]) == [
        (1, 2, (0,)),
        (2, 3, (0, 1)),
        (4, 6, (2, 3)),  # the accent belongs to the letter before it
        (6, 7, (3,)),
    ]
    assert segments("ab", []) == []
    assert segments("ab", [(0, 0, 0), (1, 1, 1)]) == []


def test_a_segment_is_excluded_when_all_of_its_tokens_are() -> None:
    item = McqItem("q", "s", "ko", "뷁 왔다?", ("가", "나"), 0)
    first = [lay_out(item, collected(item, [])).parts[0].segments[0].tokens][0]
    for excluded in (first, first[:1], ()):
        layout = lay_out(item, collected(item, [], tuple(excluded)))
        assert layout.parts[0].segments[0].excluded == (excluded == first)


def test_texts_that_were_run_in_another_way_have_no_segments() -> None:
    item = McqItem("q", "s", "ko", "환자가 왔다?", ("수액", "안정"), 0, "안정은 아니다. 쇼크이다.", "expert")
    part = collected(item, [])
    other = replace(part, texts={"q": {"question": "Question: 환자가 왔다?", "explanation": "다른 글"}})
    layout = lay_out(item, other)
    assert "another layout" in layout.problem
    assert "masked otherwise" in layout.problem
    assert not layout.at
    assert all(not text.segments and not text.masked for text in layout.parts)
    assert [text.text for text in layout.parts] == [item.question, *item.options, item.explanation]


def test_without_features_the_texts_and_masks_are_shown() -> None:
    item = McqItem("q", "s", "ko", "환자가 왔다?", ("수액", "안정"), 0, "수액은 아니다.", "expert")
    layout = lay_out(item, None)
    assert not layout.problem
    assert layout.parts[-1].masked == ((0, 2),)
    assert not any(text.segments for text in layout.parts)


# --- visible text ---------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_every_character_has_its_place_in_the_visible_text(text: str) -> None:
    found = visible(text)
    raw = found.text.encode("utf-16-le")
    assert len(found.units) == len(text) + 1
    assert int(found.units[-1]) == len(raw) // 2
    for i, character in enumerate(text):
        start, end = found.span(i, i + 1)
        piece = raw[2 * start : 2 * end].decode("utf-16-le")
        if character == "\r" and text[i + 1 : i + 2] == "\n":
            assert piece == ""
        elif unicodedata.category(character) in ("Cc", "Cf") and character not in "\t\n":
            assert piece == character or piece.isprintable()
        else:
            assert piece == character
    # Nothing that a browser drops, rewrites or obeys is left.
    assert not regex.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]", found.text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\0b", "a␀b"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("\x1b[0m", "␛[0m"),
        ("\x7f\x85", "␡⟨U+0085⟩"),
        ("\u202eabc\u202c", "⟨U+202E⟩abc⟨U+202C⟩"),
        ("탭\t줄\n𝒳", "탭\t줄\n𝒳"),
        ("\ud800", "⟨U+D800⟩"),
    ],
)
def test_pictures_and_badges(text: str, wanted: str) -> None:
    assert visible(text).text == wanted


def test_spans_after_a_badge_are_moved() -> None:
    item = McqItem("q", "s", "ko", "가\u202e나\0다𝒳라?", ("수액", "안정"), 0)
    layout = lay_out(item, collected(item, []))
    assert "".join(shown(layout, 0, place) for place in range(len(layout.parts[0].segments))) == layout.parts[0].text
    assert layout.parts[0].text == "가⟨U+202E⟩나␀다𝒳라?"


@pytest.mark.parametrize(("text", "wanted"), [("짧다", "짧다"), ("a  b\nc", "a b c"), ("가" * 12, "가" * 9 + "…")])
def test_excerpts(text: str, wanted: str) -> None:
    assert cut(text, 10) == wanted


def test_tokens_without_characters_are_counted_before_the_text_that_they_were_run_with() -> None:
    item = make_items(1)[0]
    part = collected(item, [])
    last = len(part.token_text) - 1
    assert part.token_text[[0, last]].tolist() == [TEXTS.index("question"), TEXTS.index("explanation")]
    usual = {each.key: each.before for each in lay_out(item, part).parts}
    assert usual == dict.fromkeys(usual, 0) | {"stem": 1, "explanation": 1}, "each text begins with BOS"
    ends = part.acts.char_end.copy()
    ends[[1, last]] = part.acts.char_start[[1, last]]
    found = {
        each.key: each.before for each in lay_out(item, replace(part, acts=replace(part.acts, char_end=ends))).parts
    }
    assert found == usual | {"stem": 2, "explanation": 2}
    assert {each.before for each in lay_out(item, None).parts} == {0}
