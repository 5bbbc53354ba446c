"""Edits of features in a case -> what the process is asked to run, and what comes of it.

An edit is made at the counted stem tokens, of one to eight features together:

    off       the feature does not fire                    clamp      it has `strength` times its maximum
    amplify   `strength` times its maximum is added        suppress   the same is taken away

The maximum is that over the study. Beside the answer stands what the same edit of random features does (`band`).

**What is compared** is the log odds of the model's own answer (the option that it holds likeliest unedited) among the
options: its change by the edit, against the changes by the n random sets. *Outside* is a change below the smallest or
above the largest of them, be it that the edit does more than each of them or less (`SteerView.less`). p is
`(1 + #{random changes as far or farther in this direction}) / (n + 1)`, doubled because the direction was not said
before: for 20 sets no smaller than 0.048, doubled 0.095, which is how often a set drawn like the others lies outside by
chance. With fewer than `ENOUGH` sets nothing is said of the features, with fewer than `LEAST` nothing at all. Log odds
and not probabilities, because a probability near 1 cannot show a change; the order is the same.

Out of scope: running it (`child`), words (`strings.steering`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from sae_lens_med.app.live.band import Sets, random_sets
from sae_lens_med.app.live.settings import MAX_FEATURES, MAX_STRENGTH, MAX_TOKENS
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import ConfigError, DataError, NotFoundError
from sae_lens_med.features.stand_ins import drives
from sae_lens_med.records import OPTION_LETTERS, FloatArray, McqItem, Record
from sae_lens_med.statistics import permutation_p

ENOUGH = 20
"""Random sets, with fewer of which it is not said that an effect is more than theirs."""
LEAST = 5
"""Random sets, with fewer of which it is not asked whether an effect is more than theirs: of 5, a sixth set that is
drawn like them lies outside in one of three questions."""
How = Literal["off", "amplify", "suppress", "clamp"]
HOWS: tuple[How, ...] = get_args(How)
_ONE = re.compile(r"(\d{1,9})(?::([a-z]+))?(?::(\d{1,2}(?:\.\d{1,3})?))?")


@dataclass(frozen=True, slots=True)
class FeatureEdit(Record):
    """What is done to one feature."""

    feature: int
    how: How = "off"
    strength: float = 1.0
    """In multiples of the feature's maximum over the study, 0 to 10; nothing to one that is off."""

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise refusal(
                ConfigError, "refused.edit.how", feature=self.feature, hows=", ".join(HOWS), how=repr(self.how)
            )
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise refusal(
                ConfigError,
                "refused.edit.strength",
                feature=self.feature,
                most=f"{MAX_STRENGTH:g}",
                strength=f"{self.strength:g}",
            )

    @property
    def text(self) -> str:
        """As it stands in an address: `12:off`, `9:amplify:2`."""
        return f"{self.feature}:{self.how}" + ("" if self.how == "off" else f":{self.strength:g}")


def read_edits(text: str) -> tuple[FeatureEdit, ...]:
    """The edits of an address, `12:off,9:amplify:2`; a feature alone is switched off. Raises `ConfigError`."""
    found = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        match = _ONE.fullmatch(piece)
        if match is None:
            raise refusal(ConfigError, "refused.edit.form", given=repr(piece[:40]))
        feature, how, strength = match.groups()
        found.append(FeatureEdit(int(feature), how or "off", 1.0 if strength is None else float(strength)))  # type: ignore[arg-type]  # checked there
    return checked(found) if found else ()


def checked(edits: Sequence[FeatureEdit]) -> tuple[FeatureEdit, ...]:
    """`edits`, where they can be made together. Raises `ConfigError`."""
    if not 1 <= len(edits) <= MAX_FEATURES:
        raise refusal(ConfigError, "refused.edit.number", most=MAX_FEATURES, n=len(edits))
    if len({edit.feature for edit in edits}) < len(edits):
        raise refusal(ConfigError, "refused.edit.twice")
    return tuple(edits)


