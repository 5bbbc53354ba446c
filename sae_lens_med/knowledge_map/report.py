"""A map folder -> its page, `map.html` and `map.ko.html`: one figure, the registered hypotheses, every method by depth,
and what may not be concluded. No script; light and dark; names of a user's lists are untrusted text.

Out of scope: measuring (`run`), answering (`answering`), the app's view.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sae_lens_med.knowledge_map.answering import read_answers, read_rows
from sae_lens_med.knowledge_map.carried import read_carriers, strongest
from sae_lens_med.knowledge_map.hypotheses import Answer
from sae_lens_med.knowledge_map.measure import MapRow
from sae_lens_med.knowledge_map.run import KIND
from sae_lens_med.languages import Language
from sae_lens_med.pages import page_names, write_pages
from sae_lens_med.plots.maps import describe_map, layer_map
from sae_lens_med.plots.markup import svg
from sae_lens_med.plots.profiles import depth_profiles
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO
from sae_lens_med.runs.folder import read_manifest

PAGES = page_names("map", ("html",))
"""What `write_map_page` writes."""
CARRIERS_SHOWN = 60
LANGUAGE_NAMES = {"ko": "Korean", "en": "English", "ko-en": "Korean and English"}
PACKAGED = "the packaged lists"
_MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row under a name in the reader's language."""

    name: str
    values: tuple[float, ...]
    null_mean: tuple[float, ...]
    null_high: tuple[float, ...]
    stands_out: tuple[bool, ...]


def write_map_page(folder: Path) -> tuple[Path, ...]:
    """Write `PAGES` into the folder of a map; return their paths.

    Raises `StudyError` for a folder that is no finished map, or damaged.
    """
    manifest = read_manifest(folder, KIND)
    rows = [row for row in read_rows(folder) if row.q]
    answers = read_answers(folder)
    carriers = read_carriers(folder)

    def view(language: Language) -> dict[str, Any]:
        source = manifest["identity"]["lists"]["source"]
        return {
            "model": manifest["identity"]["model"].get("name", "?"),
            "disclaimers": (DISCLAIMER, DISCLAIMER_KO) if language.code == "en" else (DISCLAIMER_KO,),
            "figure_of_all": figure_of_all(rows, language),
            "table": table_of(rows, language),
            "answers": answers,
            "counts": counted(answers),
            "panels": panels(rows, language),
            "limits": limits(source, language),
            "carriers": strongest(carriers, CARRIERS_SHOWN),
            "carriers_shown": CARRIERS_SHOWN,
            "part_name": lambda name: language_title(name, language),
            "run_tables": [
                (language.text("Model"), list(manifest["identity"]["model"].items())),
                (language.text("Data"), list(manifest["identity"]["lists"].items())),
                (language.text("Settings"), list(manifest["identity"]["settings"].items())),
            ],
        }

    return write_pages(folder, "map", "map", view, ("html",))


def domain_title(row: MapRow, language: Language) -> str:
    """`drugs by mechanism`; what a user's own lists call theirs stays as it is."""
    domain = language.name(row.domain)
    if not row.labels:
        return domain
    return language.text("{domain} by {labels}").format(domain=domain, labels=language.name(row.labels))


def read_out_title(row: MapRow, language: Language) -> str:
    """`silhouette`"""
    return language.name(row.read_out.replace("_", " "))


def language_title(code: str, language: Language) -> str:
    """`Korean`"""
    return language.name(LANGUAGE_NAMES.get(code, code))


def named(row: MapRow, language: Language) -> NamedRow:
    """The row as a figure shows it."""
    parts = (domain_title(row, language), read_out_title(row, language), row.language)
    return NamedRow(" · ".join(parts), row.values, row.null_mean, row.null_high, row.stands_out)


def figure_of_all(rows: Sequence[MapRow], language: Language) -> Markup | None:
    """Every row by depth; None without rows."""
    if not rows:
        return None
    own = [named(row, language) for row in rows]
    title = language.text("Knowledge map, domain by depth")
    drawn = svg(layer_map(own, language=language), title=title, description=describe_map(own, language=language))
    return Markup(drawn)  # every text in it is escaped by `plots.svg`


def panels(rows: Sequence[MapRow], language: Language) -> list[tuple[str, Markup]]:
    """(Read-out, its panels), one for each read-out."""
    found = []
    for read_out in dict.fromkeys(row.read_out for row in rows):
        own = [row for row in rows if row.read_out == read_out]
        by_domain: dict[str, list[tuple[str, NamedRow]]] = {}
        for row in own:
            entry = by_domain.setdefault(domain_title(row, language), [])
            if len(entry) < _MOST_LINES:
                entry.append((language_title(row.language, language), named(row, language)))
        name = read_out_title(own[0], language)
        title = language.text("{name}, by depth").format(name=name)
        description = describe_map([named(row, language) for row in own], language=language)
        drawn = svg(depth_profiles(by_domain, language=language), title=title, description=description)
        found.append((name, Markup(drawn)))  # every text in it is escaped by `plots.svg`
    return found


def table_of(rows: Sequence[MapRow], language: Language) -> list[dict[str, Any]]:
    """A line for each row: its best depth with the null and the controls."""
    found = []
    for row in rows:
        best = max(range(len(row.values)), key=lambda depth: row.values[depth])
        found.append(
            {
                "domain": domain_title(row, language),
                "read_out": read_out_title(row, language),
                "language": language_title(row.language, language),
                "n": row.n,
                "value": row.values[best],
                "interval": row.intervals[best],
                "depth": best,
                "null_mean": row.null_mean[best],
                "null_high": row.null_high[best],
                "p_best": row.p_best,
                "characters": row.characters,
                "embedding": row.embedding,
                "random": max((each[best] for each in row.random), default=None),
                "at": ranges(depth for depth, out in enumerate(row.stands_out) if out),
            }
        )
    return found


def counted(answers: Sequence[Answer]) -> dict[str, int]:
    """How many have each verdict."""
    verdicts = [answer.verdict for answer in answers]
    return {
        "n": len(answers),
        "supported": verdicts.count("supported"),
        "untestable": verdicts.count("not testable here"),
    }


def limits(source: str, language: Language) -> list[str]:
    """What may not be concluded from any map."""
    say = language.text
    lists = say("Concepts, labels and texts were written for this package and reviewed by no clinician.")
    own = say("The lists are the user's own: {source}.").format(source=source)
    return [
        say("A read-out shows what a layer makes available, not what the model uses."),
        lists if source == PACKAGED else own,
        say("Cells that stand out are not the largest effects: with many permutations a tiny effect has a tiny p."),
        say("Values of different read-outs, or of label sets with different numbers of labels, do not compare."),
        say("One model was measured; nothing is said of others, nor of larger ones of its family."),
    ]


def ranges(depths: Iterable[int]) -> str:
    """`3–5, 8`; empty for none."""
    runs: list[list[int]] = []
    for depth in depths:
        if runs and depth == runs[-1][1] + 1:
            runs[-1][1] = depth
        else:
            runs.append([depth, depth])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)
