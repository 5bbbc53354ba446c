"""JSON, YAML and numbers that somebody else wrote, read within limits: the one way in for all of them.

What a parser would take in silence, or die of, is refused with a reason: a key that is given twice (the last one would
win), a key that is neither a text nor a whole number, a number of more than `MAX_DIGITS` digits, values nested deeper
than `MAX_DEPTH`, YAML aliases that unfold to more than `MAX_ALIASED` values or contain themselves, tags that make
objects, and text that no file can hold (half of a surrogate pair). In YAML a date is the text that stands there, and
`1e-3` is a number, as in YAML 1.2.

Out of scope: what the values mean, and which file it was: who calls adds that to the reason.
"""

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 64
MAX_DIGITS = 100
"""Of a whole number; Python itself refuses more than 4300, which any reader of the number would stumble on."""
MAX_ALIASED = 100_000
MAX_SEED = 2**32 - 1
"""The largest seed that numpy's, torch's and scikit-learn's generators all take."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")


class ParseError(ValueError):
    """A text is not JSON or YAML, or breaks one of the limits. Its message is a reason without a full stop."""


class NotTextError(ParseError):
    """A text in a value is none that a file can hold."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the text under {_shown(key)} has half of a surrogate pair, which is not UTF-8")
        self.key = key
        """Of the outermost mapping; empty for a text outside of one."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, within the module's limits. Raises `ParseError`; bytes must be UTF-8.

    NaN and Infinity come as floats, as Python writes them: who uses a number checks that it is one.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_once_each, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise ParseError(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ParseError("the text is not UTF-8") from error
    except RecursionError:
        raise ParseError("it is nested too deeply") from None
    # Counting is cheap; walking is only needed where there may be something to find.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth_exceeds(value):
        raise ParseError(f"it is nested more than {MAX_DEPTH} levels deep")
    if "\\u" in text or not text.isascii():
        _require_text(value)
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text of one document, within the module's limits. Raises `ParseError`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, loader)
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParseError(f"{error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise ParseError(" ".join(str(error).split()).rstrip(".")) from error
    except (ValueError, KeyError, OverflowError) as error:  # PyYAML lets Python's own errors pass: !!int x
        raise ParseError(f"a value is not what its tag says ({error})") from error
    except RecursionError:
        raise ParseError("it is nested too deeply") from None
    _require_text(value)
    return value


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, without a byte-order mark. Raises `ParseError` with the reason why there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ParseError("there is no such file") from None
    except UnicodeDecodeError as error:
        raise ParseError("the text is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise ParseError(error.strerror or type(error).__name__) from error
    except ValueError as error:  # a NUL in the name
        raise ParseError(str(error)) from error


def read_json(path: Path) -> Any:
    """`parse_json` of a file. Raises `ParseError`."""
    return parse_json(read_text(path))


def read_yaml(path: Path) -> Any:
    """`parse_yaml` of a file. Raises `ParseError`."""
    return parse_yaml(read_text(path))


def whole_number(value: object, least: int, most: int) -> int | None:
    """`value` as a whole number from `least` to `most`, also where it is a text of decimal digits; None for anything
    else."""
    if isinstance(value, str):
        value = value.strip()
        if not re.fullmatch(rf"[-+]?[0-9]{{1,{MAX_DIGITS}}}", value):
            return None
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        return None
    return value


# --- JSON ---------------------------------------------------------------------------------------------------------


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ParseError(f"the key {_shown(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ParseError(f"a number in it has {len(digits.lstrip('-'))} digits, more than {MAX_DIGITS}")
    return int(digits)


# --- YAML ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Texts, numbers, true, false, null, lists and mappings; nothing that JSON could not hold."""


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MAX_DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number has {len(node.value)} digits, more than {MAX_DIGITS}", node.start_mark
        )
    if ":" in node.value or re.match(r"[-+]?0[0-9_]", node.value):  # by YAML 1.1 minutes, and octal
        problem = f"{node.value!r} is read as another number; write it without the colon or the 0 that begins it"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return loader.construct_yaml_int(node)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    if _EXPONENT.fullmatch(node.value):
        return float(node.value)
    return loader.construct_yaml_float(node)


_KNOWN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_MERGE = "tag:yaml.org,2002:merge"
_Loader.yaml_constructors = {
    tag: construct for tag, construct in _Loader.yaml_constructors.items() if tag is None or tag in _KNOWN_TAGS
}
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
# PyYAML resolves a scalar by its first character. A date is no value of its own, and 1e-3 is a number.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^(?:{_EXPONENT.pattern})$"), list("-+.0123456789")
)


def _check(root: yaml.Node, loader: _Loader) -> None:
    """Refuse what the module refuses, on the nodes as they are written: before merges, and before aliases unfold."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        """How many values the node unfolds to."""
        if id(node) in open_:
            raise _error("an alias contains itself", node)
        if id(node) in sizes:
            return sizes[id(node)]
        if depth > MAX_DEPTH:
            raise _error(f"it is nested more than {MAX_DEPTH} levels deep", node)
        open_.add(id(node))
        total = 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, loader)
            total += sum(size(key, depth + 1) + size(value, depth + 1) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(value, depth + 1) for value in node.value)
        open_.discard(id(node))
        sizes[id(node)] = total
        return total

    if size(root, 1) - len(sizes) > MAX_ALIASED:
        raise _error(f"its aliases unfold to more than {MAX_ALIASED:,} values", root)


def _check_keys(node: yaml.MappingNode, loader: _Loader) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (*_TEXT_OR_WHOLE, _MERGE):
            shown = _shown(key.value) if isinstance(key, yaml.ScalarNode) else "of several values"
            raise _error(f"the key {shown} is neither a text nor a whole number; put it in quotes", key)
        value = key.tag if key.tag == _MERGE else loader.construct_object(key)
        if value in seen:
            raise _error(f"the key {_shown(value) if isinstance(value, str) else value} is given twice", key)
        seen.add(value)


_TEXT_OR_WHOLE = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int")


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


# --- both ---------------------------------------------------------------------------------------------------------


def _depth_exceeds(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _require_text(value: Any, key: str = "") -> None:
    """Raise `NotTextError` for half of a surrogate pair, in a value that is known not to be nested too deeply."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise NotTextError(key)
    elif isinstance(value, dict):
        for own, inner in value.items():
            _require_text(own, key or str(own))
            _require_text(inner, key or str(own))
    elif isinstance(value, list):
        for inner in value:
            _require_text(inner, key)


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _shown(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
