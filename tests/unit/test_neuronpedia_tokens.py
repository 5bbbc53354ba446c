"""Tokens for readers: whole characters that joined are the text, with the maximum of the tokens that share them.

Written characters are those of the `regex` package (\\X, UAX 29), which the code does not use.
"""

import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_med.app.neuronpedia.tokens import whole_tokens

UNITS = (
    *("가", "심", "전", "도", unicodedata.normalize("NFD", "각"), unicodedata.normalize("NFD", "뇨")),
    *(
        "é",
        unicodedata.normalize("NFD", "é"),
        "q\u0323\u0307",
        "👍🏽",
        "👨\u200d👩\u200d👧",
        "❤\ufe0f",
        "🩺",
        "1\u20e3",
    ),
    *("a", "Z", "7", "、", "…", " ", "  ", "\n", "\t"),
)
Tokens = list[tuple[int, int, int]]


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, Tokens, dict[int, float]]:
    """A text cut at any of its bytes, as byte-level tokenizers do, some tokens left out, and values of some."""
    text = "".join(draw(st.lists(st.sampled_from(UNITS), max_size=14)))
    of_byte = [place for place, character in enumerate(text) for _ in character.encode("utf-8")]
    cuts = sorted(draw(st.sets(st.integers(0, len(of_byte)), max_size=12)) | {0, len(of_byte)})
    ranges = [
        (of_byte[start], of_byte[stop - 1] + 1, token)
        for token, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False))
        if stop > start
    ]
    ranges = [each for each in ranges if draw(st.integers(0, 5))]  # one in six has no token
    ranges.append((0, 0, 99))  # BOS
    values = {token: draw(st.floats(0.1, 9)) for _, _, token in ranges if draw(st.booleans())}
    return text, ranges, values


def _bounds(pieces: list[str]) -> list[int]:
    found = [0]
    for piece in pieces:
        found.append(found[-1] + len(piece))
    return found


@given(tokenised())
def test_pieces_are_whole_characters_and_joined_are_the_text(drawn: tuple[str, Tokens, dict[int, float]]) -> None:
    text, ranges, values = drawn
    pieces, found, _ = whole_tokens(text, ranges, values)
    assert "".join(pieces) == text
    assert all(pieces) and len(found) == len(pieces)
    whole = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    assert set(_bounds(pieces)) <= whole


@given(tokenised())
def test_a_piece_has_the_maximum_of_the_tokens_that_touch_its_characters(
    drawn: tuple[str, Tokens, dict[int, float]],
) -> None:
    text, ranges, values = drawn
    pieces, found, at = whole_tokens(text, ranges, values)
    characters = [match.span() for match in regex.finditer(r"\X", text)]
    strength = {
        span: max((values.get(token, 0.0) for start, end, token in ranges
                   if start < end and start < span[1] and end > span[0]), default=0.0)
        for span in characters
    }  # fmt: skip
    for begin, end, value in zip(_bounds(pieces), _bounds(pieces)[1:], found, strict=False):
        assert value == max(strength[span] for span in characters if begin <= span[0] < end)
    bounds = _bounds(pieces)
    for start, end, token in ranges:
        if start < end:
            piece = at[token]
            assert bounds[piece] < end and bounds[piece + 1] > start
    assert 99 not in at


def test_a_syllable_of_three_tokens_is_as_strong_as_the_strongest_of_them() -> None:
    text = "혈압 낮음"
    ranges = [(0, 1, 0), (0, 1, 1), (0, 1, 2), (1, 2, 3), (2, 4, 4), (4, 5, 5)]
    pieces, values, at = whole_tokens(text, ranges, {0: 1.0, 1: 3.0, 2: 2.0, 4: 5.0})
    assert pieces == ["혈", "압", " 낮", "음"]
    assert values == [3.0, 0.0, 5.0, 0.0]
    assert at == {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 3}


@pytest.mark.parametrize(
    ("text", "ranges", "pieces"),
    [
        ("", [], []),
        ("  \n", [], ["  \n"]),
        ("a b", [(0, 1, 0), (2, 3, 1)], ["a", " b"]),  # white space goes to what is behind it
        ("a \n", [(0, 1, 0)], ["a \n"]),
        ("a…b", [(0, 1, 0), (2, 3, 1)], ["a", "…", "b"]),
        ("a\n\nb", [(0, 1, 0), (1, 3, 1), (3, 4, 2)], ["a", "\n\n", "b"]),  # a token of white space is a piece
    ],
)
def test_what_no_token_covers(text: str, ranges: Tokens, pieces: list[str]) -> None:
    assert whole_tokens(text, ranges, {})[0] == pieces
