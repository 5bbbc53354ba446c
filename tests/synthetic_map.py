"""A map of which the truth is known: activations with planted geometry, as material and as a folder.

Six domains in two languages, nine blocks, 24 dimensions of noise; names of random letters, so that no spelling tells
anything. What is planted is in the medical frames of the model alone, unless it says otherwise:

    arc      ages on three quarters of a circle
    line     ages on a line, in the plain frames too
    step     ages from 18 on moved by one vector
    ring     the stages of each disease on a circle
    stages   the stages of each disease on a line
    specialty, mechanism    drugs about one centre for each label, in all depths
    collapse    labels about centres in the outer thirds; in the middle two directions alone
    early    symptoms, diseases and drugs about their labels in the first third alone
    middle   a vector for each concept that both languages share, in the middle third
    shared   the same in every depth
    rising   the same in the middle and the last third
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sae_lens_med.knowledge_map.hypotheses import Material
from sae_lens_med.knowledge_map.lists import LanguageCode, Lists, MapConcept, Template
from sae_lens_med.knowledge_map.measure import MapRow, Read, across, corrected, measured
from sae_lens_med.knowledge_map.run import KIND, write_map
from sae_lens_med.runs.folder import RunFolder

BLOCKS, D = 9, 24
LANGUAGES: tuple[LanguageCode, ...] = ("ko", "en")
PLAIN = ("age", "dosage")
PLANTS = {
    "arc": "H1",
    "line": "",
    "step": "H2",
    "ring": "H3",
    "stages": "",
    "specialty": "H4",
    "mechanism": "",
    "collapse": "H5",
    "early": "H6",
    "middle": "H7",
    "shared": "",
    "rising": "",
}
"""What is planted -> the hypothesis that it makes true; the others make none true."""
_FIRST, _MIDDLE, _LAST = slice(1, 4), slice(4, 7), slice(7, 10)


def made_lists() -> Lists:
    """Ages 10 to 99, five stages of four diseases, 48 drugs, 30 symptoms and diseases each, 12 doses."""
    rng = np.random.default_rng(0)

    def forms() -> dict[str, str]:
        return {
            "ko": "".join(chr(0xAC00 + each) for each in rng.integers(0, 11_172, 4)),
            "en": "".join(chr(97 + each) for each in rng.integers(0, 26, 9)),
        }

    concepts = []
    for domain, name in (("symptoms", "system"), ("diseases", "specialty")):
        concepts += [MapConcept(domain, f"{domain} {i}", forms(), {name: f"label {i // 5}"}) for i in range(30)]
    for i in range(48):
        labels = {"mechanism": f"m{i // 4}", "specialty": f"s{i // 12}"}
        concepts.append(MapConcept("drugs", f"drug {i}", forms(), labels))
    concepts += [
        MapConcept("age", str(age), {"ko": str(age), "en": str(age)}, {}, float(age)) for age in range(10, 100)
    ]
    concepts += [MapConcept("dosage", f"{i} mg", forms(), {}, float(i), "all") for i in range(12)]
    for disease in range(4):
        concepts += [
            MapConcept("progression", f"{disease}-{stage}", forms(), {}, float(stage), f"disease {disease}")
            for stage in range(5)
        ]
    domains = dict.fromkeys(each.domain for each in concepts)
    templates = [Template(domain, "medical", language, "{}") for domain in domains for language in LANGUAGES]
    templates += [Template(domain, "plain", language, "n {}") for domain in PLAIN for language in LANGUAGES]
    return Lists(tuple(concepts), tuple(templates), "made lists")


def made_reads(
    plants: Collection[str] = (),
    seed: int = 0,
    *,
    domains: Collection[str] | None = None,
    languages: tuple[LanguageCode, ...] = LANGUAGES,
    random_models: int = 1,
    strength: float = 4.0,
) -> dict[tuple[str, str], Read]:
    """(Domain, language) -> activations, with what is planted."""
    assert set(plants) <= set(PLANTS)
    rng = np.random.default_rng(seed)
    lists, found = made_lists(), {}

    def noise(n: int) -> np.ndarray:
        return rng.normal(size=(BLOCKS + 1, 2, n, D))

    def directions(n: int) -> np.ndarray:
        return strength * np.linalg.qr(rng.normal(size=(D, D)))[0][:n]

    for domain in lists.domains if domains is None else domains:
        shared = strength / 4 * rng.normal(size=(len(lists.of(domain, "en")), D))
        for language in languages:
            concepts = lists.of(domain, language)
            n = len(concepts)
            x, plain = noise(n), noise(n)
            values = np.array([each.value or 0.0 for each in concepts])
            if domain == "age":
                t = (values - values.min()) / np.ptp(values)
                if "arc" in plants:
                    x[1:] += np.stack([np.cos(1.5 * np.pi * t), np.sin(1.5 * np.pi * t)], 1) @ directions(2)
                if "line" in plants:
                    for frame in (x, plain):
                        frame[1:] += (t - 0.5)[:, None] @ (3 * directions(1))
                if "step" in plants:
                    x[1:] += (values >= 18)[:, None] @ (4 * directions(1))
            if domain == "progression":
                for group in sorted({each.group for each in concepts}):
                    rows = np.array([each.group == group for each in concepts])
                    angle = 2 * np.pi * values[rows] / 5
                    if "ring" in plants:
                        x[1:, :, rows] += np.stack([np.cos(angle), np.sin(angle)], 1) @ (2 * directions(2))
                    if "stages" in plants:
                        x[1:, :, rows] += values[rows][:, None] @ directions(1)
            for name, sets in (("specialty", ("specialty",)), ("mechanism", ("mechanism",))):
                if domain == "drugs" and name in plants:
                    x[1:] += _centres(concepts, sets[0], directions)
            if concepts[0].labels and {"collapse", "early"} & set(plants):
                centres = 2 * _centres(concepts, next(iter(concepts[0].labels)), directions)
                x[_FIRST] += centres
                if "collapse" in plants:
                    x[_LAST] += centres
            if "collapse" in plants:
                x[_MIDDLE] = 0.1 * x[_MIDDLE] + rng.normal(size=(n, 2)) @ rng.normal(size=(2, D))
            if domain not in ("age", "dosage", "progression"):
                if "middle" in plants:
                    x[_MIDDLE] += shared
                if "rising" in plants:
                    x[4:] += shared
                if "shared" in plants:
                    x[1:] += shared
            random = tuple(noise(n).astype(np.float32) for _ in range(random_models))
            own = plain.astype(np.float32) if domain in PLAIN else None
            found[domain, language] = Read(concepts, (language,), x.astype(np.float32), random, own)
    return found


def made_material(
    plants: Collection[str] = (),
    seed: int = 0,
    *,
    draws: int = 99,
    rows: bool = True,
    domains: Collection[str] | None = None,
) -> Material:
    """The reads and, with `rows`, what is read off them."""
    reads = made_reads(plants, seed, domains=domains)
    return Material(reads, tuple(made_rows(reads, draws)) if rows else (), draws, seed)


def made_rows(reads: dict[tuple[str, str], Read], draws: int) -> list[MapRow]:
    """The rows of a map of these."""
    rng = np.random.default_rng(0)
    rows = []
    for domain in dict.fromkeys(domain for domain, _ in reads):
        own = [read for (name, _), read in reads.items() if name == domain]
        for read in own:
            rows += measured(read, draws, rng)
        if len(own) == 2 and domain != "age":
            rows += measured(across(*own), draws, rng)
    return corrected(rows)


def write_map_folder(folder: Path, material: Material, *, model: str = "planted") -> Path:
    """The folder that `map layers` would have made."""
    lists = made_lists()
    settings = {
        "languages": list(LANGUAGES),
        "permutations": material.draws,
        "random_models": len(next(iter(material.reads.values())).random),
        "seed": material.seed,
    }
    identity = {"model": {"name": model}, "lists": {"source": lists.source, "sha256": lists.sha256}}
    run = RunFolder(folder, KIND, {"identity": {**identity, "settings": settings}, "versions": {}, "parts": {}})
    run.begin()
    (folder / "read").mkdir()
    for (domain, language), read in material.reads.items():
        arrays = {"model": read.model, **{f"random-{k}": each for k, each in enumerate(read.random, 1)}}
        arrays |= {} if read.plain is None else {"plain": read.plain}
        for which, means in arrays.items():
            save_file(
                {"means": np.ascontiguousarray(means)}, folder / "read" / f"{domain}-{language}-{which}.safetensors"
            )
            run.finish(f"{domain}-{language}-{which}", 0.0)
    write_map(list(material.rows), folder)
    return folder


def scaled_reads(material: Material, dimension: int, by: float, plus: float) -> Material:
    """The same with one dimension made massive, in every read."""

    def massive(x: np.ndarray) -> np.ndarray:
        found = x.astype(np.float64)
        found[..., dimension] = by * found[..., dimension] + plus
        return found

    reads = {
        place: replace(
            read,
            model=massive(read.model),
            random=tuple(map(massive, read.random)),
            plain=None if read.plain is None else massive(read.plain),
        )
        for place, read in material.reads.items()
    }
    return replace(material, reads=reads)


def _centres(concepts: tuple[MapConcept, ...], name: str, directions: object) -> np.ndarray:
    labels = np.unique([each.labels[name] for each in concepts], return_inverse=True)[1]
    return directions(int(labels.max()) + 1)[labels]  # type: ignore[operator]  # of `made_reads`
