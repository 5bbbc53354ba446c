"""Two model organisms beside each other: the same exam, answered equally well, for different reasons.

    TWINS/exam/         the synthetic exam (`controls.organisms`)
    TWINS/concepts/     the study of the twin that answers by the findings that the explanations name
    TWINS/shortcut/     that of the twin that answers by a place that they never name
    twins.html ...      both, metric by metric, in English and Korean

What an instrument says of them shows what its words are worth: the read-out must be the same for both, what is causal
must not. The numbers are those of `study` and `align`; none is made here but the level of guessing and its spread.

Out of scope: the proof that the twins are what they are (`organisms check`), many seeds (`docs/organisms.md`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sae_lens_med import plots
from sae_lens_med.controls.organisms.rows import CONCEPTS_FILE, write_exam
from sae_lens_med.data import load_items
from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.metrics.metric import Family
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.pages import page_names, write_pages
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO
from sae_lens_med.study.beside import Side, beside, read_side
from sae_lens_med.study.measure import run_alignment
from sae_lens_med.study.run import run_study

FOLDER = "twins"
TWINS: Mapping[str, str] = {"concepts": "organism/ko-concepts-0", "shortcut": "organism/ko-shortcut-0"}
"""Folder -> organism; the first answers by what the explanations name."""
N_ITEMS, EXAM_SEED = 100, 1
"""Of the exam; no item of this seed is in the text of the packaged SAEs."""
READ_OUT = ("retrieval", "difference")
CAUSAL = ("plausibility", "comprehensiveness", "sufficiency", "causal-agreement", "verdicts")
SETTINGS = MetricSettings(causal_sets=59)
PERMUTATIONS = 999
HEADINGS: Mapping[Family | None, str] = {
    None: "Both answer the exam",
    "readout": "What can be read off: the same in both",
    "causal": "What the answer rests on: not the same",
}
VERDICTS: Mapping[str, str] = {
    "both_q_rejects": "shared reasoning, of which it is sure that they are both at once",
    "n_shared_reasoning": "shared reasoning: mentioned and causal",
    "n_present_unused": "present, not used: mentioned, not causal",
    "n_hidden_driver": "hidden driver: causal, not mentioned",
    "n_neither": "neither mentioned nor causal",
}
"""Of `MetricValue.extra` of `SHARED` -> what it counts."""
PAGES = page_names("twins")
"""What `write_twins` writes."""


def run_twins(
    folder: Path,
    open_side: Callable[[str], ModelSide],
    *,
    n_items: int = N_ITEMS,
    settings: MetricSettings = SETTINGS,
    on_stage: Callable[[str, str], None] | None = None,
) -> None:
    """Make the exam and both studies with their alignment metrics in `folder`/`FOLDER`; what is there is kept.

    `open_side` opens an organism and its SAE by name. `on_stage` is told a stage and what becomes of it.
    """
    place = folder / FOLDER
    write_exam(place / "exam", "ko", n_items, EXAM_SEED)
    data = load_items(str(place / "exam" / "natural.jsonl"))
    for name, organism in TWINS.items():
        side = open_side(organism)
        told = None if on_stage is None else (lambda what, state, name=name: on_stage(f"{name}: {what}", state))
        run_study(
            side.model, side.loaded_sae, data, place / name, permutations=PERMUTATIONS, n_shown=2,
            progress=side.progress, on_stage=told,
        )  # fmt: skip
        run_alignment(
            place / name,
            (*READ_OUT, *CAUSAL),
            permutations=PERMUTATIONS,
            concepts=str(place / "exam" / CONCEPTS_FILE),
            open_model=lambda _, side=side: side,
            settings=settings,
            on_metric=told,
        )


def read_twins(folder: Path) -> tuple[Side, Side]:
    """The studies in `folder`/`FOLDER`. Raises `StudyError` where one is missing or damaged."""
    first, second = (read_side(folder / FOLDER / name) for name in TWINS)
    return first, second


def pair_rows(first: Side, second: Side, language: Language = ENGLISH) -> tuple[list[plots.PairRow], tuple[str, str]]:
    """What `plots.pairs` draws of them, and their names."""
    say = language.text
    headings: dict[Family | None, str] = {family: say(heading) for family, heading in HEADINGS.items()}
    return beside(first, second, headings, language), (say("answers by the findings"), say("answers by the place"))


def write_twins(folder: Path) -> tuple[Path, ...]:
    """Write `PAGES` into `folder` from the studies in `folder`/`FOLDER`, and return their paths.

    Raises `StudyError` where a study is missing or damaged.
    """
    first, second = read_twins(folder)
    return write_pages(folder, "twins", "twins", lambda language: _view(first, second, language))


def _view(first: Side, second: Side, language: Language) -> dict[str, Any]:
    say = language.text
    rows, names = pair_rows(first, second, language)
    drawn = plots.svg(
        plots.pairs(rows, names, language=language),
        title=say("Two models that answer alike for different reasons"),
        description=plots.describe_pairs(rows, names, language=language),
    )
    return {
        "disclaimers": (DISCLAIMER, DISCLAIMER_KO) if language.code == "en" else (DISCLAIMER_KO,),
        "drawn": Markup(drawn),  # every text in it is escaped by `plots.svg`
        "rows": rows,
        "names": names,
        "n": first.accuracy.n,
        "verdicts": [
            (say(told), [None if twin.verdicts is None else int(twin.verdicts.extra[key]) for twin in (first, second)])
            for key, told in VERDICTS.items()
        ],
        "folders": [f"{FOLDER}/{name}" for name in TWINS],
    }
