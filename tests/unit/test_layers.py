"""The rooms of the package: who may import whom, what must stay light, and what is public.

Three rules. Rooms stand in rows; a room imports from rows above its own, never from its own row or from below. Only a
few rooms know SAELens and TransformerLens. What is read without a model imports no torch.
"""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sae_lens_med

PACKAGE = Path(sae_lens_med.__file__).parent

ROWS = (
    ("errors",),
    ("records", "escaping"),
    ("languages",),
    ("plots", "statistics", "distributed"),
    ("runs",),
    ("data", "models", "pages"),
    ("concepts", "prompts", "saes"),
    ("features", "interventions"),
    ("metrics", "evaluation", "training"),
    ("controls",),
    ("alignment", "circuits", "knowledge_map", "adaptation"),
    ("study",),
    ("app",),
    ("commands", "cli"),
)
# The package's own files stand outside of the rows: they gather the public names.
OUTSIDE = {"__init__", "__main__", "_deprecated", "_registration"}
LAYER = {room: number for number, row in enumerate(ROWS) for room in row}

MAY_IMPORT_SAE_LENS = {"models", "interventions", "saes", "training", "controls"}
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Dotted names that a module imports at any depth, those for type checking included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _own(path: Path) -> set[str]:
    """The package's modules that a module imports, as dotted names below the package."""
    found = set()
    for name in _imports(path):
        if name.startswith("sae_lens_med."):
            inner = name.removeprefix("sae_lens_med.")
            while inner and inner not in NAMES:
                inner = inner.rpartition(".")[0]
            found.add(inner or "__init__")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_from_rows_above_its_own_only(path: Path) -> None:
    room = _room(path)
    if room in OUTSIDE:
        return
    assert room in LAYER, f"{room} has no row: give it one here and in docs/architecture.md"
    for name in sorted(_own(path) - {"__init__"}):
        other = name.split(".")[0]
        if other != room and (room, other) != ("cli", "commands"):
            assert LAYER[other] < LAYER[room], f"{room} imports {name}"


