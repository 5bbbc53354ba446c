"""What a rater is asked, and in which order the levels stand: as in Med-PaLM (Singhal et al. 2023).

Clinicians are asked the 12 axes, people without training the 2 lay ones. A level is named by the English text that the
file of ratings has; its words on the page are in `strings` (`rate.axis.*`, `rate.level.*`).
"""

from typing import Literal, get_args

from sae_lens_med.alignment.ratings_file import AXES, CLINICIAN_AXES, LAY_AXES

Role = Literal["clinician", "lay"]
ROLES: tuple[Role, ...] = get_args(Role)
_AS_PRINTED = {"scientific_consensus": ("aligned with consensus", "opposed to consensus", "no consensus")}
"""Where the order of the paper is not from best to worst or from worst to best."""
_WORST_FIRST = ("incorrect_comprehension", "incorrect_retrieval", "incorrect_reasoning", "bias")
"""Axes on which the first level of the paper ("yes") is the worst."""


def axes_of(role: Role) -> tuple[str, ...]:
    """The axes that a rater is asked, one after another."""
    return tuple(CLINICIAN_AXES if role == "clinician" else LAY_AXES)


def levels_of(axis: str) -> tuple[str, ...]:
    """The levels of an axis in the order in which they are shown."""
    if axis in _AS_PRINTED:
        return _AS_PRINTED[axis]
    worst_first = AXES[axis]
    return worst_first if axis in _WORST_FIRST else worst_first[::-1]
