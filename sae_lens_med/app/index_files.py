"""What lies in `STUDY/app/`, whose it is, and whether it is still that of the study's features.

    manifest.json            which parts are made, of which shards and questions (their hashes), by which versions
    features.safetensors     per feature what it does over the study; per item what `align` leaves out of it
    words.json               the words that features are called by
    attribution.safetensors  optional: per case the features that its answer depends on, to first order
    neighbours.safetensors   optional: per feature the nearest decoder directions
    logits.safetensors       optional: per feature the tokens that it raises and lowers; logits.json has their strings

    labels.jsonl             what people wrote (`labels`); no part of the index
    ratings/                 what raters said, and of which units (`rating`); no part of the index
    proposed.jsonl           what models proposed and people decided (`proposed`); `proposed.*.jsonl`: replies so far

An index of other shards or questions than those that are there is *stale*: it is said and not used, and made anew by
the next `sae-lens-med index`. No shard is hashed to see that: the manifests say which files they are about.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_med.errors import StudyError
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.runs.files import file_sha256
from sae_lens_med.runs.folder import Kind, read_manifest

FOLDER = "app"
FEATURES, WORDS_FILE = "features.safetensors", "words.json"
PARTS: Mapping[str, tuple[str, ...]] = {
    "features": (FEATURES, WORDS_FILE),
    "attribution": ("attribution.safetensors",),
    "neighbours": ("neighbours.safetensors",),
    "logits": ("logits.safetensors", "logits.json"),
}
"""The parts of an index, and the files of each."""
PARTIAL = {name: f"{name}.partial.jsonl" for name in ("attribution", "neighbours", "logits")} | {
    "features": "features.partial.safetensors"
}
"""Where a part that is not finished is kept."""


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(manifest["parts"], dict):
        raise TypeError("parts must be an object")
    return {"shards": manifest["shards"], "questions": manifest["questions"]}


KIND = Kind("index of a study", format=1, identity=_identity, leftovers=lambda _names: True)
"""Labels, ratings and what an interruption left may lie there before the manifest."""

STALE = "The index is stale: the features or the questions are not those that it was made of."
"""Why an index of another time is not used."""


def inputs_of(study: Path, part: FeaturePart) -> dict[str, Any]:
    """What an index of this study depends on. Raises `StudyError` where there are no questions."""
    try:
        questions = file_sha256(study / "questions.jsonl")
    except OSError as error:
        raise StudyError(
            f"{study / 'questions.jsonl'} cannot be read ({error.strerror}); run the study again."
        ) from error
    shards = [[shard["sha256"], shard["texts_sha256"]] for shard in part.manifest["shards"]]
    return {"shards": shards, "questions": questions}


def parts_made(study: Path, part: FeaturePart) -> tuple[set[str], str]:
    """The parts of the study's index that are there and not stale; and why there are none where there should be, in one
    sentence."""
    folder = study / FOLDER
    if not (folder / KIND.manifest).is_file():
        return set(), ""
    try:
        manifest = read_manifest(folder, KIND)
    except StudyError as error:
        return set(), str(error)
    if _identity(manifest) != inputs_of(study, part):
        return set(), STALE
    made = {
        name
        for name, files in PARTS.items()
        if name in manifest["parts"] and all((folder / f).is_file() for f in files)
    }
    lost = sorted(set(manifest["parts"]) - made)
    return made, f"Files of the index are missing: {', '.join(lost)}." if lost else ""


def study_command(study: Path) -> str:
    """What finishes a study. Its other options are those that it was begun with, which its manifest names."""
    return shlex.join(["sae-lens-med", "study", "--output", str(study)])


def command(study: Path, *options: str) -> str:
    """What makes the index, or a part of it, to be typed into a shell."""
    return shlex.join(["sae-lens-med", "index", str(study), *options])
