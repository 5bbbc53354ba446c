"""Two SAEs and texts -> a folder that says how far they found the same features, between its bounds.

    manifest.json                   what the comparison depends on, which parts are done
    words/NAME.safetensors          each dictionary at the words (`words.WordActs`)
    pairs/NAME-kept|removed.json    each comparison: its row and its pairs
    match.json  match.csv           all rows (`matching.MatchRow`): in the CSV a line for each row and threshold
    match.svg                       the curves
    features.csv                    a line for each feature of the first: its partner, r, the words of both, the seeds

What is compared with the first SAE: the second, and every other seed of the first (the upper bound). For each of these
stand two lower bounds, of the same activations: its directions shuffled, and the principal components. Texts are taken
in random order up to `words` words; half of them choose the pairs, the others say r. Both models are in memory at once.

Out of scope: several processes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import ConfigError
from sae_lens_med.knowledge_map.match_files import (
    features_csv,
    load_words,
    read_pairs,
    save_words,
    to_csv,
    write_pairs,
)
from sae_lens_med.knowledge_map.matching import (
    LOWER,
    MATCHED,
    SEEDS_FOR_A_CLAIM,
    Match,
    MatchRow,
    halves_of_texts,
    match,
    stable,
)
from sae_lens_med.knowledge_map.words import WordActs, Words, word_spans
from sae_lens_med.runs.files import json_sha256, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions
from sae_lens_med.statistics import ALPHA, benjamini_hochberg

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

KIND = Kind("match of two SAEs", format=1, identity=lambda values: values["identity"])
LEXICAL = ("kept", "removed")
_BOUNDS = {"shuffled": "shuffled directions", "pca": "principal components"}


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """What the user chooses."""

    words: int = 30_000
    """Most words that are read."""
    permutations: int = 199
    most_features: int | None = 8192
    """Of the first; a larger dictionary is matched by so many of its features, drawn at random."""
    context: int = 512
    seed: int = 0
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            *(("words", 100, 10**8), ("permutations", 19, 10**6), ("context", 2, 2**24)),
            *([] if self.most_features is None else [("most_features", 1, 10**6)]),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from {least} to {most}, got {getattr(self, name)}.")


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """An SAE and the model that it reads."""

    model: "MedBridge"
    sae: "LoadedSae"

    @property
    def identity(self) -> dict[str, Any]:
        return {"model": dict(self.model.provenance), "sae": self.sae.identity}

    @property
    def site(self) -> str:
        """Equal for SAEs that read one model at one hook."""
        return json_sha256([self.model.provenance, self.sae.hook_name])


@dataclass(frozen=True, slots=True)
class MatchResult:
    """What a comparison leaves."""

    rows: tuple[MatchRow, ...]
    n_seeds: int
    """Of the first SAE, itself among them."""
    n_features: int
    """Of the first that are compared with every seed, lexical ones among them; 0 without other seeds."""
    n_stable: int | None
    """Those that every seed has; None for fewer than three seeds."""
    notes: tuple[str, ...]
    """What may be concluded, a sentence each."""


@dataclass(frozen=True, slots=True)
class _Dictionary:
    """One that is put on the words of a side."""

    name: str
    kind: str
    """`sae`, `shuffled`, `pca`."""
    side: Side


@dataclass(frozen=True, slots=True)
class _Pairing:
    """The first against another."""

    other: _Dictionary
    what: str
    of: str


def match_saes(
    first: Side,
    second: Side | None,
    texts: Sequence[str],
    output: Path,
    settings: MatchSettings | None = None,
    *,
    seeds: Sequence["LoadedSae"] = (),
    progress: bool = True,
) -> MatchResult:
    """Match the first SAE with the second, and with other seeds of itself, in the folder `output`.

    Args:
        second: None where only seeds are compared.
        texts: what both models read; 20 at least.
        output: new, empty, or that of the same comparison.
        seeds: SAEs of the first's model and hook that differ from it in the seed.
        progress: show a bar on stderr.

    Raises `StudyError` for a folder of something else, `ConfigError` for nothing to compare or a seed of another hook,
    `DataError` for too few texts or words.
    """
    settings = settings or MatchSettings()
    others = ([("second", second)] if second else []) + [("seed", Side(first.model, sae)) for sae in seeds]
    if not others:
        raise ConfigError("there is nothing to compare with: name a second SAE, or other seeds of the first.")
    for sae in seeds:
        if sae.hook_name != first.sae.hook_name:
            raise ConfigError(
                f"{sae.source} reads {sae.hook_name}, not {first.sae.hook_name}; another seed of an SAE has its hook."
            )
    words = Words.of(_chosen(texts, settings))
    choosing = halves_of_texts(len(words.texts), np.random.default_rng([settings.seed, 0]))
    names = _names([first, *(side for _, side in others)])
    identity = {
        "first": first.identity,
        "others": [{"what": what, **side.identity} for what, side in others],
        "texts_sha256": json_sha256(list(words.texts)),
        "settings": {
            key: getattr(settings, key) for key in ("words", "permutations", "most_features", "context", "seed")
        },
    }
    run = RunFolder(output, KIND, {"identity": identity, "versions": versions(), "parts": {}})
    run.begin()
    for folder in ("words", "pairs"):
        (output / folder).mkdir(exist_ok=True)
    one = _Dictionary(names[0], "sae", first)
    pairings = _pairings([(what, side, name) for (what, side), name in zip(others, names[1:], strict=True)])
    found = _read_all([one, *(pairing.other for pairing in pairings)], words, run, settings, progress)
    matches = _match_all(found[one.name], pairings, found, words, choosing, run, settings, progress)
    rows = corrected([each.row for each in matches.values()])
    at_seeds = [each for each in matches.values() if (each.row.what, each.row.lexical) == ("seed", "kept")]
    result = _result(rows, at_seeds, names[0])
    write_match(result, output)
    write_text(output / "features.csv", features_csv(found, matches, at_seeds, words))
    return result


def corrected(rows: Sequence[MatchRow]) -> tuple[MatchRow, ...]:
    """The rows with q and what stands out, for those that are no lower bounds. A bound of which no feature is left has
    no row, and nothing of it that could match."""
    asked = [i for i, row in enumerate(rows) if row.what in ("second", "seed")]
    q = benjamini_hochberg([rows[i].p for i in asked])
    found = list(rows)
    for i, own in zip(asked, q, strict=True):
        row = rows[i]
        bounds = [each for each in rows if each.what in LOWER and each.of == row.second]
        bounds = [each.share for each in bounds if each.lexical == row.lexical]
        out = bool(own < ALPHA and row.interval[0] > max([*bounds, row.null_high]))
        found[i] = replace(row, q=float(own), stands_out=out)
    return tuple(found)


def write_match(result: MatchResult, output: Path) -> None:
    """`match.json`, `match.csv` and `match.svg`."""
    from sae_lens_med.plots.markup import svg
    from sae_lens_med.plots.matches import describe_matches, match_panels

    write_json(output / "match.json", to_json(result))
    write_text(output / "match.csv", to_csv(result.rows))
    drawn = svg(match_panels(result.rows), title="Features matched", description=describe_matches(result.rows))
    write_text(output / "match.svg", drawn)


def to_json(result: MatchResult) -> dict[str, Any]:
    """Plain JSON values."""
    seeds = {"n": result.n_seeds, "features": result.n_features, "stable": result.n_stable}
    return {"rows": [row.to_dict() for row in result.rows], "seeds": seeds, "notes": list(result.notes)}


def _chosen(texts: Sequence[str], settings: MatchSettings) -> list[str]:
    """Texts with words, in random order, until the words are enough."""
    chosen: list[str] = []
    words = 0
    for i in map(int, np.random.default_rng([settings.seed, 1]).permutation(len(texts))):
        if words < settings.words and (own := len(word_spans(texts[i]))):
            chosen.append(texts[i])
            words += own
    return chosen


def _names(sides: Sequence[Side]) -> list[str]:
    """Of the SAEs, told apart by a number where two are called alike."""
    names: list[str] = []
    for side in sides:
        name = side.sae.source
        names.append(name if name not in names else f"{name} ({names.count(name) + 1})")
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, start=1)]
    return names


def _pairings(others: Sequence[tuple[str, Side, str]]) -> list[_Pairing]:
    found: list[_Pairing] = []
    for what, side, name in others:
        found.append(_Pairing(_Dictionary(name, "sae", side), what, name))
        for kind in LOWER:
            found.append(_Pairing(_Dictionary(f"{name}, {kind}", kind, side), kind, name))
    return found


def _read_all(
    dictionaries: Sequence[_Dictionary],
    words: Words,
    run: RunFolder,
    settings: MatchSettings,
    progress: bool,
) -> dict[str, WordActs]:
    """Each dictionary at the words, from the folder where it is there; one pass of a model for each hook."""
    from sae_lens_med.knowledge_map.word_reading import (
        component_words,
        read_tokens,
        sae_acts,
        sae_words,
        shuffled_words,
    )

    places = {each.name: f"words-{number}" for number, each in enumerate(dictionaries)}
    todo = [each for each in dictionaries if places[each.name] not in run.parts]
    with progress_bar(progress) as bar:
        for site in dict.fromkeys(each.side.site for each in todo):
            own = [each for each in todo if each.side.site == site]
            task = bar.add_task("reading (texts)", total=len(words.texts))

            def advance(n: int, task: Any = task) -> None:
                bar.advance(task, n)

            table = read_tokens(
                own[0].side.model,
                own[0].side.sae,
                words,
                context=settings.context,
                batch_tokens=settings.batch_tokens,
                on_text=advance,
            )
            acts, of = None, None
            for each in own:
                began = time.monotonic()
                if of is not each.side:  # the three of a side come one after the other
                    acts, of = sae_acts(table, each.side.sae), each.side
                if each.kind == "sae":
                    made = sae_words(table, each.side.sae, acts, each.name)
                elif each.kind == "shuffled":
                    made = shuffled_words(table, each.side.sae, acts, each.name, settings.seed)
                else:
                    made = component_words(table, acts, each.name)
                save_words(_file(run, places[each.name]), made)
                run.finish(places[each.name], time.monotonic() - began, dictionary=each.name, **table.about)
    spaces = {each.name: each.side.site for each in dictionaries}
    return {name: load_words(_file(run, place), name, spaces[name]) for name, place in places.items()}


def _match_all(
    first: WordActs,
    pairings: Sequence[_Pairing],
    found: Mapping[str, WordActs],
    words: Words,
    choosing: Any,
    run: RunFolder,
    settings: MatchSettings,
    progress: bool,
) -> dict[tuple[str, str], Match]:
    """(Name of the other, lexical kept or removed) -> the match."""
    matches: dict[tuple[str, str], Match] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task("matching", total=len(pairings) * len(LEXICAL))
        for number, pairing in enumerate(pairings):
            for lexical in LEXICAL:
                part = f"pairs-{number}-{lexical}"
                path = run.path / "pairs" / f"{number}-{lexical}.json"
                if part not in run.parts:
                    began = time.monotonic()
                    made = match(
                        first,
                        found[pairing.other.name],
                        words.text_of,
                        choosing,
                        what=pairing.what,
                        of=pairing.of,
                        lexical=lexical,
                        permutations=settings.permutations,
                        most_features=settings.most_features,
                        # One draw of features for every comparison.
                        rng=np.random.default_rng([settings.seed, 2]),
                    )
                    write_pairs(path, made)
                    run.finish(part, time.monotonic() - began, dictionary=pairing.other.name)
                if (kept := read_pairs(path)) is not None:
                    matches[pairing.other.name, lexical] = kept
                bar.advance(task)
    return matches


def _result(rows: Sequence[MatchRow], seeds: Sequence[Match], name: str) -> MatchResult:
    features = _seen_by_all(seeds)
    steady = stable(seeds, features)
    n_stable = None if steady is None else int(steady.sum())
    asked = [row for row in rows if row.what in ("second", "seed")]
    notes = [_sentence(row, rows) for row in asked]
    notes += [
        f"Every feature of {row.first} or of {row.second} is of one word or token: nothing is left without these."
        for row in asked
        if row.lexical == "kept" and not any((o.second, o.lexical) == (row.second, "removed") for o in asked)
    ]
    if not seeds:
        notes.append(
            f"No other seed of {name} was given, so there is no upper bound: how much of a share below 1 is the seed "
            "and not the other dictionary is not known."
        )
    if n_stable is None:
        notes.append(
            f"Nothing may be claimed of a single feature: that needs {SEEDS_FOR_A_CLAIM} seeds of {name}, and there "
            f"{'is' if not seeds else 'are'} {len(seeds) + 1}."
        )
    else:
        notes.append(
            f"{n_stable} of {len(features)} features of {name} are in all {len(seeds) + 1} seeds (r > {MATCHED}); "
            "only of these may something be claimed one by one."
        )
    notes.append("That two features fire on the same words does not say that the models use them for the same.")
    return MatchResult(tuple(rows), len(seeds) + 1, len(features), n_stable, tuple(notes))


def _seen_by_all(seeds: Sequence[Match]) -> Any:
    """Features of the first that have a partner in some seed, so that something is known of them."""
    return np.unique(np.concatenate([each.pairs[:, 0] for each in seeds])) if seeds else np.zeros(0, dtype=np.int64)


def _sentence(row: MatchRow, rows: Sequence[MatchRow]) -> str:
    """What was found of one dictionary, without lexical features where there are others."""
    alike = [each for each in rows if each.lexical == row.lexical]
    bounds = {each.what: each.share for each in alike if each.of == row.second and each.what in LOWER}
    beside = (f"{bounds[what]:.1%}" if what in bounds else "none left" for what in LOWER)
    against = ", ".join(f"{share} in {_BOUNDS[what]}" for share, what in zip(beside, LOWER, strict=True))
    upper = [each.share for each in alike if each.what == "seed"]
    which = "" if row.lexical == "kept" else " that belong to no single word or token"
    said = (
        f"{row.share:.1%} of the features of {row.first}{which} have a partner in {row.second} with r > {MATCHED} "
        f"({row.interval[0]:.1%} to {row.interval[1]:.1%}), against {against} and {row.null_mean:.1%} in shifted words"
    )
    if row.what == "second" and upper:
        said += f"; another seed of {row.first} has {max(upper):.1%}"
    return f"{said}." if row.stands_out else f"{said}: not above all of its controls, so nothing may be concluded."


def _file(run: RunFolder, place: str) -> Path:
    return run.path / "words" / f"{place.removeprefix('words-')}.safetensors"