@dataclass(frozen=True, slots=True)
class SteeredOption(Record):
    """One answer option."""

    letter: str
    before: float
    """Probability among the options, in [0, 1]; unedited."""
    after: float | None
    low: float | None
    """The smallest and the largest probability under the random sets so far; None before the first."""
    high: float | None


@dataclass(frozen=True, slots=True)
class SteerView(Record):
    """What is known of a steering so far."""

    _nested: ClassVar[dict[str, type[Record]]] = {"edits": FeatureEdit, "options": SteeredOption}

    case: int
    edits: tuple[FeatureEdit, ...]
    options: tuple[SteeredOption, ...] = ()
    """Empty before the unedited answer is there."""
    watched: str | None = None
    """The model's own answer, unedited: what is compared."""
    answer: str | None = None
    """The answer after the edit."""
    change: float | None = None
    """Of the log odds of `watched`, by the edit."""
    low: float | None = None
    """The smallest and the largest change by a random set."""
    high: float | None = None
    n_sets: int = 0
    """Random sets that have been run, of `of_sets`."""
    of_sets: int = 0
    outside: bool | None = None
    """Whether `change` is outside of the random ones; None before all of them are there, and where they are fewer than
    `LEAST`."""
    less: bool | None = None
    """Where it is outside: whether because every random set moves the answer further than the edit, the same way."""
    p: float | None = None
    """Of both sides; not below 2/(n_sets + 1)."""
    band_problem: str = ""
    """Key of a text: why there is no band, or a small one."""
    size: float | None = None
    """Length of what the edit adds to the activation, over the question's tokens; 0: it changes nothing."""
    before_text: str = ""
    """What the model writes after the question, unedited and edited."""
    after_text: str = ""


