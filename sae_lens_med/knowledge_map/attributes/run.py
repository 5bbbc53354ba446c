"""A model and vignettes -> a folder: who the patient is, what that does to the answer, and which features do it.

    manifest.json              what the run depends on
    answers.partial.jsonl      the score of every option of every question, features ablated or none; a run that was
                               stopped goes on behind them
    attributes.json            rows, features, hints, the table of told apart x used, the sentences
    attributes.csv             a line for each row of all of them
    attributes.svg             how far each attribute and hint moves the margin, beside what cannot matter

Out of scope: several processes.
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.evaluation.method import Method
from sae_lens_med.knowledge_map.attributes.answers import Asker, margin_of
from sae_lens_med.knowledge_map.attributes.carriers import (
    CarrierRow,
    Carriers,
    CarrierSettings,
    QuestionPair,
    corrected_carriers,
)
from sae_lens_med.knowledge_map.attributes.effects import (
    Asked,
    AttributeRow,
    corrected,
    follows,
    gate_row,
    irrelevant_rows,
    relevant_rows,
)
from sae_lens_med.knowledge_map.attributes.sentences import LIMITS, UNITS, Claim, TableCell, claims, table
from sae_lens_med.knowledge_map.attributes.sycophancy import (
    HintedVignette,
    HintRow,
    corrected_hints,
    hint_pairs,
    hint_row,
    hinted,
)
from sae_lens_med.knowledge_map.attributes.vignettes import VignetteLists
from sae_lens_med.knowledge_map.lists import LanguageCode
from sae_lens_med.records import McqItem, Record
from sae_lens_med.runs.files import write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

KIND = Kind("attribute map", format=1, identity=lambda values: values["identity"])
METHODS = ("letter", "option-text")
ANSWERS_FILE = "answers.partial.jsonl"


@dataclass(frozen=True, slots=True)
class AttributeSettings:
    """What the user chooses."""

    languages: tuple[LanguageCode, ...] = ("ko", "en")
    method: str = "letter"
    """`letter`, or `option-text` for a model that does not know letters."""
    draws: int = 999
    """Swap draws, and flips of signs."""
    features: int = 5
    """Features that are chosen for each effect, at most."""
    random_sets: int = 39
    """Matched-random sets beside them."""
    seed: int = 0
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("draws", 19, 10**5), ("features", 1, 100), ("random_sets", 20, 10**4)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from {least} to {most}, got {getattr(self, name)}.")
        if self.method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if not self.languages:
            raise ConfigError("name at least one language: ko, en.")


@dataclass(frozen=True, slots=True)
class AttributeMap(Record):
    """What a run found."""

    _nested = {
        "rows": AttributeRow,
        "carriers": CarrierRow,
        "hints": HintRow,
        "table": TableCell,
        "claims": Claim,
    }  # fmt: skip

    unit: str
    """Of margins."""
    rows: tuple[AttributeRow, ...]
    carriers: tuple[CarrierRow, ...]
    """Empty without an SAE."""
    hints: tuple[HintRow, ...]
    table: tuple[TableCell, ...]
    claims: tuple[Claim, ...]
    limits: tuple[str, str] = LIMITS
    """English, Korean."""


def map_attributes(
    model: "MedBridge",
    lists: VignetteLists,
    output: Path,
    settings: AttributeSettings | None = None,
    *,
    sae: "LoadedSae | None" = None,
    progress: bool = True,
) -> AttributeMap:
    """What the attributes of the patient do to a model's answers, in the folder `output`.

    Args:
        model: from `load_model`.
        lists: what it is asked.
        output: new, empty, or that of the same run.
        settings: see `AttributeSettings`.
        sae: whose features may carry an effect; None: features are not looked for.
        progress: show a bar on stderr.

    Raises `StudyError` for a folder of something else, `DataError` for lists without vignettes in the languages,
    `ModelError` where the option letters are no tokens of their own (use `option-text`).
    """
    settings = settings or AttributeSettings()
    languages: tuple[LanguageCode, ...] = tuple(code for code in settings.languages if code in lists.languages)
    if not languages:
        raise DataError(f"{lists.source}: there are no vignettes in {' or '.join(settings.languages)}.")
    method = Method(settings.method)
    chosen = {key: value for key, value in asdict(settings).items() if key != "batch_tokens"}
    identity: dict[str, Any] = {
        "model": dict(model.provenance),
        "sae": None if sae is None else dict(sae.identity),
        "lists": {"source": lists.source, "sha256": lists.sha256},
        "settings": {**chosen, "languages": list(languages), **method.settings(languages)},
    }
    run = RunFolder(output, KIND, {"identity": identity, "versions": versions(), "parts": {}})
    run.begin()
    began = time.monotonic()
    with progress_bar(progress) as bar:
        store = PartialResults(output / ANSWERS_FILE, identity)
        asker = Asker(model, method, sae=sae, store=store, batch_tokens=settings.batch_tokens)
        found = _found(asker, lists, languages, settings, bar)
    write_attributes(found, output)
    if "attributes" not in run.parts:
        run.finish("attributes", time.monotonic() - began)
    return found


def write_attributes(found: AttributeMap, output: Path) -> None:
    """`attributes.json`, `attributes.csv` and `attributes.svg`."""
    from sae_lens_med.plots.attributes import describe_effects, effects
    from sae_lens_med.plots.markup import svg

    write_json(output / "attributes.json", found.to_dict())
    write_text(output / "attributes.csv", to_csv(found))
    drawn = [*(row for row in found.rows if row.measure in ("margin", "follows")), *found.hints]
    picture = svg(
        effects(drawn, unit=found.unit), title="Attributes of the patient", description=describe_effects(drawn)
    )
    write_text(output / "attributes.svg", picture)


def to_csv(found: AttributeMap) -> str:
    """A line for each row of attributes, features and hints."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["language", "about", "kind", "measure", "n", "value", "low", "high", "null_mean", "null_high", "p", "p_items"]
        + ["q", "tokens", "swap_tokens", "stands_out", "features"]
    )

    def line(*values: Any) -> None:
        lines.writerow(["" if value is None else value for value in values])

    for row in found.rows:
        low, high = row.interval or (None, None)
        line(row.language, row.attribute, row.kind, row.measure, row.n, row.value, low, high, row.null_mean,
             row.null_high, row.p, row.p_items, row.q, row.tokens, row.swap_tokens, row.stands_out, None)  # fmt: skip
    for each in found.carriers:
        low, high = each.interval or (None, None)
        line(each.language, each.about, "features", "told_apart", each.n, each.told_apart, None, None, 0.0, None,
             each.told_apart_p, None, each.told_apart_q, None, None, each.is_told_apart, None)  # fmt: skip
        if each.drop is not None:
            named = " ".join(map(str, each.features))
            line(each.language, each.about, "features", "drop", each.n, each.drop, low, high, each.null_mean,
                 each.null_high, each.p, None, each.q, None, None, each.carried, named)  # fmt: skip
        if each.cost is not None:
            named = " ".join(map(str, each.features))
            line(each.language, each.about, "features", "cost", each.n, each.cost, None, None, each.cost_null_mean,
                 each.cost_null_high, each.cost_p, None, None, None, None, None, named)  # fmt: skip
    for hint in found.hints:
        low, high = hint.interval or (None, None)
        line(hint.language, hint.hint, "hint", "margin", hint.n, hint.value, low, high, hint.null_mean, hint.null_high,
             hint.p, None, hint.q, None, None, hint.stands_out, None)  # fmt: skip
    return text.getvalue()


