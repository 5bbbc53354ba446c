"""What may follow a Korean noun within its word: particles, the copula, 하다 and 되다, and a few dependent nouns.

`ends_word(noun, rest)` is the rule that needs no dependency. The table:

- particles that take any noun: 의 에 에서 에게 께 한테 도 만 까지 부터 보다 처럼 마다 ...; a second one may follow
  (에는, 에서도, 까지만, 만으로);
- particles whose form depends on the noun's last sound: 은/는, 이/가, 을/를, 과/와, 으로/로, 이나/나, 이란/란 ... The
  sound must agree, which is what tells "피부과" (the department) from a skin "and", and "소아과" likewise;
- the copula: 이다, 입니다, 이며, 인, 일, 임 ..., and after a vowel 다, 며, 라 ...;
- verbs made of nouns: 하다, 되다, 받다, 시키다, 당하다, in the endings that written Korean uses;
- suffixes and dependent nouns that are written without a space, alone or with a particle: 들 성 적 시 후 전 중 내 상
  등 때.

Out of scope: compound nouns. What follows in "당뇨병환자" or "통증완화" is a noun, so that there the form is part of a
longer word. The analyser (`analyser`) reads endings that no table holds.
"""

import re
from functools import cache, lru_cache

_ANY = (
    "에게서|에게|에서|에로|에|께서|께|한테|의|도|만|까지|부터|보다|처럼|같이|마다"
    "|조차|마저|밖에|뿐|커녕|대로|만큼|하고|으로서"
)
_SECOND = "(?:은|는|도|만|의|이|가|을|를|로|으로|과|와|나|부터|까지|이다|입니다|이며|이고|인)?(?:는|도|만|의)?"
_AFTER_CONSONANT = "은|이|을|과|이나|이란|이라는|이라고|이라도|이든지|이든|이랑|이야말로"
_AFTER_VOWEL = (
    "는|가|를|와|나|란|라는|라고|라도|든지|든|랑|야말로|다|며|면|라|로서|였다|였고|였으며|였으나|였습니다|예요"
)
_COPULA = (
    "이(?:다|고|며|면|면서|므로|나|라|라면|라서|지만|지|니|자|었다|었고|었으며|었으나|었던|었을|었습니다|어서|어야|거나|에요|죠|기|더라도)"
    "|인|인가|인지|인데|일|일까|임|임을|임이|입니다|입니까"
)
_VERB_END = (
    "(?:다|고|며|면|면서|는|는데|는지|던|지|지만|게|도록|기|기도|기에|기는|니|므로|자|자마자|나|거나|려고|려는|려면|여|여서|여야|여도"
    "|였다|였고|였으며|였으나|였던|였을|였는데|어|어서|어야|었다|었고|었으며|었으나|었던|었을|은|을|아|아서|아야|았다|았고|았으며|았으나"
    "|았던|았을|더니|더라도|신)?"
)
_VERB = (
    f"(?:하|되|받|시키|당하){_VERB_END}|(?:한|된|받는|시킨|당한)(?:다|다고|다는|데|지)?|(?:할|될|시킬|당할)(?:지)?"
    "|(?:함|됨|시킴|당함)(?:은|이|을|에|으로|과)?|(?:합|됩|시킵)니다"
    "|(?:해|돼|했|됐|시켜|시켰)(?:서|야|도|다|고|으며|으나|던|을|는데|지만|요|습니다)?"
)
_FIRST = f"(?:{_ANY}){_SECOND}"
_TO_CONSONANT = "(?:으로)(?:는|도|만|의|부터|서|써|서의|인|인한)?"
_TO_VOWEL = "(?:로)(?:는|도|만|의|부터|서|써|서의|인|인한)?"
_AND_CONSONANT, _AND_VOWEL = "과(?:의|는|도)?", "와(?:의|는|도)?"
_CONSONANT = f"(?:{_FIRST}|{_TO_CONSONANT}|{_AND_CONSONANT}|{_AFTER_CONSONANT}|{_COPULA}|{_VERB})?"
_RIEUL = f"(?:{_FIRST}|{_TO_VOWEL}|{_AND_CONSONANT}|{_AFTER_CONSONANT}|{_COPULA}|{_VERB})?"
_VOWEL = f"(?:{_FIRST}|{_TO_VOWEL}|{_AND_VOWEL}|{_AFTER_VOWEL}|{_COPULA}|{_VERB})?"
_SUFFIX = f"(?:들{_RIEUL}|(?:성|적|전|중|상|등){_CONSONANT}|(?:시|후|내|때){_VOWEL})"


_BY_LAST_SOUND = {"consonant": _CONSONANT, "rieul": _RIEUL, "vowel": _VOWEL}


@cache
def _pattern(sound: str) -> re.Pattern[str]:
    """Compiled when it is first needed: that takes longer than importing most modules."""
    return re.compile(rf"(?:{_BY_LAST_SOUND[sound]}|{_SUFFIX})\Z")


@lru_cache(maxsize=1 << 16)
def ends_word(noun: str, rest: str) -> bool:
    """Whether `rest`, the Korean syllables after `noun` up to the end of its word, is only particles and endings.

    `noun` ends in a Korean syllable or letter. An empty `rest` is True.
    """
    return _pattern(_last_sound(noun[-1])).match(rest) is not None


def _last_sound(syllable: str) -> str:
    final = (ord(syllable) - 0xAC00) % 28 if "가" <= syllable <= "힣" else 0
    return "vowel" if final == 0 else "rieul" if final == 8 else "consonant"
