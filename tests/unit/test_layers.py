"""Data flows one way: a module imports from lower layers only, and heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sae_lens_med

PACKAGE = Path(sae_lens_med.__file__).parent

LAYER = {
    "errors": 0,
    "config": 0,
    "records": 0,
    "data": 1,
    "prompts": 1,
    "answers": 1,
    "statistics": 1,
    "svg": 1,
    "progress": 1,
    "distributed": 1,
    "catalogue": 2,
    "concepts": 2,
    "models": 2,
    "passes": 2,
    "hf_hooks": 2,
    "kv_cache": 2,
    "reader": 2,
    "inference": 2,
    "saes": 2,
    "features": 3,
    "interventions": 3,
    "evaluation": 4,
    "alignment": 4,
    "circuits": 4,
    "knowledge_map": 4,
    "training": 4,
    "study": 5,
    "report": 5,
    "study_reader": 5,
    "alignment_study": 5,
    "verdict": 5,
    "figures": 5,
    "app": 5,
    "commands": 6,
    "cli": 6,
    "_registration": 6,
    "__init__": 6,
    "__main__": 6,
}

MAY_IMPORT_SAE_LENS = {"models", "interventions", "saes", "training"}
WITHOUT_TORCH = ["statistics.py", "report.py", "study_reader.py", "verdict.py", "figures.py", "alignment", "concepts"]
MODULES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Dotted names that a module imports at any depth, but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_from_lower_layers_only(path: Path) -> None:
    room = _room(path)
    assert room in LAYER, f"{room} has no layer: give it one in this test and in the README's data path"
    for name in _imports(path):
        if name.startswith("sae_lens_med."):
            other = name.split(".")[1]
            if other not in LAYER:  # a name of the package itself: `from sae_lens_med import __version__`
                other = "__init__"
            if other != room and not (room == "cli" and other == "__init__"):
                mine, theirs = LAYER[room], LAYER[other]
                allowed = theirs < mine or (theirs == mine and mine not in (3, 4))
                assert allowed, f"{room} (L{mine}) imports {other} (L{theirs})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_four_rooms_know_saelens_and_transformerlens(path: Path) -> None:
    if _room(path) not in MAY_IMPORT_SAE_LENS:
        assert not {n for n in _imports(path) if n.split(".")[0] in ("sae_lens", "transformer_lens")}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_works_on_arrays_needs_no_torch(name: str) -> None:
    for path in [PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"):
        assert not {n for n in _imports(path) if n.split(".")[0] in ("torch", "transformers")}, path


def test_nothing_imports_the_command_line() -> None:
    for path in MODULES:
        if _room(path) not in ("cli", "commands", "__main__"):
            assert not {n for n in _imports(path) if n.startswith(("sae_lens_med.cli", "sae_lens_med.commands"))}


def test_importing_the_package_and_its_command_line_is_light() -> None:
    code = (
        "import sys; import sae_lens_med.cli; "
        "print([m for m in ('torch', 'sae_lens', 'transformers', 'datasets', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import sae_lens_med, sae_lens",
        "import sae_lens, sae_lens_med",
        "import sae_lens_med; sae_lens_med.TiedL1TrainingSAE",
        "import sae_lens_med; from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE",
    ],
)
def test_the_architecture_is_registered_in_any_order_of_import(imports: str) -> None:
    code = (
        f"{imports}; import importlib; importlib.reload(sae_lens_med); "
        "from sae_lens.registry import get_sae_training_class as g; print(g('tied_l1')[0].__name__)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "TiedL1TrainingSAE"


@pytest.mark.parametrize("name", sae_lens_med.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sae_lens_med, name).__doc__
