"""The errors a user can cause, one class per thing they can fix.

Every message is one sentence that says what is wrong, where, and what to do instead. The command line
prints it without a traceback; code catches `SaeLensMedError` for all of them.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches

LONGEST = 200
"""Characters of a name or path that a sentence shows in full."""
_LONGEST_PART = 400
# What stands in quotes, a run without blanks, and what stands between marks: a path may have blanks. An apostrophe
# within a word is no quote.
_QUOTED = r"(?<!\w)'[^'\n]*'(?!\w)|\"[^\"\n]*\""
_NAMES = re.compile(rf"{_QUOTED}|[^\s'\"]{{{LONGEST},}}|[^:;,'\"\n]{{{_LONGEST_PART},}}")


def shortened(sentence: str) -> str:
    """The sentence with every name in it that is very long cut in its middle: where a path begins and ends is what
    tells it from others."""

    def cut(found: re.Match[str]) -> str:
        name, half = found[0], LONGEST // 2
        return name if len(name) <= LONGEST + 2 else f"{name[:half]}...{name[-half:]}"

    return _NAMES.sub(cut, sentence)


class SaeLensMedError(Exception):
    """Base of every error that this package raises on purpose. Its names are `shortened`."""

    key: str = ""
    """Of the sentence, where it is there in several languages (`app.refusals`); `values` fill its places."""
    values: Mapping[str, object] = {}

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class DataError(SaeLensMedError):
    """A row, file or data set is not what the loaders accept; names file, row and field."""


class ConfigError(SaeLensMedError):
    """A setting, recipe key or option is unknown or out of range."""


class ModelError(SaeLensMedError):
    """A model, tokenizer or hook name cannot be used as asked."""


class UnfitItemsError(DataError, ModelError):
    """Some items cannot be put to this model: all of them are named at once, so that they can be left out at once."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        """`reasons` by item id, each without a full stop."""
        self.reasons = dict(reasons)
        problems = [f"item {name!r}: {reason}" for name, reason in self.reasons.items()]
        which = "this item" if len(problems) == 1 else f"these {len(problems)} items"
        super().__init__(f"{listed(problems)}; leave {which} out with --skip-bad-items or --exclude ID.")


class ReleaseError(SaeLensMedError):
    """An SAE release or SAE folder is missing, damaged or does not fit the model."""


class StudyError(SaeLensMedError):
    """The folder of a study, or of another run, is damaged, holds something else, or was made with other settings."""


class NotFoundError(StudyError):
    """What a study was asked for, it has not got: a case, a feature, a part of a text."""


class ConflictError(StudyError):
    """Somebody else has written a newer version of what is to be written."""


class BusyError(SaeLensMedError):
    """So many wait for the model already that no more are taken; try again later."""


class ReadOnlyError(StudyError):
    """Something is to be written where this user may not, or where the disk takes nothing."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(
            f"{path} cannot be written ({reason}), so that nothing was kept; make room, or work on a copy that you may "
            "write to."
        )
        self.path, self.reason = path, reason


class DistributedError(SaeLensMedError):
    """One of several processes that do one job ended, or they cannot find each other."""

    def __init__(self, message: str, ended: Collection[int] = ()) -> None:
        super().__init__(message)
        self.ended = tuple(ended)
        """The ranks that ended by themselves."""


class MissingExtraError(SaeLensMedError):
    """An optional dependency is not installed; the message names the extra."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"run: pip install 'sae-lens-med[{extra}]'."
        )


def listed(problems: Sequence[str], most: int = 50) -> str:
    """The problems in one sentence, the first `most` of them in full."""
    more = len(problems) - most
    return "; ".join(problems[:most]) + (f"; and {more} more" if more > 0 else "")


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """`"; did you mean a, b?"` for the known names nearest to `name`, or an empty string when none is near."""
    found = get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"; did you mean {', '.join(found)}?" if found else ""
