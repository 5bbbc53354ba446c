"""The list of SAE releases and the files of each: what there is, where it lies, whether it is intact.

A release is a named set of SAEs. `pretrained_configs/releases.yaml` lists them in the schema of SAELens'
`pretrained_saes.yaml`; the files of a packaged release lie in `saes/weights/RELEASE/`: the model card `README.md`,
`release.json` (SHA-256 of every other file, the recipe of each SAE), `left_out_ids.json`, and per SAE `PATH/cfg.json`,
`sae_weights.safetensors`, `sparsity.safetensors`, `runner_cfg.json`, `metrics.json`, `curve.svg`.

Loading is `saes.releases`; making, checking and publishing a release is `saes.publish`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sae_lens_med.errors import ReleaseError, nearest
from sae_lens_med.runs import parsing
from sae_lens_med.runs.files import configs_dir, file_sha256

CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SPARSITY_FILE = "sparsity.safetensors"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
MANIFEST_FILE = "release.json"
LEFT_OUT_FILE = "left_out_ids.json"


@dataclass(frozen=True, slots=True)
class ReleasedSae:
    """One SAE of a release, as the list has it."""

    id: str
    path: str
    """Its folder below the release's folder, and in the Hub repository."""
    l0: float | None
    """Mean number of active features per token, on held-out text."""
    variance_explained: float | None
    """Share of the activations' variance, at most 1."""
    neuronpedia: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A listed release and the folder where its files lie, when it is packaged."""

    name: str
    repo_id: str
    model: str
    saes: tuple[ReleasedSae, ...]
    folder: Path

    @property
    def packaged(self) -> bool:
        """Whether the files are on this machine, with the package."""
        return (self.folder / MANIFEST_FILE).is_file()

    def sae(self, sae_id: str) -> ReleasedSae:
        """The SAE of this id. Raises `ReleaseError` naming the ids that there are."""
        for sae in self.saes:
            if sae.id == sae_id:
                return sae
        ids = [sae.id for sae in self.saes]
        raise ReleaseError(
            f"The release {self.name!r} has no SAE {sae_id!r}{nearest(sae_id, ids) or '.'} It has {', '.join(ids)}."
        )

    def manifest(self) -> dict[str, Any]:
        """`release.json`. Raises `ReleaseError` when the release is not packaged or the file cannot be read."""
        if not self.packaged:
            raise ReleaseError(
                f"The release {self.name!r} is listed, but its files are not in {self.folder}; reinstall sae-lens-med, "
                f"or load it from the Hub repository {self.repo_id}."
            )
        return read_json_object(self.folder / MANIFEST_FILE)

    def damage(self, below: str = "") -> dict[str, str | None]:
        """Per file of the manifest (below the folder `below`), what is wrong with it, or None.

        Raises `ReleaseError` when the manifest itself cannot be used.
        """
        files = self.manifest().get("files")
        if not isinstance(files, Mapping):
            raise ReleaseError(f"{self.folder / MANIFEST_FILE} lists no files; reinstall sae-lens-med.")
        found: dict[str, str | None] = {}
        for name, recorded in files.items():
            if below and not name.startswith(f"{below}/"):
                continue
            path = self.folder / safe_relative(name, self.folder / MANIFEST_FILE)
            if not path.is_file():
                found[name] = "is missing"
            elif (sha256 := file_sha256(path)) != recorded:
                found[name] = f"has sha256 {sha256[:12]}…, expected {str(recorded)[:12]}…"
            else:
                found[name] = None
        return found

    def require_intact(self, below: str = "") -> None:
        """Raise `ReleaseError` naming the first file that is missing or not as it was published."""
        files = self.damage(below)
        if below and f"{below}/{WEIGHTS_FILE}" not in files:
            raise ReleaseError(
                f"{self.folder / MANIFEST_FILE} lists no weights below {below!r}; reinstall sae-lens-med."
            )
        for name, problem in files.items():
            if problem is not None:
                raise ReleaseError(
                    f"The release {self.name!r} is damaged: {self.folder / name} {problem}; reinstall sae-lens-med."
                )

    def card(self) -> str:
        """The model card, Markdown."""
        self.manifest()
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")

    def metrics(self, sae_id: str) -> Any:
        """The SAE's `metrics.json`, or None where it has none."""
        self.manifest()
        path = self.folder / self.sae(sae_id).path / METRICS_FILE
        return read_json(path) if path.is_file() else None

    def left_out_ids(self) -> frozenset[str]:
        """Ids of the items that the SAEs were not trained on, neither question nor explanation."""
        path = self.folder / safe_relative(self.manifest()["left_out_ids"], self.folder / MANIFEST_FILE)
        return read_left_out_ids(path)


@dataclass(frozen=True, slots=True)
class Releases:
    """A list of releases and the folder that holds their files."""

    listing: Path
    """A YAML file in the schema of SAELens' `pretrained_saes.yaml`."""
    weights: Path
    """The folder with one folder per release."""

    def read(self) -> dict[str, Release]:
        """Every listed release by name. Raises `ReleaseError` on a list that is not in the schema."""
        try:
            listed = parsing.read_yaml(self.listing) or {}
        except parsing.ParseError as error:
            raise ReleaseError(f"The list of releases {self.listing} cannot be read: {error}.") from error
        try:
            return {name: self._release(name, entry) for name, entry in listed.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ReleaseError(
                f"The list of releases {self.listing} is not in SAELens' schema (RELEASE: repo_id, model, "
                f"conversion_func, saes with id, path, l0, variance_explained, neuronpedia): {error!r}."
            ) from error

    def get(self, name: str) -> Release:
        """The release of this name. Raises `ReleaseError` naming near ones."""
        known = self.read()
        if name not in known:
            raise ReleaseError(
                f"There is no release {name!r}{nearest(name, known) or '.'} `sae-lens-med releases list` shows all."
            )
        return known[name]

    def _release(self, name: str, entry: Mapping[str, Any]) -> Release:
        return Release(
            name=name,
            repo_id=entry["repo_id"],
            model=entry["model"],
            saes=tuple(
                ReleasedSae(
                    id=sae["id"],
                    path=str(safe_relative(sae["path"], self.listing)),
                    l0=sae.get("l0"),
                    variance_explained=sae.get("variance_explained"),
                    neuronpedia=sae.get("neuronpedia"),
                )
                for sae in entry["saes"]
            ),
            folder=self.weights / safe_relative(name, self.listing),
        )


def packaged_releases() -> Releases:
    """The releases that come with this package."""
    return Releases(listing=configs_dir() / "releases.yaml", weights=Path(__file__).parent / "weights")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises `ReleaseError` when there is none."""
    try:
        return parsing.read_json(path)
    except parsing.ParseError as error:
        raise ReleaseError(f"{path} cannot be read as JSON: {error}.") from error


def read_left_out_ids(path: Path) -> frozenset[str]:
    """The ids of items in a JSON file. Raises `ReleaseError` when it holds anything else."""
    ids = read_json(path)
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ReleaseError(f"{path} is damaged: it must be a JSON list of ids; copy it again, or delete it.")
    return frozenset(ids)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises `ReleaseError` when it does not."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ReleaseError(f"{path} must contain a JSON object, but contains a {type(value).__name__}.")
    return value


def safe_relative(name: str, where: Path) -> PurePosixPath:
    """`name` as a path that stays below the folder it is joined to. Raises `ReleaseError` otherwise."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ReleaseError(f"{where} names {name!r}, which is not inside the release's folder.")
    return path


def first_line(error: BaseException) -> str:
    """What an error says, in one line without its full stop: to be quoted in a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")