def _found(
    asker: Asker, lists: VignetteLists, languages: Sequence[LanguageCode], settings: AttributeSettings, bar: Progress
) -> AttributeMap:
    asked = {code: _Language(asker, lists, code) for code in languages}
    everything = {item.id: item for each in asked.values() for item in each.items}
    task = bar.add_task("answers", total=len(everything))
    done = set(asker.store.done) if asker.store is not None else set()
    bar.advance(task, sum(name in done for name in everything))
    asker.on_answers = lambda n: bar.advance(task, n)
    asker.scores(list(everything.values()))
    rng = np.random.default_rng(settings.seed)
    rows = corrected([row for each in asked.values() for row in each.rows(settings.draws, rng)])
    hints = corrected_hints([row for each in asked.values() for row in each.hint_rows(settings.draws, rng)])
    if not rows and not hints:
        raise DataError(f"{lists.source}: there is nothing to measure: no attribute, no relevant vignette, no hint.")
    carriers: list[CarrierRow] = []
    if asker.sae is not None:
        wanted = [(each, job) for each in asked.values() for job in each.jobs(rows, hints)]
        task = bar.add_task("features", total=len(wanted))
        asker.on_answers = None
        for each, (about, pairs, moved, signed) in wanted:
            own = CarrierSettings(settings.features, settings.random_sets, settings.seed)
            finder = Carriers(asker, each.relevant_items, own)
            carriers.append(finder.find(each.code, about, pairs, moved=moved, signed=signed))
            bar.advance(task)
        carriers = corrected_carriers(carriers)
    return AttributeMap(
        UNITS[settings.method][0],
        tuple(rows),
        tuple(carriers),
        tuple(hints),
        tuple(table(rows, carriers)),
        tuple(claims(rows, carriers, hints, settings.method)),
    )


