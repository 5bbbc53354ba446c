"""The bytes of a text file -> text: UTF-8, or the encoding that the user names; never a guess taken for the truth.

A file that is not UTF-8 is refused as a whole, with the encoding that it seems to have, so that nobody measures a model
on characters that nobody wrote. A file that is UTF-8 but for some damaged bytes is read: these come as surrogates, so
that the row that holds them can be named, and skipped.
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
_SURROGATES = re.compile("[\udc80-\udcff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")


def require_encoding(name: str) -> None:
    """Raise `DataError` unless Python knows a text encoding of this name."""
    try:
        b"a".decode(name)
    except UnicodeError:  # of an encoding in which this is no text
        return
    except (LookupError, ValueError) as error:
        raise DataError(
            f"there is no text encoding {name[:40]!r}{nearest(name, _COMMON).rstrip('?')}; Korean files are mostly "
            "cp949 where they are not utf-8."
        ) from error


def decoded(data: bytes, path: Path, encoding: str | None, option: str | None) -> str:
    """The text in `data`, the bytes of `path`, without a byte-order mark.

    `encoding` is that of files that are not UTF-8, and `option` what it is given by, up to its name. Raises `DataError`
    where it is not theirs, and where it is needed and not given.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    if text is not None and not _is_wide(data):
        return text
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except ValueError as error:
            at = f" at byte {error.start:,}" if isinstance(error, UnicodeDecodeError) else ""
            guess = _guess(data)
            hint = f"it looks like {guess}" if guess and guess != encoding else "find out how it was saved"
            raise DataError(f"{path}: the text is not {encoding}{at}; {hint}.") from error
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
        # The NUL is the upper half of an ASCII character.
        return "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
    start = data[:_LOOKED_AT]
    as_utf8 = start.decode("utf-8", errors="surrogateescape")
    n_bad = len(_SURROGATES.findall(as_utf8))
    n_good = len(start) - n_bad - sum(character <= "\x7f" for character in as_utf8)
    if n_good >= n_bad:
        return None
    # The code page of Korean Windows, in which Excel saves CSV: certain where what comes out is Hangul, of the
    # syllables in use, which have bytes of their own. What is Japanese or Chinese comes out as the others.
    korean = start.decode("cp949", errors="replace")
    others = [character for character in korean if character > "\x7f"]
    in_use = [
        syllable
        for syllable in _HANGUL.findall(korean)
        if syllable.encode("cp949") >= b"\xb0\xa1" and syllable.encode("cp949")[1] > 0xA0
    ]
    if korean.count("\ufffd") <= 1 and len(in_use) >= 0.6 * len(others):
        return "cp949"
    from charset_normalizer import from_bytes

    best = from_bytes(start, cp_exclusion=_NOT_HERE).best()
    return "" if best is None else best.encoding.replace("_", "-")


def _is_wide(data: bytes) -> bool:
    """Whether this is UTF-16 or UTF-32 text: bytes in which every other one is NUL wherever there is ASCII."""
    return len(data) > 1 and data[:_LOOKED_AT].count(0) > 0.1 * len(data[:_LOOKED_AT])
