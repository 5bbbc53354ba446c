"""Write the folder of an export to Neuronpedia.

    DIR/manifest.json                     forms and their commits, provenance, licences, what is not there; `counts`
                                          when all is written
    DIR/upload/batch-000.json ...         upload batches
    DIR/bulk/{modelId}/{sourceId}/...     the bulk layout
    DIR/lists.json                        lists of features

Features come in batches, each of which is written as it comes: an export that was interrupted goes on where the same
command is given again. A folder that holds anything else is refused. Nothing is uploaded.

Out of scope: the forms (`upload`, `bulk`), and whether texts may be passed on (`licences`).
"""

import gzip
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from sae_lens_med.app import index_files
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.licences import TextLicence, licences_of, require_open
from sae_lens_med.app.names import Names, density
from sae_lens_med.app.neuronpedia import bulk, upload
from sae_lens_med.app.neuronpedia.contexts import contexts_of
from sae_lens_med.app.neuronpedia.form import (
    BATCH,
    COMMITS,
    model_id_of,
    require_model_id,
    require_source,
    source_of,
)
from sae_lens_med.app.neuronpedia.lists import feature_lists
from sae_lens_med.app.neuronpedia.record import Explanation, FeatureRecord
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.records import Provenance, Record
from sae_lens_med.runs.files import DISCLAIMER, atomic_path, json_line, json_sha256, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder, require_output
from sae_lens_med.runs.provenance import versions
from sae_lens_med.runs.written import hashes, not_as_written
from sae_lens_med.saes.publish import portable

UPLOAD, BULK, LISTS = "upload", "bulk", "lists.json"
_IDENTITY = ("study", "features", "said", "model_id", "source", "creator")
WHAT = "an export to Neuronpedia republishes pieces of questions and explanations"

Advance = Callable[[int], None]


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in _IDENTITY}


KIND = Kind("export to Neuronpedia", format=1, identity=_identity)


@dataclass(frozen=True, slots=True)
class Exported(Record):
    """What was written."""

    output: str
    model_id: str
    source: str
    counts: dict[str, int]
    """Features, contexts, explanations, upload files, lists, and features that were left out because they are strong
    on tokens without characters alone."""
    missing: tuple[dict[str, str], ...]
    """Parts of the index that are not there: `what`, and the `command` that makes it."""
    next: tuple[str, ...]
    """What a person does next."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user says of an export; None: what the study says."""

    model_id: str | None = None
    source: str | None = None
    creator: str = "anonymous"
    most_features: int = 2_000
    accept_licence: bool = False


def export_neuronpedia(study: OpenStudy, folder: Path, wanted: Wanted, *, advance: Advance | None = None) -> Exported:
    """Write the export of `study` to `folder`: new, empty, or that of the same export, which goes on.

    Args:
        study: with an index.
        folder: where to.
        wanted: how it is called, and how much of it.
        advance: told the number of features that were written since it was last called.

    Raises `ConfigError` for a name that Neuronpedia cannot have and for texts that may not be passed on, `StudyError`
    without an index and for a folder that holds something else.
    """
    require_output(folder, KIND)
    if study.part is None or study.index is None:
        raise StudyError(f"{study.folder} has no index; run: {index_files.command(study.folder)}.")
    items = list(study.items.values())
    licences = licences_of(items, study.provenance.data)
    require_open(licences, accepted=wanted.accept_licence, what=WHAT)
    provenance = Provenance.from_dict(portable(study.provenance.to_dict()))
    model_id, source = _called(study, wanted)
    target = bulk.Target(model_id, source, wanted.creator, provenance, len(items))
    chosen = chosen_features(study.index, study.names, wanted.most_features)
    whole = provenance.data["source"]
    datasets = [item.provenance.get("dataset") or str(whole) for item in items]
    reader = _Reader(study.part, study.index, study.names, study.proposals, datasets)
    values = _manifest(study, target, chosen, licences, wanted)
    run = RunFolder(folder, KIND, values)
    run.begin()
    place = folder / BULK / model_id / source
    for name, row in bulk.metadata(target).items():
        write_text(place / name, json_line(row))
    lists = feature_lists(study.names.aligned, frozenset(chosen), model_id, source)
    write_json(folder / LISTS, lists)
    for number, start in enumerate(range(0, len(chosen), BATCH)):
        features, name = chosen[start : start + BATCH], f"batch-{number:03d}"
        done = run.parts.get(name)
        if done is None or not_as_written(folder, done["files"]):
            _write_batch(run, name, place, number, target, list(map(reader.record, features)))
        if advance is not None:
            advance(len(features))
    counts = {
        what: sum(part["counts"][what] for part in run.parts.values())
        for what in ("features", "contexts", "explanations", "without_characters", "upload_files")
    } | {"lists": len(lists)}
    run.values["counts"] = counts
    run.write()
    missing = tuple(
        {"what": part, "command": index_files.command(study.folder, f"--{part}")} for part in _lacking(study.index)
    )
    return Exported(str(folder), model_id, source, counts, missing, next_steps(folder, model_id, source))


def chosen_features(index: Index, names: Names, most: int) -> list[int]:
    """The features that are written, by index: of those that fire, the ones with a label first, then those that `align`
    compares, then those that fire in most cases. Raises `ConfigError` where there are none."""
    labelled = names.labels.all()
    fires = [feature for feature, count in enumerate(index.count.tolist()) if count]
    best = sorted(fires, key=lambda f: (f not in labelled, not index.kept[f], -int(index.n_cases[f]), f))[:most]
    if not best:
        raise ConfigError("no feature would be written; raise --features, or check that the study's features fire.")
    return sorted(best)


