"""A model, SAEs and lists -> a folder with the features of its knowledge map, and with what is bilingual among them.

    manifest.json       what it depends on, which parts are done, and what was left out (`notes`)
    read/*.safetensors  residuals at the names (`names`), for each domain, language and model
    effects/*.json      ablations (`bilingual_effects`), for each feature and language
    features.json  features.csv   rows (`features.FeatureRow`) of one language each
    features.svg        the best feature of each label, in each language and across
    bilingual.json      `retrieval`, `across` (chosen in one language, tested in the other), `language_features`,
                        `shares`, `effects`, and `limits` in words

Out of scope: several processes.
"""

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.knowledge_map.bilingual import (
    LanguageFeature,
    RetrievalRow,
    Shares,
    corrected_retrieval,
    language_features,
    retrieved,
    shares,
    shares_strings,
)
from sae_lens_med.knowledge_map.bilingual_effects import EffectRow, ablated, corrected_effects, effect_row
from sae_lens_med.knowledge_map.features import (
    FeatureRow,
    carriers,
    corrected,
    held_out,
    require_labels,
)
from sae_lens_med.knowledge_map.features_reading import concept_acts, read_all, texts_of
from sae_lens_med.knowledge_map.lists import LANGUAGES, LanguageCode, Lists, Place
from sae_lens_med.knowledge_map.names import NamePosition, depth_of
from sae_lens_med.runs.files import write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions

if TYPE_CHECKING:
    from sae_lens_med.features.store import CollectedFeatures
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

KIND = Kind("map of features", format=1, identity=lambda values: values["identity"])
CONTEXTS = 5
LIMITS = (
    "A feature that tells concepts of a label apart is a read-out: it does not show that the model uses it.",
    "A label may be carried by many features together: that no single one stands out does not show that it is absent.",
    "Held-out halves are small: a feature that is not chosen, or not confirmed, may carry the label all the same.",
    "An ablation shows that the next word depends on a feature at these names, not that the model reasons with it.",
    "Another SAE of the same model may have other features: a claim about one feature needs several seeds.",
    "The packaged lists were reviewed by no clinician.",
)


@dataclass(frozen=True, slots=True)
class FeatureMapSettings:
    """What the user chooses."""

    languages: tuple[LanguageCode, ...] = ("ko", "en")
    position: NamePosition = "concept"
    permutations: int = 1000
    random_models: int = 3
    """Models with permuted weights beside it."""
    ablate: int = 6
    """Most bilingual features of an SAE that are ablated."""
    matched: int = 99
    """Matched features beside each."""
    seed: int = 0
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        bounds = (("permutations", 19, 10**6), ("random_models", 0, 100), ("ablate", 0, 1000), ("matched", 19, 10**4))
        for name, least, most in bounds:
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from {least} to {most}, got {getattr(self, name)}.")
        if not self.languages:
            raise ConfigError("name at least one language: ko, en.")


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """What a run gives."""

    rows: list[FeatureRow]
    """Of one language each."""
    retrieval: list[RetrievalRow]
    across: list[FeatureRow]
    """Chosen in one language, tested in the other."""
    languages: list[LanguageFeature]
    shares: list[Shares]
    effects: list[EffectRow]
    notes: list[str]
    """What was left out, and why."""

    def bilingual(self) -> dict[str, Any]:
        """`bilingual.json`."""
        parts: dict[str, Sequence[Any]] = {
            "retrieval": self.retrieval,
            "across": self.across,
            "language_features": self.languages,
            "shares": self.shares,
            "effects": self.effects,
        }
        return {name: [each.to_dict() for each in rows] for name, rows in parts.items()} | {"limits": list(LIMITS)}


def make_feature_map(
    open_model: Callable[[], "MedBridge"],
    saes: Sequence["LoadedSae"],
    lists: Lists,
    output: Path,
    settings: FeatureMapSettings | None = None,
    *,
    collections: "Sequence[CollectedFeatures]" = (),
    progress: bool = True,
) -> FeatureMap:
    """The features that carry the labels of a map, in the folder `output`.

    Args:
        open_model: gives the model, anew at each call.
        saes: of hooks of this model, `standard`, `jumprelu` or `topk`.
        lists: a domain without labels counts in `retrieval` alone.
        output: new, empty, or that of the same run.
        settings: see `FeatureMapSettings`.
        collections: of these SAEs; their strongest contexts are put beside the features.
        progress: show a bar on stderr.

    Raises `StudyError` for a folder of something else or a collection of another SAE, `DataError` for lists without
    labels, `ReleaseError` for an SAE of another kind, `ModelError` for one of another model.
    """
    settings = settings or FeatureMapSettings()
    require_labels(lists.concepts)
    contexts = _contexts(saes, collections)
    places = lists.places(settings.languages)
    model = open_model()
    run = _begin(model, saes, lists, output, settings, collections)
    read_all(
        model,
        open_model,
        saes,
        lists,
        places,
        run,
        random_models=settings.random_models,
        seed=settings.seed,
        batch_tokens=settings.batch_tokens,
        progress=progress,
    )
    found = _measured(saes, lists, places, run, settings, progress)
    found = replace(found, effects=_effects(model, saes, lists, found.across, run, settings, progress))
    if contexts:
        found = replace(found, rows=_beside(found.rows, contexts), across=_beside(found.across, contexts))
    run.values["notes"] = found.notes
    run.write()
    write_feature_map(found, output)
    return found


