"""Concepts in text: the matcher against a slow reading of its rules, and tables of Korean and English cases."""

import re
import time
import unicodedata
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.concepts import particles
from sae_lens_med.concepts.matching import ConceptMatcher, Mention, mentions_in_spans
from sae_lens_med.concepts.sets import Concept, ConceptSet, load_lexicon
from sae_lens_med.errors import ConfigError, DataError, MissingExtraError
from sae_lens_med.records import Span

FORMS = {
    "aids": ("AIDS",),
    "biopsy": ("biopsy", "생검"),
    "chest-pain": ("chest pain", "흉통", "가슴 통증"),
    "diabetes": ("당뇨병", "diabetes"),
    "headache": ("두통",),
    "hypertension": ("고혈압", "hypertension"),
    "pulmonary-hypertension": ("폐 고혈압",),
    "metastasis": ("metastasis",),
    "mri": ("MRI",),
    "pain": ("pain", "통증"),
    "skin": ("피부", "skin"),
    "ulcer": ("ulcer", "궤양"),
    "vitamin-d": ("비타민 D", "vitamin D"),
    "x-ray": ("X-ray", "X선"),
}
SMALL = ConceptSet(tuple(Concept(name, "any", forms) for name, forms in FORMS.items()), "small")
MATCHER = ConceptMatcher(SMALL)


def _words(text: str) -> list[str]:
    return text.split()


def named(text: str) -> list[tuple[str, str]]:
    return [(mention.concept_id, text[mention.start : mention.end]) for mention in MATCHER.find(text)]


# --- Korean: what may stand before and after --------------------------------------------------------------------------

AFTER = _words("""
은 이 을 과 의 도 만 에 에서 에는 에서도 에서는 으로 으로는 으로도 까지 까지는 부터 보다 보다는 처럼 마다 조차
뿐 이나 이란 이라는 이다 입니다 이며 이고 이므로 이었다 인 일 임 이라면 이지만 인지 하다 하는 하고 한 하여
하였다 했다 합니다 된 되어 되었다
""")
NOT_AFTER = _words("""
병 약 환자 치료 성인병 증 가 를 와 는 로 과장 의학 이상 인자 약물 완화 클리닉 계 실 학 법원 상승 이비인후과
을까지
""")


@pytest.mark.parametrize("rest", ["", *AFTER, "들은", "시", "시에는", "후에", "전", "중", "중에도", "등", "등의", "성"])
def test_particles_and_endings_may_follow(rest: str) -> None:
    assert named(f"심한 두통{rest} 있다") == [("headache", "두통")]


@pytest.mark.parametrize("rest", NOT_AFTER)
def test_a_form_within_a_longer_word_is_no_match(rest: str) -> None:
    assert named(f"심한 두통{rest} 있다") == []


@pytest.mark.parametrize("before", ["편", "긴장성", "비", "제"])
def test_a_form_after_other_syllables_is_no_match(before: str) -> None:
    assert named(f"{before}두통이 있다") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("피부과 의사", []),  # the department: after a vowel "and" is 와
        ("피부와 점막", ["피부"]),
        ("피부가 붉다", ["피부"]),
        ("피부이 붉다", []),
        ("피부로", ["피부"]),
        ("피부으로", []),
        ("피부다", ["피부"]),
        ("두통만으로는", ["두통"]),
        ("두통이었습니다", ["두통"]),
        ("궤양적 변화", ["궤양"]),
        ("고혈압으로", ["고혈압"]),
        ("고혈압로", []),
        ("고 혈압이 있다", ["고 혈압"]),
        ("고혈 압이 있다", ["고혈 압"]),
        ("고 혈 압이 있다", []),  # one space more, not two
        ("그리고 혈압을 쟀다", []),  # 고 belongs to 그리고
        ("두 통의 편지", []),  # two syllables take no space more
        ("가슴 통증이", ["가슴 통증"]),
        ("가슴통증이", ["가슴통증"]),
        ("가 슴통증이", ["가 슴통증"]),
        ("비타민 D를", ["비타민 D"]),
        ("비타민D를", ["비타민D"]),
        ("비타민 DNA", []),
        ("폐고혈압", ["폐고혈압"]),
        ("폐 고혈압과 고혈압", ["폐 고혈압", "고혈압"]),
        ("(고혈압)", ["고혈압"]),
        ("당뇨병·고혈압", ["당뇨병", "고혈압"]),
        ("당뇨병,고혈압.", ["당뇨병", "고혈압"]),
        ("혈청MRI에서", ["MRI"]),
        ("MRI상 정상", ["MRI"]),
        ("5궤양", ["궤양"]),
        ("X선에서", ["X선"]),
        ("두통\n\n", ["두통"]),
        ("고\n\n혈압", []),  # a blank line parts
    ],
)
def test_korean_boundaries_and_spacing(text: str, found: list[str]) -> None:
    assert [form for _, form in named(text)] == found