def next_steps(folder: Path, model_id: str, source: str) -> tuple[str, ...]:
    """What a person does with the folder, who has an account at Neuronpedia. Nothing of it is done here."""
    layer, name = require_source(source)
    batches = shlex.quote(f"{folder}/{UPLOAD}") + "/batch-*.json"
    return (
        f"The model must be there: https://neuronpedia.org/{model_id}",
        'Make the source set (pip install neuronpedia; your key in NEURONPEDIA_API_KEY): python -c "from '
        f"neuronpedia.np_source_set import SourceSet; SourceSet.new('{name}', '{model_id}', 'Medical features of layer "
        f"{layer}', 'URL-OF-THE-SAE')\"",
        f"Upload: for f in {batches}; do curl -f -H 'Content-Type: application/json' "
        '-H "X-Api-Key: $NEURONPEDIA_API_KEY" --data-binary @"$f" https://neuronpedia.org/api/feature/upload-batch '
        "|| break; done",
        f"Or let its maintainers, who alone can, import {folder}/{BULK}: {COMMITS['neuronpedia']['repository']}",
    )


def _called(study: OpenStudy, wanted: Wanted) -> tuple[str, str]:
    model_id = require_model_id(wanted.model_id or model_id_of(str(study.provenance.model["name"])))
    assert study.d_sae is not None  # there is an index
    source = wanted.source or source_of(str((study.provenance.sae or {}).get("hook_name", "")), study.d_sae)
    if source is None:
        raise ConfigError("nothing says which layer the SAE is of; name the source: --source LAYER-SET.")
    require_source(source)
    return model_id, source


def _manifest(
    study: OpenStudy, target: bulk.Target, chosen: list[int], licences: Sequence[TextLicence], wanted: Wanted
) -> dict[str, Any]:
    assert study.part is not None and study.index is not None  # the caller looked
    lacking = _lacking(study.index)
    said = {feature: study.names.labels.current(feature) for feature in chosen}
    return {
        "study": index_files.inputs_of(study.folder, study.part),
        "features": json_sha256(chosen),
        "said": json_sha256([{str(f): label for f, label in said.items() if label}, lacking, versions()]),
        "model_id": target.model_id,
        "source": target.source,
        "creator": target.creator,
        "forms": {name: dict(about) for name, about in COMMITS.items()},
        "notice": DISCLAIMER,
        "versions": versions(),
        "provenance": target.provenance.to_dict(),
        "licences": [{**each.to_dict(), "open": each.is_open} for each in licences],
        "licence_accepted": wanted.accept_licence,
        "missing": [{"what": part, "command": index_files.command(Path(study.name), f"--{part}")} for part in lacking],
        "empty": {table: list(columns) for table, columns in bulk.EMPTY.items()},
        "notes": [
            "Tokens are whole characters: pieces of a character that several tokens share are one, with the maximum of "
            "their values. Tokens without characters (BOS) are left out.",
            "Values are those of stem, options and explanation; excluded tokens (sinks, special tokens) are 0. Numbers "
            "have four significant digits.",
            "Intervals are the tenths of the range from 0 to the feature's maximum.",
            "Supernodes are part of an attribution graph of one prompt, which a study does not hold: none are written.",
        ],
        "parts": {},
    }


def _lacking(index: Index) -> list[str]:
    parts: tuple[Literal["neighbours", "logits"], ...] = ("neighbours", "logits")
    return [part for part in parts if not index.has(part)]


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    part: FeaturePart
    index: Index
    names: Names
    proposals: Proposals
    datasets: list[str]

    def record(self, feature: int) -> FeatureRecord | None:
        """None without a context that has characters."""
        contexts = tuple(contexts_of(self.part, self.index, feature, self.datasets))
        if not contexts:
            return None
        entries = self.proposals.with_origin(self.names.labels.of(feature))
        label = entries[0] if entries and entries[0].label else None
        raised, lowered = self.index.logits(feature)
        return FeatureRecord(
            index=feature,
            density=density(self.index, feature),
            maximum=float(self.index.maximum[feature]),
            contexts=contexts,
            explanation=None if label is None else Explanation(label.label, label.revision, label.source),
            histogram=tuple(self.index.histogram(feature)),
            neighbours=tuple(self.index.neighbours(feature)),
            raised=tuple(raised),
            lowered=tuple(lowered),
        )


def _write_batch(
    run: RunFolder, name: str, place: Path, number: int, target: bulk.Target, read: Sequence[FeatureRecord | None]
) -> None:
    """Whatever has no rows has no file: a reader takes the columns from the first line."""
    start = perf_counter()
    records = [record for record in read if record is not None]
    tables = bulk.rows(target, records)
    upload_path = run.path / UPLOAD / f"{name}.json"
    paths = {table: place / table / f"batch-{number}.jsonl.gz" for table in tables}
    for path in (upload_path, *paths.values()):
        path.unlink(missing_ok=True)
    if records:
        write_text(upload_path, json_line(upload.batch(target.model_id, target.source, records)))
    for table, rows in tables.items():
        if rows:
            _write_rows(paths[table], rows)
    counts = {
        "features": len(records),
        "contexts": len(tables["activations"]),
        "explanations": len(tables["explanations"]),
        "without_characters": len(read) - len(records),
        "upload_files": int(bool(records)),
    }
    patterns = [each.relative_to(run.path).as_posix() for each in (upload_path, *paths.values())]
    run.finish(name, perf_counter() - start, files=hashes(run.path, patterns), counts=counts)


def _write_rows(path: Path, rows: Sequence[bulk.Row]) -> None:
    """Without the time of writing, so that the same rows are the same bytes."""
    content = gzip.compress("".join(map(json_line, rows)).encode("utf-8"), mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
