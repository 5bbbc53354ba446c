"""What a metric is: one entry of an analysis room's `METRICS`, and what measuring it gives.

An entry carries everything that the rest of the package has to know of a metric: what it means and needs, how it is
measured, what its values depend on, and which sentences they allow. A metric is therefore one file, in its room, and
one line in the room's `METRICS`; the command line, the runner and the report read the list.

**Confirmatory** values are those that the correction for multiplicity (Benjamini-Hochberg) counts: one to three for
each metric, of the variant `sae`, on the items left out of the SAE's training text where the study tells them apart,
otherwise on all. Everything else (other groups, other variants, companions) is description and is not corrected.

**Families** are corrected apart (`FAMILIES`): what is nearly certain of the features would otherwise lower the bar for
what is said of causes. The family `features` does not change when explanations are permuted: it says what the features
are like and stands beside the table of alignment, not in it.

Out of scope: running metrics (`study.measure`), and what they are measured from (`inputs`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.languages import Sentence
from sae_lens_med.records import FloatArray, MetricValue
from sae_lens_med.statistics import SMALL_N, null_z

if TYPE_CHECKING:
    from sae_lens_med.metrics.inputs import Inputs

Need = Literal["explanations", "concepts", "spans", "model", "reasoning", "labels", "embeddings", "ratings"]
NEEDS: dict[Need, str] = {
    "explanations": "at least two items with an explanation",
    "concepts": "concepts named in the questions: the packaged lexicon, a file, or annotated spans",
    "spans": "spans of the question that an expert annotated",
    "model": "the model and the SAE of the study",
    "reasoning": "a model that generates reasoning",
    "labels": "texts that label features, and a judge",
    "embeddings": "embeddings of texts (TF-IDF where none are given)",
    "ratings": "a file of clinicians' ratings",
}
Family = Literal["readout", "causal", "features"]
FAMILIES: dict[Family, Sentence] = {
    "readout": Sentence("Read-out: what question and explanation share", "읽기: 질문과 해설이 공유하는 것"),
    "causal": Sentence("Causal: what moves the answer", "인과: 답을 움직이는 것"),
    "features": Sentence(
        "Beside it: what the features are like, whatever the explanations say",
        "참고: 해설의 내용과 무관한 특징 자체의 성질",
    ),
}
"""What each family is about, in the order in which they are reported."""
ALL = "all"
"""The name that stands for every metric of a list."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one metric gives."""

    metrics: tuple[MetricValue, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not measured and why, one sentence each."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """File name -> JSON value, or text for names that do not end in `.json`: written beside `metrics.json`."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a confirmatory value allows to be said: clauses that follow "that", in Korean ending in -다."""

    may: Sentence
    """When it stands out from its null."""
    may_not: Sentence
    """Not even then."""
    floor: float = 0.0
    """The smallest effect that is claimed whatever its p, in the metric's own unit: the value must lie this far above
    its null and, where there is one, above `least`."""
    least: float | None = None
    """The value that means no effect, so that a value at or below it is never claimed, wherever its null lies; None
    where only the null says what no effect is."""

    def __post_init__(self) -> None:
        if not self.floor >= 0:
            raise ConfigError(f"the smallest effect that is claimed must be 0 or more, got {self.floor}.")


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of a room's `METRICS`."""

    name: str
    """What `--metrics` calls it."""
    number: int
    """In the field's table, 1 to 15; 16 is the conclusion drawn from them feature by feature."""
    family: Family
    """What it is corrected with; no value of the family `causal` is claimed without a span (`study.counted`)."""
    title: str
    meaning: str
    """One sentence."""
    range: tuple[float | None, float | None]
    """Of the first value it gives; None where unbounded."""
    null: str
    """One sentence: what it is compared with."""
    needs: tuple[Need, ...]
    source: str
    """Who defined it."""
    values: tuple[str, ...]
    """Names of the `MetricValue`s that it gives, or their beginnings; they are replaced when it is measured again."""
    confirmatory: tuple[str, ...]
    """Those of them that count in the correction for multiplicity."""
    claims: Mapping[str, Claim]
    """Name of a confirmatory value -> its claim."""
    depends_on: "tuple[Callable[[Inputs], Mapping[str, Any]], ...]"
    """What its values depend on beside the study itself, as JSON values (`metrics.depends`): a metric is measured again
    when one of them has changed."""
    measure: "Callable[[Inputs], Measured]"

    def __post_init__(self) -> None:
        for name in self.confirmatory:
            if not self.owns(name):
                raise ConfigError(f"the metric {self.name!r} counts {name!r}, which is not one of its values; list it.")
            if name not in self.claims:
                raise ConfigError(f"the metric {self.name!r} counts {name!r} without a claim; say what it allows.")

    def owns(self, value_name: str) -> bool:
        """Whether a `MetricValue` of this name is one of this metric's."""
        return any(value_name == name or value_name.startswith(name + "_") for name in self.values)

    def unmet(self, missing: Collection[Need]) -> tuple[Need, ...]:
        """Those of its needs that are missing."""
        return tuple(need for need in self.needs if need in missing)

    def to_dict(self) -> dict[str, Any]:
        """For `list-metrics --json`."""
        return {
            "name": self.name,
            "number": self.number,
            "family": self.family,
            "title": self.title,
            "meaning": self.meaning,
            "range": list(self.range),
            "null": self.null,
            "needs": list(self.needs),
            "source": self.source,
            "values": list(self.values),
            "confirmatory": list(self.confirmatory),
        }


class MetricList:
    """The metrics of a room, in the order in which they are listed and reported."""

    def __init__(self, metrics: Iterable[Metric] = ()) -> None:
        self._by_name: dict[str, Metric] = {}
        for metric in metrics:
            self.register(metric)

    def __iter__(self) -> Iterator[Metric]:
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __getitem__(self, name: str) -> Metric:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """What `--metrics` takes, without `all`."""
        return tuple(self._by_name)

    def register(self, metric: Metric) -> None:
        """Put a metric at the end of the list. Raises `ConfigError` for a name, or values, that another one has."""
        if metric.name == ALL or metric.name in self._by_name:
            raise ConfigError(f"there is already a metric {metric.name!r}; choose another name for the new one.")
        for name in metric.values:
            for other in self:
                if other.owns(name) or any(metric.owns(theirs) for theirs in other.values):
                    raise ConfigError(
                        f"the metric {metric.name!r} gives {name!r}, which {other.name!r} gives already; rename it."
                    )
        self._by_name[metric.name] = metric

    def remove(self, name: str) -> None:
        """Take a registered metric off the list. Raises `ConfigError` for an unknown name."""
        self.choose([name])
        del self._by_name[name]

    def choose(self, names: Iterable[str]) -> tuple[Metric, ...]:
        """The metrics of these names, in the order of the list; `all` for every one.

        Raises `ConfigError` for an unknown name, with near ones.
        """
        wanted: set[str] = set()
        for name in names:
            if name == ALL:
                wanted |= set(self._by_name)
            elif name in self._by_name:
                wanted.add(name)
            else:
                hint = nearest(name, self._by_name) or f"; the metrics are {', '.join(self._by_name)}."
                raise ConfigError(f"there is no metric {name!r}{hint}")
        if not wanted:
            raise ConfigError(f"no metric was named; use {ALL} or some of {', '.join(self._by_name)}.")
        return tuple(metric for metric in self if metric.name in wanted)

    def owner(self, value_name: str) -> Metric | None:
        """The metric that gives `MetricValue`s of this name."""
        return next((metric for metric in self if metric.owns(value_name)), None)


def few(n: int, unit: str = "") -> str:
    """The end of a note on `n` units: a full stop, with a warning before it where they are too few for a claim."""
    return f"; n = {n}{unit} is small, so this cannot carry a claim." if n < SMALL_N else "."


def with_z(value: float, null: FloatArray, extra: Mapping[str, float]) -> dict[str, float]:
    """`extra` and `z`, the distance of `value` from the mean of its null in the null's standard deviations, where it
    has a spread."""
    z = null_z(value, null)
    return dict(extra) if z is None else {"z": z, **extra}