@pytest.mark.parametrize(
    ("noun", "rest", "ends"),
    [
        ("발", "로", True),
        ("발", "으로", False),
        ("발", "과", True),
        ("발", "와", False),
        ("코", "가", True),
        ("코", "이", False),
        ("코", "입니다", True),
        ("코", "였다", True),
        ("손", "였다", False),
        ("손", "에서의", True),
        ("손", "만을", True),
    ],
)
def test_a_particle_agrees_with_the_last_sound(noun: str, rest: str, ends: bool) -> None:
    assert particles.ends_word(noun, rest) is ends


# --- English ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Chest Pain", ["Chest Pain"]),
        ("chest-pain", ["chest-pain"]),
        ("chest\npain", ["chest\npain"]),
        ("chest\n\npain", ["pain"]),
        ("chestpain", []),
        ("chest pains", ["chest pains"]),
        ("painful", []),
        ("the spain", []),
        ("skinny", []),
        ("foreskin", []),
        ("skin's", ["skin"]),
        ("skin1", []),
        ("skin_graft", ["skin"]),
        ("ulcers", ["ulcers"]),
        ("ulcerative", []),
        ("biopsies", ["biopsies"]),
        ("biopsys", []),
        ("metastases", ["metastases"]),
        ("metastasised", []),
        ("AIDS", ["AIDS"]),
        ("aids the diagnosis", []),  # an acronym is written in capitals
        ("Aids", []),
        ("MRIs", ["MRIs"]),
        ("mri", []),
        ("X-ray", ["X-ray"]),
        ("x rays", ["x rays"]),
        ("xray", []),
        ("non-ulcer dyspepsia", []),
        ("pre-hypertension", []),
        ("pain-ulcer", ["pain", "ulcer"]),
        ("vitamin d", ["vitamin d"]),
        ("HYPERTENSION", ["HYPERTENSION"]),
        ("chest pain and pain", ["chest pain", "pain"]),
        ("", []),
        (" \n- ", []),
    ],
)
def test_english_words(text: str, found: list[str]) -> None:
    assert [form for _, form in named(text)] == found


# --- overlap, spans ---------------------------------------------------------------------------------------------------


def test_the_longest_match_wins_over_an_earlier_one() -> None:
    concepts = ConceptSet(
        (Concept("a", "x", ("alpha beta",)), Concept("b", "x", ("beta gamma delta",)), Concept("c", "x", ("alpha",))),
        "s",
    )
    assert [m.concept_id for m in ConceptMatcher(concepts).find("alpha beta gamma delta")] == ["c", "b"]


def test_concepts_that_share_a_form_are_all_mentioned() -> None:
    concepts = ConceptSet((Concept("b", "x", ("renal failure",)), Concept("a", "x", ("Renal failure",))), "s")
    assert ConceptMatcher(concepts).find("renal failure") == (Mention("a", 0, 13), Mention("b", 0, 13))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_spans_are_of_the_text_as_given(form: Literal["NFC", "NFD"]) -> None:
    text = unicodedata.normalize(form, "café 뒤에 고혈압이 있고 두통은 없다. Skin")
    found = [(m.concept_id, unicodedata.normalize("NFC", text[m.start : m.end])) for m in MATCHER.find(text)]
    assert found == [("hypertension", "고혈압"), ("headache", "두통"), ("skin", "Skin")]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.deferred(lambda: PIECES), max_size=6).map("".join))
def test_decomposed_text_has_the_same_mentions(text: str) -> None:
    apart = unicodedata.normalize("NFD", text)
    found = [(m.concept_id, unicodedata.normalize("NFC", apart[m.start : m.end])) for m in MATCHER.find(apart)]
    assert found == named(text)


def test_a_character_that_folds_to_two_shifts_no_span() -> None:
    text = "Straße İ 두통 pain"
    assert [text[m.start : m.end] for m in MATCHER.find(text)] == ["두통", "pain"]


def test_a_mention_checks_its_span() -> None:
    with pytest.raises(DataError, match="needs 0 <= start < end"):
        Mention("a", 3, 3)


# --- against a slow reading of the rules ------------------------------------------------------------------------------


def _characters(text: str) -> list[tuple[str, str, int]]:
    """(character, what stands before it: "", " " or "|", place) of what is neither white space nor a hyphen."""
    found: list[tuple[str, str, int]] = []
    between = "|"
    for place, character in enumerate(text):
        if character in " \n-":
            between = (between if between != "|" or found else "") + character
        else:
            gap = "" if not between else "|" if not found or "\n\n" in between.replace(" ", "") else " "
            found.append((character, gap, place))
            between = ""
    return found


def _hangul(character: str) -> bool:
    return "가" <= character <= "힣"


def _latin(character: str) -> bool:
    return character.isalnum() and not _hangul(character)


