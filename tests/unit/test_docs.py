"""README, docs and notebooks say what is so: commands, options, links, names, versions and numbers are checked against
the package. Their Python is run in `tests/real/test_main_job.py` and `tests/integration/test_tutorials.py`."""

import ast
import json
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import sae_lens_med
from sae_lens_med.cli import app

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sae_lens_med"
READMES = ("README.md", "README.ko.md")
PAGES = [
    *(ROOT / name for name in (*READMES, "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = "3.11"
"""The least version: that of the dependencies in constraints.txt."""


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _cells(path: Path, kind: str) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def _prose(path: Path) -> str:
    """Markdown without its code blocks."""
    if path.suffix == ".ipynb":
        return "\n\n".join(_cells(path, "markdown"))
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def _blocks(path: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


# --- commands -------------------------------------------------------------------------------------------------------


def _statements(block: str) -> Iterator[str]:
    """The commands of a shell block, without comments, with its variables put in."""
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        for statement in re.split(r"\s*;\s*", re.sub(r"(^|\s)#.*", "", line)):
            text = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), statement.strip())
            if assigned := re.fullmatch(r"(\w+)=(\"[^\"]*\"|\S+)", text):
                variables[assigned[1]] = assigned[2].strip('"')
            elif text:
                yield text


def _commands(path: Path) -> list[list[str]]:
    """Arguments of every `sae-lens-med` that a page names, in blocks, in the text and in notebooks."""
    if path.suffix == ".ipynb":
        lines = [line[1:] for cell in _cells(path, "code") for line in cell.splitlines() if line.startswith("!")]
        texts = [re.sub(r"\{\w+\}", "FOLDER", line) for line in lines]
    else:
        texts = [text for block in _blocks(path, "bash", "sh") for text in _statements(block)]
    # What may be left out stands in brackets.
    texts += [re.sub(r"[\[\]]", "", re.sub(r"\s+", " ", code)) for code in re.findall(r"`([^`]+)`", _prose(path))]
    found = []
    for text in texts:
        text = re.split(r"\s[|>]\s", text)[0]
        called = re.match(r"(?:torchrun .*-m sae_lens_med|sae-lens-med)(?:\s+(.*))?$", text)
        if called and called[1]:
            found.append(shlex.split(called[1]))
    return found


def _parse(arguments: list[str]) -> None:
    """Raises an error of the command line for an unknown command or option, an option without its value, and too many
    arguments. `lm-eval` hands its arguments on."""
    command: Any = typer.main.get_command(app)
    rest = arguments
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    if arguments[0] == "lm-eval":
        return
    _, left, _ = command.make_parser(command.context_class(command)).parse_args(list(rest))
    assert not left, f"too many arguments: {left}"


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=_name)
def test_every_command_exists_with_its_options(path: Path) -> None:
    for arguments in _commands(path):
        if arguments[0] not in ("COMMAND", "..."):  # any of them
            try:
                _parse(arguments)
            except Exception as error:  # click's errors, and those above
                pytest.fail(f"sae-lens-med {' '.join(arguments)}: {error!r}")


@pytest.mark.parametrize(
    "wrong",
    ["evaluat --model M", "evaluate --modle M", "compare A B C", "releases verfy R", "evaluate --model M --shots"],
)
def test_a_command_that_does_not_exist_would_be_found(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no command|no such option|too many|requires an argument"):
        _parse(shlex.split(wrong))


def test_commands_are_found_in_blocks_with_variables_and_in_the_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        'Say `sae-lens-med evaluate\n[--shots 5]`.\n```bash\nM="--model m"; D=d\n'
        "sae-lens-med study $M \\\n  --data $D  # a comment\nsae-lens-med templates cot.ko > mine.j2\n"
        "torchrun --nproc-per-node 4 -m sae_lens_med train tiny\n```\n"
    )
    assert _commands(page) == [
        ["study", "--model", "m", "--data", "d"],
        ["templates", "cot.ko"],
        ["train", "tiny"],
        ["evaluate", "--shots", "5"],
    ]


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_commands_is_complete(name: str) -> None:
    command: Any = typer.main.get_command(app)
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \|", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(word for row in rows for word in re.findall(r"`([\w-]+)`", row)) == sorted(command.commands)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    code = "\n".join([*_blocks(path, "bash", "sh"), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))])
    named = re.findall(r"^make (\w+)", code, re.MULTILINE)
    assert set(named) <= targets


# --- links, files and names -----------------------------------------------------------------------------------------


def _anchors(path: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=_name)
def test_every_relative_link_and_picture_is_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(path)):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{_name(path)} links to {target}, which does not exist"
        if anchor:
            assert anchor in _anchors(found), f"{_name(path)} links to {target}, but there is no such heading"


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_file_of_the_project_that_a_page_names_is_there(path: Path) -> None:
    for name in re.findall(r"`([a-z_]+/[\w/.-]+\.(?:py|yaml|json))`", path.read_text(encoding="utf-8")):
        if not re.search(r"[A-Z]{3,}", name):  # NAME.py stands for any
            assert any((folder / name).exists() for folder in (ROOT, PACKAGE, path.parent)), name


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=_name)
def test_python_in_pages_uses_public_names_only(path: Path) -> None:
    blocks = _cells(path, "code") if path.suffix == ".ipynb" else _blocks(path, "python")
    for code in blocks:
        tree = ast.parse(re.sub(r"^[!%].*$", "", code, flags=re.MULTILINE))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sae_lens_med":
                assert node.module == "sae_lens_med", f"{node.module} is not public"
                assert {alias.name for alias in node.names} <= set(sae_lens_med.__all__)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "slm":
                assert node.attr in sae_lens_med.__all__, f"slm.{node.attr} is not public"


# --- length, versions and numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READMES)
def test_the_readme_stays_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_one_python_version_is_said_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == f">={PYTHON}"
    assert f"Programming Language :: Python :: {PYTHON}" in project["project"]["classifiers"]
    assert project["tool"]["ruff"]["target-version"] == "py" + PYTHON.replace(".", "")
    assert project["tool"]["pyright"]["pythonVersion"] == PYTHON
    assert f"Python {PYTHON} or newer" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"Python {PYTHON} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {PYTHON} 이상" in (ROOT / "README.ko.md").read_text(encoding="utf-8")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    versions = [step["with"]["python-version"] for step in workflow["jobs"]["ci"]["steps"] if "python" in str(step)]
    assert PYTHON in versions


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sae_lens_med.__version__
    assert citation["license"] == "MIT"


def _numbers(text: str) -> Counter[str]:
    """Those with a decimal point or a comma: smaller ones may be written as words."""
    return Counter(re.findall(r"\d+[.,]\d[\d.,]*\b", text))


@pytest.mark.parametrize("name", READMES)
def test_the_findings_are_numbers_of_the_results(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    findings = re.search(r"^## (?:What was found so far|지금까지 알아낸 것)\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert findings
    results = _numbers((ROOT / "benchmarks/README.md").read_text(encoding="utf-8"))
    found = _numbers(findings[1])
    assert len(found) >= 10 and not set(found) - set(results)


def test_the_korean_results_are_the_english_ones() -> None:
    korean, english = ((ROOT / "benchmarks" / name).read_text(encoding="utf-8") for name in READMES[::-1])
    same = korean.split("## lm-evaluation-harness")[0]  # that table is rounded further
    tables = ["\n".join(re.findall(r"^\|.*$", text, re.MULTILINE)) for text in (same, english)]
    assert sum(_numbers(tables[0]).values()) > 300
    assert not _numbers(tables[0]) - _numbers(tables[1])
