"""Where model organisms lie: those that ship with the package, and those that its command trained for this user.

`organism/NAME` names one wherever a model or its SAE is named. A folder of the user's comes after a packaged one of the
same name, which never changes. What organisms are, and how they are made, is `controls.organisms`.
"""

from importlib.resources import files
from pathlib import Path

from sae_lens_med.errors import ModelError, nearest
from sae_lens_med.runs.files import cache_dir, is_file

PREFIX = "organism/"
SAE_FOLDER = "sae"
"""In an organism's folder: its SAE."""


def packaged_dir() -> Path:
    """The folder of the packaged organisms."""
    return Path(str(files("sae_lens_med"))) / "controls" / "organisms" / "data"


def own_dir() -> Path:
    """The folder of those that this user trained; it need not exist."""
    return cache_dir() / "organisms"


def organism_folders() -> dict[str, Path]:
    """Name -> folder of every organism that can be opened, the packaged ones first."""
    found: dict[str, Path] = {}
    for place in (packaged_dir(), own_dir()):
        for path in sorted(place.glob("*/config.json")):
            found.setdefault(path.parent.name, path.parent)
    return found


def organism_folder(name: str) -> Path:
    """The folder of `organism/NAME`. Raises `ModelError` for one that is not there."""
    wanted = name.removeprefix(PREFIX)
    known = organism_folders()
    if wanted not in known:
        near = nearest(wanted, known).removesuffix("?")
        raise ModelError(
            f"there is no model organism {wanted[:80]!r} here{f'{near}, or' if near else ';'} train it with "
            f"`sae-lens-med organisms train`; `sae-lens-med organisms list` shows those that are there."
        )
    return known[wanted]


def organism_sae(name: str) -> Path:
    """The folder of the SAE of `organism/NAME`. Raises `ModelError` for an organism that is not there or has none."""
    folder = organism_folder(name) / SAE_FOLDER
    if not is_file(folder / "cfg.json"):
        raise ModelError(
            f"the organism {name.removeprefix(PREFIX)!r} has no SAE in {folder}; train it again with "
            f"`sae-lens-med organisms train {name.removeprefix(PREFIX)}`."
        )
    return folder