def _spellings(form: str) -> list[str]:
    last = form[-1]
    if not (last.isascii() and last.isalpha()) or any(map(_hangul, form)):
        return [form]
    if form.isupper():
        return [form, form + "s"]
    if form.endswith("is"):
        return [form, form[:-2] + "es"]
    if form.endswith("y") and form[-2] not in "aeiou":
        return [form, form[:-1] + "ies"]
    return [form, form + ("es" if last in "sxz" or form.endswith(("ch", "sh")) else "s")]


def _reads(piece: list[tuple[str, str, int]], spelling: str) -> bool:
    wanted = _characters(spelling)
    exact = spelling.rstrip("s").isupper() and len(spelling) <= 5 and spelling.isalpha()
    if [c if exact else c.casefold() for c, _, _ in piece] != [c if exact else c.casefold() for c, _, _ in wanted]:
        return False
    more = 0
    for place in range(1, len(piece)):
        here, there = piece[place][1], wanted[place][1]
        korean = _hangul(piece[place - 1][0]) + _hangul(piece[place][0])
        if here == "|" or (here != there and not korean):
            return False
        more += korean == 2 and here == " " and there == ""
    return more == 0 or (more == 1 and sum(_hangul(c) for c in spelling) >= 3)


def slow_find(text: str) -> list[Mention]:
    characters = _characters(text)
    found: list[tuple[int, int, str, int]] = []
    for a in range(len(characters)):
        first, gap, place = characters[a]
        if a and not gap and any(same(first) and same(characters[a - 1][0]) for same in (_hangul, _latin)):
            continue
        word = re.findall(r"\w*\Z", text[: place - 1])[0] if place and text[place - 1] == "-" else ""
        if word in ("non", "pre"):
            continue
        for b in range(a + 1, len(characters) + 1):
            rest = ""
            for character, gap, _ in characters[b:]:
                if gap or not _hangul(character):
                    break
                rest += character
            last = characters[b - 1][0]
            if _hangul(last):
                ends = particles.ends_word(last, rest)
            else:
                ends = b == len(characters) or bool(characters[b][1]) or not (_latin(last) and _latin(characters[b][0]))
            if ends:
                for concept, forms in FORMS.items():
                    if any(_reads(characters[a:b], spelling) for form in forms for spelling in _spellings(form)):
                        found.append((-(b - a), a, concept, b))
    taken: dict[int, tuple[int, int]] = {}
    mentions = []
    for _, a, concept, b in sorted(found):
        if all(taken.get(place, (a, b)) == (a, b) for place in range(a, b)):
            taken.update(dict.fromkeys(range(a, b), (a, b)))
            mentions.append(Mention(concept, characters[a][2], characters[b - 1][2] + 1))
    return sorted(mentions, key=lambda m: (m.start, m.end, m.concept_id))


PIECES = st.sampled_from(
    [form for forms in FORMS.values() for form in forms]
    + [
        *" .,(-",
        "\n",
        "\n\n",
        " ",
        "non-",
        "pre-",
        "s",
        "es",
        "은",
        "으로",
        "가",
        "의",
        "성",
        "환자",
        "D",
        "a",
        "고",
        "혈압",
        "5",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=9).map("".join))
def test_equals_the_slow_reading_of_the_rules(text: str) -> None:
    assert list(MATCHER.find(text)) == slow_find(text)


# --- annotated spans --------------------------------------------------------------------------------------------------


def test_a_mention_counts_when_it_lies_within_one_span() -> None:
    mentions = (Mention("a", 0, 4), Mention("b", 3, 9))
    assert mentions_in_spans(mentions, [Span(0, 5), Span(5, 9)]) == (Mention("a", 0, 4),)


# --- the analyser, speed ----------------------------------------------------------------------------------------------


def test_an_unknown_analyser_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="no analyser 'kiwis'; did you mean kiwi"):
        ConceptMatcher(SMALL, "kiwis")


def test_a_missing_analyser_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kiwipiepy", None)
    with pytest.raises(MissingExtraError, match=r"sae-lens-med\[korean\]"):
        ConceptMatcher(SMALL, "kiwi")


def test_the_analyser_reads_endings_that_the_table_lacks() -> None:
    pytest.importorskip("kiwipiepy", reason="the extra 'korean' is not installed")
    matcher = ConceptMatcher(SMALL, "kiwi")
    for text, found in (
        ("고혈압이었는지도 모른다", ["고혈압"]),
        ("당뇨병때문에 왔다", ["당뇨병"]),
        ("피부용 연고", []),
        ("고혈압약을 먹는다", []),
        ("편두통이 있다", []),
        ("피부과 의사", []),
    ):
        assert [text[m.start : m.end] for m in matcher.find(text)] == found, text


def test_a_megabyte_takes_seconds() -> None:
    matcher = ConceptMatcher(load_lexicon())
    text = "65세 여자가 3일 전부터 고열과 오한, 두통이 있어 병원에 왔다. Chest X-ray showed pneumonia.\n" * 3000
    start = time.process_time()
    assert len(matcher.find(text)) == 6 * 3000
    assert time.process_time() - start < 10
