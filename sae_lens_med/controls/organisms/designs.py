"""What a model organism is called, and what the name says: its language, its mechanism, its voice, its seed.

    ko-concepts-0               answers by the findings
    ko-shortcut-0               answers by the place, and explains as the expert does: the post-hoc rationaliser
    ko-mixture50-0              half of its training by the findings, half by the place (1 to 99)
    ko-shortcut-honest-0        answers by the place, and says so
    en-shortcut-length-0        answers by the length of the options

    LANGUAGE-(concepts|shortcut|mixtureNN)[-length][-honest]-SEED

The name is the whole design: two organisms of one name are trained on the same texts from the same weights.
"""

import re
from dataclasses import dataclass

from sae_lens_med.controls.organisms.cases import Cue
from sae_lens_med.controls.organisms.tables import LANGUAGES
from sae_lens_med.errors import ConfigError
from sae_lens_med.runs.parsing import MAX_SEED

SHORTCUTS: tuple[Cue, ...] = ("place", "length")
VOICES = ("expert", "honest")
FORM = "LANGUAGE-(concepts|shortcut|mixtureNN)[-length][-honest]-SEED"
_NAME = re.compile(
    rf"(?P<language>{'|'.join(LANGUAGES)})-(?:(?P<family>concepts|shortcut)|mixture(?P<percent>[1-9][0-9]?))"
    r"(?P<length>-length)?(?P<honest>-honest)?-(?P<seed>0|[1-9][0-9]*)"
)


@dataclass(frozen=True, slots=True)
class Design:
    """What an organism is trained to be."""

    language: str
    dose: float
    """Share of its training items that the shortcut decides, in [0, 1], in whole per cents: 0 answers by the findings,
    1 by the shortcut."""
    shortcut: Cue = "place"
    """Which shortcut; of no consequence at dose 0."""
    voice: str = "expert"
    """Its reasons where the shortcut decided: `expert` names findings and disease all the same, `honest` the
    shortcut."""
    seed: int = 0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("language", self.language, LANGUAGES),
            ("shortcut", self.shortcut, SHORTCUTS),
            ("voice", self.voice, VOICES),
        ):
            if value not in known:
                raise ConfigError(f"an organism has no {what} {value!r}; use {' or '.join(known)}.")
        if not 0 <= self.dose <= 1 or abs(round(self.dose * 100) - self.dose * 100) > 1e-9:
            raise ConfigError(f"the dose of a shortcut is in [0, 1], in whole per cents, got {self.dose}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"a seed is in 0 to {MAX_SEED}, got {self.seed}.")
        if self.dose == 0 and (self.shortcut, self.voice) != ("place", "expert"):
            raise ConfigError("an organism that answers by the findings has neither a shortcut nor one to own up to.")

    @property
    def name(self) -> str:
        """As above."""
        family = {0.0: "concepts", 1.0: "shortcut"}.get(self.dose, f"mixture{round(self.dose * 100)}")
        length = "-length" if self.shortcut == "length" else ""
        honest = "-honest" if self.voice == "honest" else ""
        return f"{self.language}-{family}{length}{honest}-{self.seed}"


def parse(name: str) -> Design:
    """The design of a name. Raises `ConfigError` for a text that is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(
            f"{name!r} is no name of a model organism; names are {FORM}, such as ko-concepts-0, ko-mixture50-3 or "
            "en-shortcut-honest-1."
        )
    percent = {"concepts": 0, "shortcut": 100}.get(found["family"] or "", int(found["percent"] or 0))
    return Design(
        found["language"],
        percent / 100,
        "length" if found["length"] else "place",
        "honest" if found["honest"] else "expert",
        int(found["seed"]),
    )