def test_no_module_imports_itself_by_a_detour() -> None:
    """Circles, within rooms too, counted over every import, those inside functions included."""
    edges = {name: _own(path) - {name, "__init__"} for name, path in NAMES.items() if name not in OUTSIDE and name}
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, f"a circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name in state:
            return
        state[name] = 1
        for other in sorted(edges.get(name, ())):
            # A package's own file gathers its parts; a part that imports the package is a circle all the same.
            visit(other, (*trail, name))
        state[name] = 2

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_some_rooms_know_saelens_and_transformerlens(path: Path) -> None:
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    if _room(path) in OUTSIDE or any(place == room or place.startswith(f"{room}/") for room in MAY_IMPORT_SAE_LENS):
        return
    assert not {n for n in _imports(path) if n.split(".")[0] in ("sae_lens", "transformer_lens")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_can_be_read_top_to_bottom(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_text_file_has_its_encoding(path: Path) -> None:
    """So that files are UTF-8 in every locale."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        # Of a descriptor, of a URL, in a browser, and a class's own way to open what it is.
        owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        no_file = owner in ("os", "opener", "webbrowser") or owner[:1].isupper()
        if name not in ("open", "read_text", "write_text") or no_file:
            continue
        binary = any(isinstance(a, ast.Constant) and a.value in ("rb", "wb", "ab", "a+b") for a in node.args)
        own = name in ("read_text", "write_text") and isinstance(node.func, ast.Name)  # `runs.parsing`, `runs.files`
        assert own or binary or any(k.arg == "encoding" for k in node.keywords), f"{path}, line {node.lineno}"


def test_nothing_imports_the_command_line() -> None:
    for path in MODULES:
        if _room(path) not in ("cli", "commands", "__main__"):
            assert not {n for n in _imports(path) if n.startswith(("sae_lens_med.cli", "sae_lens_med.commands"))}


def _after(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_and_its_command_line_is_light() -> None:
    heavy = ("torch", "sae_lens", "transformers", "datasets", "scipy", "sklearn", "accelerate", "numpy", "matplotlib")
    assert _after(f"import sys; import sae_lens_med.cli; print([m for m in {heavy} if m in sys.modules])") == "[]"


ROOMS_THAT_READ = {
    *("errors", "records", "escaping", "plots", "statistics", "distributed", "runs", "data", "concepts", "prompts"),
    *("metrics", "features", "alignment", "study", "app"),
}
MODULES_THAT_RUN = {
    "features.collect",
    "features.reading",
    "features.rules",
    "features.statistics",
    "study.run",
    "study.twins",
}
"""Of these rooms, the modules that run a model."""
READING = sorted(
    name for name, path in NAMES.items() if _room(path) in ROOMS_THAT_READ and name not in MODULES_THAT_RUN
)


REFUSE = """
import sys
heavy = ("torch", "transformers", "sae_lens", "transformer_lens", "datasets", "matplotlib", "sklearn", "accelerate")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            raise RuntimeError(f"loads {name}")
sys.meta_path.insert(0, Refuse())
"""
"""Python code after which torch and its like cannot be imported, so that whoever imports them is seen."""


@pytest.fixture(scope="module")
def imported_without_torch() -> dict[str, str]:
    """The traceback of importing each module of `READING`, empty where it loads nothing heavy; in one process."""
    code = f"""{REFUSE}
import importlib, json, traceback
tracebacks = dict.fromkeys({READING!r}, "")
for name in tracebacks:
    try:
        importlib.import_module("sae_lens_med." + name)
    except RuntimeError:
        tracebacks[name] = traceback.format_exc()
assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)
print(json.dumps(tracebacks))
"""
    return json.loads(_after(code))


@pytest.mark.parametrize("name", READING)
def test_what_is_read_without_a_model_loads_no_torch(name: str, imported_without_torch: dict[str, str]) -> None:
    assert not imported_without_torch[name]


def test_opening_a_study_for_reading_loads_no_compiler() -> None:
    """Nor what takes seconds to import or tens of megabytes to hold."""
    code = (
        "import sys; import sae_lens_med.app.opened; print([m for m in ('numba', 'scipy.stats') if m in sys.modules])"
    )
    assert _after(code) == "[]"


def test_commands_that_only_look_start_without_torch() -> None:
    commands = [["--version"], ["--help"], ["models"], ["list-metrics"], ["templates"], ["releases", "list"]]
    code = f"""{REFUSE}
from typer.testing import CliRunner
from sae_lens_med.cli import app
for command in {commands!r}:
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and done.output, (command, done.output, done.exception)
assert "torch" not in sys.modules
"""
    assert _after(code) == ""


ORDERS = (
    "import sae_lens_med, sae_lens",
    "import sae_lens, sae_lens_med",
    "import sae_lens_med; sae_lens_med.TiedL1TrainingSAE",
    "import sae_lens_med; from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE",
)


@pytest.fixture(scope="module")
def registered() -> dict[str, str]:
    """What `tied_l1` is after each of `ORDERS`, each in a process of its own: a copy of one that has imported what
    SAELens needs, which takes most of the time, and neither SAELens nor this package."""
    code = f"""
import json, os, sys
import transformer_lens
for imports in {ORDERS!r}:
    assert not {{"sae_lens", "sae_lens_med"}} & set(sys.modules)
    if not os.fork():
        exec(imports)
        import importlib
        importlib.reload(sae_lens_med)
        from sae_lens.registry import get_sae_training_class
        print(json.dumps([imports, get_sae_training_class("tied_l1")[0].__name__]))
        sys.exit()
    assert os.wait()[1] == 0, imports
"""
    return dict(json.loads(line) for line in _after(code).splitlines())


@pytest.mark.parametrize("imports", ORDERS)
def test_the_architecture_is_registered_in_any_order_of_import(imports: str, registered: dict[str, str]) -> None:
    assert registered[imports] == "TiedL1TrainingSAE"


@pytest.mark.parametrize("name", sae_lens_med.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sae_lens_med, name).__doc__


def test_names_of_0_1_0_warn_and_still_work() -> None:
    with pytest.warns(DeprecationWarning, match=r"use sae_lens_med.evaluate\(model, items\).results"):
        assert callable(sae_lens_med.evaluate_letters)
    assert "evaluate_letters" not in sae_lens_med.__all__
    with pytest.raises(AttributeError, match="no attribute 'evaluate_leters'"):
        sae_lens_med.evaluate_leters  # noqa: B018


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("models", "load_model"),
        ("models", "MedBridge"),
        ("prompts", "question_prompt"),
        ("prompts", "explanation_prompt"),
        ("study", "run_study"),
        ("features", "load_features"),
        ("features", "top_contexts"),
    ],
)
def test_modules_of_0_1_0_that_became_rooms_warn_and_hold_their_names(room: str, name: str) -> None:
    module = importlib.import_module(f"sae_lens_med.{room}")
    with pytest.warns(DeprecationWarning, match=f"import {name} from sae_lens_med, not from sae_lens_med.{room}"):
        found = getattr(module, name)
    assert found is getattr(sae_lens_med, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_align_is_what_the_command_does() -> None:
    assert inspect.signature(sae_lens_med.align) == inspect.signature(sae_lens_med.run_alignment)
    assert sae_lens_med.align.__doc__ == sae_lens_med.run_alignment.__doc__
