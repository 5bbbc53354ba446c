"""The bytes of a text file -> text: UTF-8, or the encoding that the user names; never a guess taken for the truth.

A file that is not UTF-8 is refused as a whole, with the encoding that it seems to have, so that nobody measures a model
on characters that nobody wrote. That holds for 7-bit encodings, too (ISO-2022-KR, ISO-2022-JP, HZ, UTF-7): their bytes
are ASCII, and so UTF-8, but for what the characters are. A file that is UTF-8 but for some damaged bytes is read: these
come as surrogates, so that the row that holds them can be named, and skipped.
"""

import codecs
import re
from pathlib import Path

from sae_lens_med.errors import DataError, nearest

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_HERE = ["cp949", "euc_kr", "johab", "cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140"]
"""Korean, which has been looked at, and encodings of mainframes."""
_COMMON = ("cp949", "euc-kr", "utf-16", "utf-8", "latin-1", "cp1252", "shift_jis", "gb18030", "big5")
_LOOKED_AT = 1 << 16
"""Bytes from which an encoding is guessed."""
_WIDE = 0.1
"""Share of NULs from which on bytes are UTF-16 or UTF-32."""
_SURROGATES = re.compile("[\udc80-\udcff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_SHIFTED = ("iso2022_kr", "iso2022_jp", "iso2022_jp_2", "iso2022_jp_ext", "iso2022_jp_3", "iso2022_jp_2004")
_SEVEN_BIT = {codecs.lookup(name).name for name in (*_SHIFTED, "iso2022_jp_1", "hz", "utf-7")}
"""Encodings whose bytes are ASCII."""
_SHIFTS = re.compile(r"\x1b(?:\$[@AB()*+]|\([IJ])|\x0e[!-~\s]+\x0f")
"""What changes the meaning of the bytes that follow in ISO-2022; not the colours of a terminal."""


def require_encoding(name: str) -> None:
    """Raise `DataError` unless Python knows a text encoding of this name."""
    try:
        b"a".decode(name)
    except UnicodeError:  # of an encoding in which this is no text
        return
    except (LookupError, ValueError) as error:
        raise DataError(
            f"there is no text encoding {name!r}{nearest(name, _COMMON).rstrip('?')}; Korean files are mostly "
            "cp949 where they are not utf-8."
        ) from error


def decoded(data: bytes, path: Path, encoding: str | None, option: str | None) -> str:
    """The text in `data`, the bytes of `path`, without a byte-order mark.

    `encoding` is that of files that are not UTF-8, and `option` what it is given by, up to its name. Raises `DataError`
    where it is not theirs, and where it is needed and not given.
    """
    seven = _seven_bit(data)
    coded = seven is not None or _is_wide(data)
    in_ascii = encoding is not None and data.isascii() and codecs.lookup(encoding).name in _SEVEN_BIT
    if not coded and not in_ascii:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    if encoding is not None:
        where = ""
        try:
            text = data.decode(encoding).removeprefix("\ufeff")
        except ValueError as error:
            if not coded and data.isascii():
                return data.decode("ascii")
            where = f" at byte {error.start:,}" if isinstance(error, UnicodeDecodeError) else ""
        else:
            # Some encodings take any bytes: then what is read still has the codes of another one in it.
            as_seven = seven is None or (text == _strictly(data, seven) if seven else in_ascii)
            if as_seven and text.count("\0") <= _WIDE * len(text):
                return text
        guess = _guess(data)
        hint = f"it looks like {guess}" if guess and guess != encoding else "find out how it was saved"
        raise DataError(f"{path}: the text is not {encoding}{where}; {hint}.")
    guess = _guess(data)
    if guess is None:
        return data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    if option is None:
        like = f" but looks like {guess}" if guess else ""
        raise DataError(f"{path}: the text is not UTF-8{like}; save it as UTF-8.")
    if not guess:
        raise DataError(
            f"{path}: the text is not UTF-8, nor of an encoding that can be told; name it with {option}NAME, or save "
            "the file as UTF-8."
        )
    raise DataError(
        f"{path}: the text is not UTF-8 but looks like {guess}; read it with {option}{guess}, or save it as UTF-8."
    )


def _guess(data: bytes) -> str | None:
    """A name for the encoding of text that is not UTF-8, empty where there is none to be told; None where it is UTF-8
    with damaged bytes."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if _is_wide(data):
        return _wide_name(data)[0]
    if (seven := _seven_bit(data)) is not None:
        return seven
    start = data[:_LOOKED_AT]
    as_utf8 = start.decode("utf-8", errors="surrogateescape")
    n_bad = len(_SURROGATES.findall(as_utf8))
    n_good = len(start) - n_bad - sum(character <= "\x7f" for character in as_utf8)
    if n_good >= n_bad:
        return None
    if 0 in start:
        # UTF-16 of a text with little ASCII in it.
        name, share = _wide_name(data)
        if share > 0.95:
            return name
    # The code page of Korean Windows, in which Excel saves CSV, and the one before it: certain where what comes out is
    # Hangul, of the syllables in use. What is Japanese or Chinese comes out as others.
    for name in ("cp949", "johab"):
        korean = start.decode(name, errors="replace")
        others = [character for character in korean if character > "\x7f"]
        if korean.count("\ufffd") <= 1 and sum(map(_is_syllable_in_use, others)) >= 0.6 * len(others):
            return name
    from charset_normalizer import from_bytes

    best = from_bytes(start, cp_exclusion=_NOT_HERE).best()
    return "" if best is None else best.encoding.replace("_", "-")


def _is_wide(data: bytes) -> bool:
    """Whether this is UTF-16 or UTF-32 text: bytes in which every other one is NUL wherever there is ASCII."""
    return len(data) > 1 and data[:_LOOKED_AT].count(0) > _WIDE * len(data[:_LOOKED_AT])


def _wide_name(data: bytes) -> tuple[str, float]:
    """Which of UTF-16 and UTF-32 it is, and the share of the characters in it that are in use."""
    start = data[: min(_LOOKED_AT, len(data) // 4 * 4)]
    shares = {}
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        text = start.decode(name, errors="replace")
        shares[name] = sum(map(_is_text, text)) / max(1, len(text))
    best = max(shares, key=lambda name: shares[name])
    return best, shares[best]


def _seven_bit(data: bytes) -> str | None:
    """A name for the encoding of Korean, Japanese, Chinese or other text in ASCII bytes, empty where there is none to
    be told; None where the bytes are not of this kind."""
    if not data.isascii():
        return None
    if _SHIFTS.search(data.decode("ascii")):
        # All of them in turn: a later one knows more characters.
        return next((name for name in _SHIFTED if _strictly(data, name) is not None), "")
    if b"~{" in data and not (_strictly(data, "hz") or "").isascii():
        return "hz"
    if b"+" in data:
        others = [character for character in _strictly(data, "utf-7") or "" if character > "\x7f"]
        if len(others) > 1 and sum(map(_is_in_use, others)) > 0.9 * len(others):
            return "utf-7"
    return None


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except ValueError:
        return None


def _is_syllable_in_use(character: str) -> bool:
    """Whether this is one of the 2,350 syllables of KS X 1001: cp949 has the others at other places."""
    return bool(_HANGUL.match(character)) and min(character.encode("cp949")) > 0xA0


def _encodable(character: str, encoding: str) -> str:
    """The character where the encoding has it, or nothing."""
    return character.encode(encoding, errors="ignore").decode(encoding)


def _is_in_use(character: str) -> bool:
    """Whether a character is a letter or mark of a language that is written today; what bytes of another meaning come
    out as is mostly not."""
    if not _HANGUL.match(character):
        return any(_encodable(character, name) for name in ("gb2312", "shift_jis", "latin-1", "cp1252"))
    return _is_syllable_in_use(character)


def _is_text(character: str) -> bool:
    if character <= "\x7f":
        return " " <= character <= "~" or character in "\n\r\t"
    return "\u3000" <= character <= "\u30ff" or _is_in_use(character)