def write_feature_map(found: FeatureMap, output: Path) -> None:
    """`features.json`, `features.csv`, `features.svg` and `bilingual.json`."""
    from sae_lens_med.plots.map_features import carried_labels, describe_carried
    from sae_lens_med.plots.markup import svg

    write_json(output / "features.json", [row.to_dict() for row in found.rows])
    write_json(output / "bilingual.json", found.bilingual())
    write_text(output / "features.csv", to_csv([*found.rows, *found.across]))
    drawn = [*found.rows, *found.across]
    if drawn:
        picture = svg(carried_labels(drawn), title="Features of a knowledge map", description=describe_carried(drawn))
        write_text(output / "features.svg", picture)


def to_csv(rows: Sequence[FeatureRow]) -> str:
    """A line for each row, those across languages too."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    left = [each.name for each in fields(FeatureRow) if each.name not in ("interval", "random", "contexts")]
    table.writerow([*left, "low", "high", "random_most"])
    for row in rows:
        values = (getattr(row, name) for name in left)
        told = ["; ".join(value) if isinstance(value, tuple) else value for value in values]
        table.writerow([*told, *row.interval, max(row.random, default="")])
    return text.getvalue()


def _begin(
    model: "MedBridge",
    saes: Sequence["LoadedSae"],
    lists: Lists,
    output: Path,
    settings: FeatureMapSettings,
    collections: "Sequence[CollectedFeatures]",
) -> RunFolder:
    chosen = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name != "batch_tokens"}
    identity = {
        "model": dict(model.provenance),
        "saes": [sae.identity for sae in saes],
        "lists": {"source": lists.source, "sha256": lists.sha256},
        "settings": {**chosen, "languages": list(settings.languages)},
        "collections": [each.manifest["settings"] for each in collections],
    }
    run = RunFolder(output, KIND, {"identity": identity, "versions": versions(), "notes": [], "parts": {}})
    run.begin()
    for name in ("read", "effects"):
        (output / name).mkdir(exist_ok=True)
    return run


# --- measuring --------------------------------------------------------------------------------------------------------


def _measured(
    saes: Sequence["LoadedSae"],
    lists: Lists,
    places: Sequence[Place],
    run: RunFolder,
    settings: FeatureMapSettings,
    progress: bool,
) -> FeatureMap:
    rows: list[FeatureRow] = []
    across: list[FeatureRow] = []
    retrieval: list[RetrievalRow] = []
    languages: list[LanguageFeature] = []
    notes: list[str] = []
    halves = _halves(lists, settings)
    with progress_bar(progress) as bar:
        task = bar.add_task("measuring", total=len(saes) * len(places))
        for number, sae in enumerate(saes):
            rng = np.random.default_rng(settings.seed)
            about: dict[str, Any] = {"depth": depth_of(sae.hook_name), "sae": sae.source}
            more: dict[str, Any] = {
                **about,
                "position": settings.position,
                "permutations": settings.permutations,
                "rng": rng,
            }
            acts = concept_acts(
                number,
                sae,
                lists,
                places,
                run.path,
                position=settings.position,
                random_models=settings.random_models,
                seed=settings.seed,
            )
            pairs = []
            for domain in dict.fromkeys(domain for domain, _ in places):
                own = [acts[place] for place in places if place[0] == domain]
                bar.advance(task, len(own))
                for labels in lists.label_sets(domain):
                    for each in own:
                        found, left = carriers(each, each, halves[domain], labels, **more)
                        rows, notes = rows + found, notes + left
                if len(own) < 2:
                    continue
                korean, english = own
                pairs.append((korean, english))
                shared = frozenset(
                    each.concept for each in korean.concepts if "en" in each.forms and shares_strings(each)
                )
                for labels in lists.label_sets(domain):
                    for train, test in ((korean, english), (english, korean)):
                        found, left = carriers(train, test, halves[domain], labels, without=shared, **more)
                        across, notes = across + found, notes + left
                both = [retrieved(korean, english, keep_shared=keep, **more) for keep in (False, True)]
                retrieval += [row for row in both if row is not None]
            if pairs:
                languages += language_features(pairs, permutations=settings.permutations, rng=rng, **about)
    rows, across = corrected(rows), corrected(across)
    told = shares(rows, across, languages)
    return FeatureMap(rows, corrected_retrieval(retrieval), across, languages, told, [], list(dict.fromkeys(notes)))


def _halves(lists: Lists, settings: FeatureMapSettings) -> dict[str, frozenset[str]]:
    """The held-out concepts of each domain, the same for all languages and SAEs."""
    rng = np.random.default_rng(settings.seed)
    return {
        domain: held_out([each for each in lists.concepts if each.domain == domain], rng)
        for domain in lists.domains
        if lists.label_sets(domain)
    }


# --- ablating ---------------------------------------------------------------------------------------------------------


def _effects(
    model: "MedBridge",
    saes: Sequence["LoadedSae"],
    lists: Lists,
    across: Sequence[FeatureRow],
    run: RunFolder,
    settings: FeatureMapSettings,
    progress: bool,
) -> list[EffectRow]:
    """The bilingual features that stand out most, ablated in both languages."""
    jobs: list[tuple[int, FeatureRow, LanguageCode]] = [
        (number, row, language)
        for number, sae in enumerate(saes)
        for row in _to_ablate([row for row in across if row.sae == sae.source], settings.ablate)
        for language in LANGUAGES
    ]
    halves = _halves(lists, settings)
    found: list[EffectRow] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("ablating", total=len(jobs))
        for number, row, language in jobs:
            part = f"ablated-{number}-{row.feature}-{language}"
            path = run.path / "effects" / f"{part}.json"
            if part not in run.parts:
                from sae_lens_med.interventions.edits import AboveHook

                began = time.monotonic()
                above = AboveHook(model, saes[number], batch_tokens=settings.batch_tokens)
                held = {
                    i
                    for i, each in enumerate(lists.of(row.domain, language))
                    if each.concept in halves[row.domain] and each.labels[row.labels] == row.label
                }
                texts = [text for text in texts_of(lists, row.domain, language, model) if text.concept in held]
                rng = np.random.default_rng([settings.seed, row.feature])
                effects, random, fold, fires = ablated(above, texts, row.feature, settings.matched, rng)
                of = {name: getattr(row, name) for name in ("domain", "labels", "label", "depth", "sae", "feature")}
                told = effect_row(effects, random, fold=fold, fires=fires, n_texts=len(texts), language=language, **of)
                write_json(path, told.to_dict())
                run.finish(part, time.monotonic() - began, texts=len(texts))
            found.append(EffectRow.from_dict(read_json(path)))
            bar.advance(task)
    return corrected_effects(found)


def _to_ablate(rows: Sequence[FeatureRow], most: int) -> list[FeatureRow]:
    """Bilingual rows, the largest AUROC first, each feature once."""
    best: dict[int, FeatureRow] = {}
    for row in sorted((row for row in rows if row.stands_out), key=lambda row: -row.auroc):
        best.setdefault(row.feature, row)
    return list(best.values())[:most]


# --- contexts ---------------------------------------------------------------------------------------------------------

_Contexts = dict[str, dict[int, list[Any]]]


def _contexts(saes: Sequence["LoadedSae"], collections: "Sequence[CollectedFeatures]") -> _Contexts:
    from sae_lens_med.features.contexts import top_contexts

    found: _Contexts = {}
    for each in collections:
        identity = each.manifest["settings"]["sae"]
        own = [sae for sae in saes if sae.is_that_of(identity)]
        if not own:
            raise StudyError(
                f"the collection of features is of the SAE {identity['source']}, which is none of those given; collect "
                f"with {', '.join(sae.source for sae in saes)}."
            )
        found[own[0].source] = top_contexts(each, CONTEXTS)
    return found


def _beside(rows: Sequence[FeatureRow], contexts: _Contexts) -> list[FeatureRow]:
    shown = ("before", "token", "after", "value", "item_id")
    return [
        replace(
            row,
            contexts=tuple(
                {name: getattr(each, name) for name in shown} for each in contexts.get(row.sae, {}).get(row.feature, ())
            ),
        )
        for row in rows
    ]


def read_feature_map(folder: Path) -> list[FeatureRow]:
    """`features.json` of a folder. Raises `StudyError` where there is none, or it is damaged."""
    path = folder / "features.json"
    try:
        return [FeatureRow.from_dict(each) for each in read_json(path)]
    except (OSError, ValueError, TypeError, DataError) as error:
        raise StudyError(f"{path} cannot be read ({error}); run `sae-lens-med map features` again.") from error
