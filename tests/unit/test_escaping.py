"""Foreign text that is shown: it moves no cursor, ends no cell and is no markup, and stays what it was otherwise."""

import io
import json

import pytest

from sae_lens_med.escaping import (
    code,
    fence,
    harmless,
    json_text,
    markdown,
    markdown_head,
    markdown_row,
    plain,
    print_whatever_it_holds,
)

HOSTILE = "\x1b[2J\x1b]0;title\x07 a\x9b31m\u202egnp.exe\u2066 \x7f\x00 |`<script>\r\nb"


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("발열과 오한, 38.5 ℃", "naïve – “quoted” 👩\u200d⚕️", "/home/a  b/c", "العربية \u200fx"):
        assert harmless(text) == plain(text) == text
    assert harmless("one\ttwo\nthree\r\nfour") == "one\ttwo\nthree\nfour"
    assert plain("one\ttwo\nthree\r\nfour\u2028five") == "one two three four five"


@pytest.mark.parametrize("shown", [harmless, plain, markdown, code, json_text])
def test_nothing_moves_a_cursor_or_turns_a_line(shown: object) -> None:
    found = shown(HOSTILE)  # type: ignore[operator]
    assert not set(found) & set("\x1b\x9b\x07\x7f\x00\r\u202e\u2066")
    assert "gnp.exe" in found


def test_codes_say_what_was_there() -> None:
    assert plain("a\x1b[31mb") == r"a\x1b[31mb"
    assert plain("\u202e\udcff") == r"\u202e\udcff"


def test_json_on_a_terminal_is_the_same_json() -> None:
    value = {"이름": HOSTILE, "n": [1.5, None]}
    assert json.loads(json_text(value)) == value
    assert "이름" in json_text(value)


def test_a_cell_holds_its_text() -> None:
    row = markdown_row(["a|b", "c\nd", "<script>x</script>", "`x` *y* [z](u) $k$", 3])
    assert row == r"| a\|b | c d | \<script\>x\</script\> | \`x\` \*y\* \[z\](u) \$k\$ | 3 |"
    assert markdown_head(["n", "p_1"], ["---", "---:"]) == ["| n | p_1 |", "| --- | ---: |"]
    assert markdown("blocks.0.hook_z _x_ __y__ 가_나") == r"blocks.0.hook_z \_x\_ \_\_y\_\_ 가_나"
    assert code("plain") == "`plain`"
    assert code("a`b``c") == "``` a`b``c ```"
    assert fence("x: 1") == "```" and fence("```\nx") == "````"


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "latin-1", "utf-8"])
def test_any_console_takes_any_text(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_whatever_it_holds(stream, None)
    value = {"text": "발열 ℃ – é 👩 \udcff"}
    stream.write(json.dumps(value, ensure_ascii=False))
    stream.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == value  # codes that JSON reads back