@dataclass(slots=True, eq=False)
class SteerJob:
    """A steering; make it with `steer_job`."""

    case: int
    edits: tuple[FeatureEdit, ...]
    new_tokens: int
    sets: Sets
    folder: dict[str, Any]
    """Which study, and where its model is: the form of `routes`."""
    maxima: dict[int, float]
    _baseline: FloatArray | None = None
    _after: FloatArray | None = None
    _size: float | None = None
    _random: list[list[float]] = field(default_factory=list)
    _texts: dict[str, str] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """As the form of `runs.Job`."""
        own = [edit.feature for edit in self.edits]
        rows = [own, *self.sets.sets.tolist()]
        return {
            "do": "steer",
            **self.folder,
            "case": self.case,
            "edits": [_change(self.edits, row, self.maxima) for row in rows],
            "new_tokens": self.new_tokens,
        }

    def take(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """As the form of `runs.Job`."""
        if event == "baseline":
            self._baseline = np.array(data["logits"], dtype=np.float64)
        elif event == "edited":
            self._after, self._size = np.array(data["logits"], dtype=np.float64), float(data["size"])
        elif event == "band":
            self._random = [*self._random, *data["logits"]]
            return {"k": len(self._random), "n": len(self.sets.sets)}
        elif event == "token":
            self._texts = {**self._texts, data["side"]: data["text"]}
            return {"side": data["side"], "text": data["text"]}
        return {}

    def view(self) -> SteerView:
        """As the form of `runs.Job`."""
        start, after, n = self._baseline, self._after, len(self.sets.sets)
        empty = SteerView(self.case, self.edits, of_sets=n, band_problem=self.sets.problem)
        if start is None:
            return empty
        before, rows = _shares(start), np.array(self._random).reshape(-1, len(start))
        random = _shares(rows)
        best = int(start.argmax())
        options = tuple(
            SteeredOption(
                OPTION_LETTERS[k],
                float(before[k]),
                None if after is None else float(_shares(after)[k]),
                float(random[:, k].min()) if len(rows) else None,
                float(random[:, k].max()) if len(rows) else None,
            )
            for k in range(len(start))
        )
        change = None if after is None else float(log_odds(after, best) - log_odds(start, best))
        moved = log_odds(rows, best) - log_odds(start, best)
        low, high = (float(moved.min()), float(moved.max())) if len(rows) else (None, None)
        outside, less, p = None, None, None
        if change is not None and low is not None and high is not None and len(rows) == n >= LEAST:
            outside = not low <= change <= high
            less = 0 <= change < low or high < change <= 0
            p = min(1.0, 2 * min(permutation_p(change, moved), permutation_p(-change, -moved)))
        return SteerView(
            case=self.case,
            edits=self.edits,
            options=options,
            watched=OPTION_LETTERS[best],
            answer=None if after is None else OPTION_LETTERS[int(after.argmax())],
            change=change,
            low=low,
            high=high,
            n_sets=len(rows),
            of_sets=n,
            outside=outside,
            less=less,
            p=p,
            band_problem=self.sets.problem,
            size=self._size,
            before_text=self._texts.get("before", ""),
            after_text=self._texts.get("after", ""),
        )


def steer_job(
    study: OpenStudy,
    number: int,
    edits: Sequence[FeatureEdit],
    folder: dict[str, Any],
    *,
    n_sets: int,
    new_tokens: int = 0,
    seed: int = 0,
) -> SteerJob:
    """What has to be run.

    Args:
        study: with collected features and an index.
        number: of the case.
        edits: 1 to 8, of different features.
        folder: which study the process opens, and where its model is.
        n_sets: random sets, as many as there are at most.
        new_tokens: that are written after the question, 0 to 256.
        seed: of the random sets; they depend on the case, too.

    Raises `NotFoundError` for a case, a feature or features that are not there, `ConfigError` for values that cannot
    be, `DataError` for a question without options.
    """
    edits = checked(edits)
    if not 0 <= new_tokens <= MAX_TOKENS:
        raise refusal(ConfigError, "refused.tokens", most=MAX_TOKENS, n=new_tokens)
    require_options(study, number)
    part, index = study.part, study.index
    if part is None or index is None:
        raise refusal(NotFoundError, "refused.unindexed", study=study.name)
    for edit in edits:
        study.require_feature(edit.feature)
        if edit.how != "off" and index.maximum[edit.feature] <= 0:
            raise refusal(ConfigError, "refused.edit.silent", feature=edit.feature)
    drive = np.asarray(drives(part.item(number).acts).todense(), dtype=np.float64).ravel()
    rng = np.random.default_rng([seed, number, *b"what if"])
    sets = random_sets([e.feature for e in edits], [e.how == "off" for e in edits], drive, index, n_sets, rng)
    used = np.unique(np.append(sets.sets.ravel(), [edit.feature for edit in edits]))
    maxima = {int(feature): float(index.maximum[feature]) for feature in used}
    return SteerJob(number, edits, new_tokens, sets, folder, maxima)


def require_options(study: OpenStudy, number: int) -> McqItem:
    """The case, if its answer is one of options. Raises `NotFoundError`, and `DataError` for an open question."""
    items = list(study.items.values())
    if not 0 <= number < len(items):
        raise refusal(NotFoundError, "refused.case", of=len(items), number=number)
    if items[number].is_open:
        raise refusal(DataError, "refused.open")
    return items[number]


def log_odds(logits: FloatArray, option: int) -> FloatArray:
    """`[...]`: `ln p/(1 - p)` of an option among the options, from logits `[..., L]`."""
    others = np.delete(np.asarray(logits, dtype=np.float64), option, axis=-1)
    most = others.max(axis=-1, keepdims=True)
    return logits[..., option] - (np.log(np.exp(others - most).sum(axis=-1)) + most[..., 0])


def _shares(logits: FloatArray) -> FloatArray:
    if not logits.size:
        return logits
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _change(edits: Sequence[FeatureEdit], features: Sequence[int], maxima: dict[int, float]) -> dict[str, Any]:
    """The edits made to `features` in their places, as `interventions.edits.Change` takes them."""
    put, add = [], []
    for edit, feature in zip(edits, features, strict=True):
        value = edit.strength * maxima[feature]
        if edit.how in ("off", "clamp"):
            put.append([feature, 0.0 if edit.how == "off" else value])
        else:
            add.append([feature, value if edit.how == "amplify" else -value])
    return {"put": put, "add": add}
