"""JSON and YAML that somebody else wrote: what is ordinary is read as before, what is hostile is one sentence."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sae_lens_med
from sae_lens_med.alignment.labels.scores import read_labels
from sae_lens_med.alignment.ratings_file import read_ratings
from sae_lens_med.cli import app
from sae_lens_med.concepts.sets import load_concepts
from sae_lens_med.data import load_items
from sae_lens_med.errors import SaeLensMedError
from sae_lens_med.evaluation.conditions.spec import load_conditions
from sae_lens_med.interventions.spec import read_interventions
from sae_lens_med.metrics.settings import read_settings
from sae_lens_med.runs.parsing import MAX_DEPTH, ParseError, parse_json, parse_yaml, whole_number
from sae_lens_med.saes.listing import Releases, read_json_object, read_left_out_ids
from sae_lens_med.training.recipe import load_recipe
from sae_lens_med.training.text import training_text

PACKAGE = Path(sae_lens_med.__file__).parent
# PyYAML writes the text 1e3 without quotes: to it, that is no number.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\u2028\u2029")).filter(
    lambda text: not re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", text)
)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_ordinary_is_read_as_it_was(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value == parse_json(json.dumps(value, ensure_ascii=False).encode())
    # Oracle: PyYAML's own loader, which reads what PyYAML wrote.
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


def test_yaml_numbers_and_dates_are_those_of_yaml_1_2() -> None:
    given = "{a: 1e-3, b: 1e11, c: -.5E3, d: 2024-01-01, e: 2024-01-01 10:00:00, f: 1.5, g: 1_000, h: '1e3', i: 7e}"
    assert parse_yaml(given) == {
        "a": 1e-3,
        "b": 1e11,
        "c": -500.0,
        "d": "2024-01-01",
        "e": "2024-01-01 10:00:00",
        "f": 1.5,
        "g": 1000,
        "h": "1e3",
        "i": "7e",
    }
    merged = "base: &base {lr: 1, k: 2}\nown: {<<: *base, lr: 3}\nagain: *base"
    assert parse_yaml(merged) == {"base": {"lr": 1, "k": 2}, "own": {"lr": 3, "k": 2}, "again": {"lr": 1, "k": 2}}
    assert parse_yaml("") is None


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
NINES = "9" * 5000
HOSTILE_JSON = {
    "twice": '{"a": 1, "a": 2}',
    "twice, inside": '[{"b": {"a": 1, "\\u0061": 2}}]',
    "digits": f'{{"a": {NINES}}}',
    "negative digits": f"[-{NINES}]",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep but parsed": '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
    "surrogate": '{"a": "\\ud800"}',
    "surrogate key": '{"\\udfff": 1}',
    "cut off": '{"a": [1',
    "nothing": "",
    "two values": "1 2",
}
HOSTILE_YAML = {
    "twice": "a: 1\na: 2",
    "twice in two spellings": "1: a\n0x1: b",
    "twice, inside": "- {b: {a: 1, 'a': 2}}",
    "two merges": "x: &x {a: 1}\ny: {<<: *x, <<: *x}",
    "digits": f"a: {NINES}",
    "hexadecimal digits": f"a: 0x{'f' * 5000}",
    "deep": "[" * 20_000,
    "deep but parsed": "{a: " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
    "bomb": BOMB,
    "contains itself": "a: &a [*a]",
    "key that is a list": "? [1, 2]\n: 3",
    "key that is true": "yes: 1",
    "key that is nothing": "~: 1",
    "key that is a fraction": "1.5: 1",
    "object": "a: !!python/object/apply:os.system [ls]",
    "set": "a: !!set {b, c}",
    "bytes": "a: !!binary aGFsbG8=",
    "tagged date": "a: !!timestamp 2024-01-01",
    "tag that lies": "a: !!int one",
    "another tag that lies": "a: !!bool maybe",
    "surrogate": 'a: "\\ud800"',
    "nul": "a: \0",
    "cut off": "a: [1",
    "two documents": "a: 1\n---\nb: 2",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ParseError) as error:
        parse_json(HOSTILE_JSON[name])
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ParseError) as error:
        parse_yaml(HOSTILE_YAML[name])
    assert len(str(error.value)) < 250


def test_the_reason_says_what_and_where() -> None:
    with pytest.raises(ParseError, match=r"^the key 'lr' is given twice at line 3, column 1$"):
        parse_yaml("lr: 1\nd: 2\nlr: 3")
    with pytest.raises(ParseError, match=r"^the key 'answer' is given twice$"):
        parse_json('{"answer": 1, "answer": 2}')
    with pytest.raises(ParseError, match="a number in it has 5000 digits, more than 100"):
        parse_json(NINES)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7), (" 7 ", 7), (7, 7), ("07", 7), (True, None), ("7.0", None), (7.0, None), (11, None), (-1, None)]
    + [(NINES, None), ("²", None), ("٣", None), (None, None), ([7], None), ("1_0", None)],
)
def test_whole_numbers(value: object, expected: int | None) -> None:
    assert whole_number(value, 0, 10) == expected


def doors(folder: Path) -> dict[str, Any]:
    """Every place that reads JSON or YAML of a user: name -> (ending, function of the path)."""
    return {
        "recipe": (".yaml", lambda path: load_recipe(str(path))),
        "interventions": (".yaml", read_interventions),
        "interventions in JSON": (".json", read_interventions),
        "conditions": (".yaml", load_conditions),
        "releases": (".yaml", lambda path: Releases(path, folder).read()),
        "ratings": (".json", read_ratings),
        "labels": (".json", read_labels),
        "ids that were left out": (".json", read_left_out_ids),
        "configuration of an SAE": (".json", read_json_object),
        "items": (".jsonl", lambda path: load_items(str(path))),
        "concepts": (".jsonl", load_concepts),
        "training text": (".jsonl", lambda path: training_text([path])),
    }


@pytest.mark.parametrize("door", doors(Path()))
def test_every_door_refuses_all_of_it_in_one_sentence(tmp_path: Path, door: str) -> None:
    ending, read = doors(tmp_path)[door]
    path = tmp_path / f"hostile{ending}"
    for name, text in (HOSTILE_YAML if ending == ".yaml" else HOSTILE_JSON).items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SaeLensMedError) as error:
            read(path)
        assert "\n" not in str(error.value) and "hostile" in str(error.value), name
    for data in (b"\xff\xfe\x00", b"\x00\x00"):
        path.write_bytes(data)
        with pytest.raises(SaeLensMedError):
            read(path)
    with pytest.raises(SaeLensMedError):
        read(tmp_path / f"absent{ending}")
    with pytest.raises(SaeLensMedError):
        read(tmp_path / f"{'long' * 100}{ending}")


def test_numbers_on_the_command_line_have_limits() -> None:
    for value in (NINES, "1e9", "-1", "0", "10000000000", "²"):
        with pytest.raises(SaeLensMedError, match="whole number above 0"):
            read_settings([f"causal_items={value}"])
    assert read_settings(["causal_sizes=1+7"]).causal_sizes == (1, 7)


def test_there_is_one_way_in() -> None:
    """Nothing else in the package parses JSON or YAML, but for values that it has just written itself."""
    # An endpoint's reply may hold half a surrogate pair, which is mended there and refused here.
    allowed = {"runs/parsing.py", "distributed.py", "study/folder.py", "evaluation/endpoint.py"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix() in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called = ast.unparse(node.func)
            assert called not in ("json.load", "yaml.load", "yaml.safe_load", "yaml.full_load"), path
            if called == "json.loads":
                inner = node.args[0]
                assert isinstance(inner, ast.Call) and ast.unparse(inner.func) == "json.dumps", f"{path}:{node.lineno}"


@pytest.mark.parametrize("command", ["evaluate", "study", "intervene"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", "-1"), ("--seed", str(2**32)), ("--seed", NINES), ("--limit", "0"), ("--answers-from", "2")]
    + [("--batch-tokens", "0"), ("--batch-tokens", str(10**12)), ("--shots", "-1"), ("--permutations", str(10**9))],
)
def test_numbers_of_the_commands_have_limits(command: str, option: str, value: str) -> None:
    needed = {"study": ["--sae", "x"], "intervene": ["--conditions", "x"]}.get(command, [])
    if (command, option) == ("intervene", "--permutations"):
        return
    done = CliRunner().invoke(app, [command, "-m", "x", "-d", "sample", "-o", "x", *needed, option, value])
    assert done.exit_code == 2 and "Invalid value" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("written", ["010", "1:30", "-007"])
def test_a_number_that_yaml_1_1_reads_as_another_is_refused(written: str) -> None:
    with pytest.raises(ParseError, match="read as another number"):
        parse_yaml(f"seed: {written}")
    assert parse_yaml(f"seed: '{written}'") == {"seed": written}
