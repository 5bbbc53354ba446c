"""Where a Korean noun ends, read by the morphological analyser Kiwi: what the table in `particles` does not hold.

Needs the extra `korean`. The analyser sees one word at a time, the noun and what follows it, and is told all forms of
the concept set as nouns, so that it does not cut a drug's name in two. It only adds to the table: a rest that the table
accepts is accepted.
"""

from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module

from sae_lens_med.concepts import particles
from sae_lens_med.errors import MissingExtraError

# Tags of the Sejong set: particles, endings, copula, suffixes that make verbs and adjectives, dependent nouns. Suffixes
# that make nouns (XSN) are not among them: they make another noun, as -제 does of 인두 (throat): 인두제 (capitation).
_ENDING_TAGS = ("J", "E", "VC", "XSV", "XSA", "NNB")


class KiwiEndings:
    """`ends_word` of `particles`, with the analyser's help."""

    def __init__(self, nouns: Iterable[str]) -> None:
        """`nouns`: the Korean forms, without spaces. Raises `MissingExtraError` where kiwipiepy is not installed."""
        try:
            kiwipiepy = import_module("kiwipiepy")
        except ModuleNotFoundError as error:
            raise MissingExtraError("kiwipiepy", "korean", "the analyser 'kiwi' for Korean endings") from error
        self._kiwi = kiwipiepy.Kiwi()
        for noun in sorted(set(nouns)):
            self._kiwi.add_user_word(noun, "NNG")
        self.ends_word = lru_cache(maxsize=1 << 16)(self._ends_word)

    def _ends_word(self, noun: str, rest: str) -> bool:
        """Whether `rest` is only particles and endings after `noun`; as `particles.ends_word`."""
        if particles.ends_word(noun, rest):
            return True
        tokens = self._kiwi.tokenize(noun + rest)
        after = [token for token in tokens if token.start >= len(noun)]
        cut = any(token.start < len(noun) < token.start + token.len for token in tokens)
        return bool(after) and not cut and all(token.tag.startswith(_ENDING_TAGS) for token in after)