class _Language:
    """The questions of one language, and their rows."""

    def __init__(self, asker: Asker, lists: VignetteLists, code: LanguageCode) -> None:
        self.asker, self.lists = asker, lists
        self.code: LanguageCode = code
        self.irrelevant = lists.asked("irrelevant", code)
        self.relevant = lists.asked("relevant", code)
        self.hints = [hint for hint in lists.hints if hint.language == code and self.irrelevant]
        self.swaps = lists.names("swap", code)
        self.attributes = [name for name in lists.names("attribute", code) if lists.asked("irrelevant", code, name)]
        self._tokens: dict[str, int] = {}

    @property
    def items(self) -> list[McqItem]:
        """All questions, some of them several times."""
        found = [item for name in (*self.swaps, *self.attributes) for row in self._asked_of(name) for item in row]
        found += self.relevant_items
        for hint in self.hints:
            found += [item for each in self._hinted(hint.hint) for item in each.items]
        return found

    @property
    def relevant_items(self) -> list[McqItem]:
        """Of all patients."""
        return [vignette.item(patient) for vignette in self.relevant for patient in vignette.answers]

    def rows(self, draws: int, rng: np.random.Generator) -> list[AttributeRow]:
        """Without q."""
        found: list[AttributeRow] = []
        swaps = [self._read(name) for name in self.swaps] if self.attributes else []
        for name in self.attributes:
            values = self._values(name)
            contrasts = [(values.index(a), values.index(b)) for a, b in self.lists.contrasts(name, self.code)]
            own = [self.irrelevant.index(each) for each in self.lists.asked("irrelevant", self.code, name)]
            beside = [swap.rows(own) for swap in swaps]
            found += irrelevant_rows(self.code, name, self._read(name).rows(own), contrasts, beside, draws, rng)
        if self.relevant:
            moved: dict[str, list[float]] = {}
            chosen, answers = [], []
            for vignette in self.relevant:
                scores = self.asker.scores([vignette.item(patient) for patient in vignette.answers])
                right = list(vignette.answers.values())
                moved.setdefault(vignette.attribute, []).append(follows(scores, right))
                chosen.append([int(each.argmax()) for each in scores])
                answers.append(right)
            found += relevant_rows(self.code, moved, draws, rng)
            found.append(gate_row(self.code, chosen, answers, draws, rng))
        return found

    def hint_rows(self, draws: int, rng: np.random.Generator) -> list[HintRow]:
        """Without q."""
        return [hint_row(self.code, each.hint, self._hinted(each.hint), self.asker, draws, rng) for each in self.hints]

    def jobs(
        self, rows: Sequence[AttributeRow], hints: Sequence[HintRow]
    ) -> list[tuple[str, list[QuestionPair], bool, bool]]:
        """What features are looked for: name, pairs, whether it moves the answer, whether it has a direction."""
        found = []
        for name in self.attributes:
            patients = self.lists.of(name, self.code)
            moved = any(
                row.stands_out for row in rows
                if (row.language, row.attribute, row.measure) == (self.code, name, "margin")
            )  # fmt: skip
            pairs = [
                QuestionPair(vignette.vignette, number, vignette.item(patients[a]), vignette.item(patients[b]))
                for vignette in self.lists.asked("irrelevant", self.code, name)
                for number, (a, b) in enumerate(self.lists.contrasts(name, self.code))
            ]
            found.append((name, pairs, moved, False))
        for hint in self.hints:
            moved = any(row.stands_out for row in hints if (row.language, row.hint) == (self.code, hint.hint))
            found.append((hint.hint, hint_pairs(self.irrelevant, self._hinted(hint.hint)), moved, True))
        return found

    def _values(self, name: str) -> list[str]:
        """Of an attribute those that are compared, of a swap all."""
        contrasts = self.lists.contrasts(name, self.code)
        used = {value for pair in contrasts for value in pair}
        return [value for value in self.lists.of(name, self.code) if not contrasts or value in used]

    def _asked_of(self, name: str) -> list[list[McqItem]]:
        """A row of questions for each value: all irrelevant vignettes."""
        patients = self.lists.of(name, self.code)
        return [[vignette.item(patients[value]) for vignette in self.irrelevant] for value in self._values(name)]

    def _read(self, name: str) -> Asked:
        items = self._asked_of(name)
        scores = [self.asker.scores(row) for row in items]
        return Asked(
            np.array(
                [
                    [margin_of(i, s) for i, s in zip(row, own, strict=True)]
                    for row, own in zip(items, scores, strict=True)
                ]
            ),
            np.array([[int(s.argmax()) for s in own] for own in scores], dtype=np.int64),
            np.array([[float(self._length(item)) for item in row] for row in items]),
        )

    def _length(self, item: McqItem) -> int:
        """Tokens of the question's text."""
        if item.question not in self._tokens:
            self._tokens[item.question] = len(self.asker.model.text_tokenizer(item.question).input_ids)
        return self._tokens[item.question]

    def _hinted(self, hint: str) -> list[HintedVignette]:
        own = next(each for each in self.hints if each.hint == hint)
        return [hinted(vignette, self.lists.neutral(self.code), own) for vignette in self.irrelevant]
