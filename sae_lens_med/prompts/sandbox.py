"""Where prompt templates run: Jinja2's sandbox, with an end to a template's steps and to the text that it makes.

Jinja2's sandbox keeps a template away from the machine, not from looping for ever or filling the memory. Here each turn
of a loop, call, filter and operator is a step, and each text or list that goes into one or comes out is counted, before
it is made where it can be foreseen (`*`, `replace`, `center`, ...). Counting is the same on every machine and in every
thread, which a clock or a signal is not.

What prints an object instead of a text (a method without its brackets, a filter that was not joined) is an error, and
so is drawing by chance: a prompt is a function of its question.
"""

import functools
import re
import types
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 500_000
"""Of one prompt; a prompt with ten shots takes some hundred."""
MAX_CHARACTERS = 20_000_000
"""That one prompt may read and write in between, beside `PER_CHARACTER` times what it is given."""
PER_CHARACTER = 200
MAX_BITS = 4096
"""Of a whole number."""

_NOT_PLAIN = "prints {what} instead of a text"
_KINDS = {
    "generator": "a sequence that is not joined (add | join)",
    "builtin_function_or_method": "a method that is not called (add brackets)",
    "method": "a method that is not called (add brackets)",
    "function": "a function that is not called (add brackets)",
    "Macro": "a macro that is not called (add brackets)",
}
_CHANCE = "draws by chance (lipsum, random), but a prompt must be the same whenever it is made of the same question"

# By name, of filters and of methods of texts: whose result may be longer than what goes in.
_ADD = frozenset({"center", "ljust", "rjust", "zfill", "batch", "round", "to_bytes"})
_MULTIPLY = frozenset(
    {
        "replace",
        "join",
        "indent",
        "wordwrap",
        "expandtabs",
        "translate",
        "tojson",
        "pprint",
        "slice",
        "urlize",
        "xmlattr",
    }
)
_TAKE_TEXT = frozenset(
    {
        "string",
        "upper",
        "lower",
        "capitalize",
        "title",
        "trim",
        "center",
        "escape",
        "e",
        "forceescape",
        "safe",
        "indent",
    }
    | {"truncate", "wordwrap", "wordcount", "striptags", "urlize", "replace", "format", "tojson", "pprint", "urlencode"}
)
_TAKE_ANYTHING = frozenset({"attr", "default", "d"})
# What a value may be beside texts, numbers and what holds these.
_PRINTED: tuple[type, ...] = (jinja2.Undefined,)
_TAKEN: tuple[type, ...] = (jinja2.Undefined, Iterator)


class LimitError(jinja2.TemplateRuntimeError):
    """A template goes past a limit, or is no function of the question; the message goes on after its name."""


class _Allowance:
    """What one run of a template has left."""

    def __init__(self, given: int) -> None:
        self.steps = MAX_STEPS
        self.characters = MAX_CHARACTERS + PER_CHARACTER * given

    def step(self, n: int = 1) -> None:
        self.steps -= n
        if self.steps < 0:
            raise LimitError(f"takes more than {MAX_STEPS:,} steps for one prompt; make its loops shorter")

    def write(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise LimitError(f"makes more than {MAX_CHARACTERS:,} characters for one prompt; repeat less")


_ALLOWANCE: ContextVar[_Allowance] = ContextVar("allowance")


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment in which a template takes a limited number of steps. Use it by `compiled` and `run` alone."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_printed,
        )
        self.concat = _joined  # type: ignore[method-assign]  # the environment's own hook for joining the output
        self.filters = {name: _counted(name, do) for name, do in self.filters.items()}
        self.tests = {name: _counted(name, do, printing=False) for name, do in self.tests.items()}
        self.filters |= {"random": _by_chance, _TURN: _turn, _OPERAND: _operand, _PIECE: _piece}
        self.globals["lipsum"] = _by_chance

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, when there is room for the result."""
        allowance = _ALLOWANCE.get()
        allowance.step()
        sizes = _size(left, _PRINTED), _size(right, _PRINTED)
        if operator == "%" and isinstance(left, str | bytes):
            allowance.write(_format_size(left, [right]))
        elif operator == "*":
            allowance.write(_product(left, right, sizes))
        elif operator == "**":
            _power(left, right)
        else:
            allowance.write(sum(sizes))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # as in Jinja2
        """Call a method, macro or global, when there is room for the result."""
        allowance = _ALLOWANCE.get()
        allowance.step()
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(method, types.BuiltinMethodType) and not isinstance(owner, types.ModuleType | None):
            args = tuple(list(each) if isinstance(each, types.GeneratorType) else each for each in args)
            allowed = _PRINTED if isinstance(owner, str | bytes) else None
            allowance.write(_foreseen(method.__name__, owner, args, kwargs, allowed))
        result = super().call(__context, __obj, *args, **kwargs)
        allowance.write(_size(result))
        return result


def compiled(source: str) -> jinja2.Template:
    """The template, ready for `run`. Raises what Jinja2 raises for a template that cannot be read."""
    sandbox = Sandbox()
    token = _ALLOWANCE.set(_Allowance(0))
    try:
        tree = sandbox.parse(source)
        _Counting(sandbox).visit(tree)
        tree.set_environment(sandbox)
        return sandbox.from_string(tree)
    finally:
        _ALLOWANCE.reset(token)


def run(template: jinja2.Template, values: dict[str, Any], given: int) -> tuple[str, dict[str, Any]]:
    """The text that a template of `compiled` makes of `values`, and the variables that it sets at its top. `given`: the
    characters of the values, which it may print as often as a template does.

    Raises `LimitError`, and what the code of a template can raise.
    """
    token = _ALLOWANCE.set(_Allowance(given))
    try:
        context = template.new_context(values)
        return _joined(template.root_render_func(context)), context.get_exported()
    finally:
        _ALLOWANCE.reset(token)


# --- counting, written into the template --------------------------------------------------------------------------

_TURN, _OPERAND, _PIECE = "a turn of a loop", "an operand", "a piece of a text"
"""Names of filters that no template can write."""


class _Counting(NodeTransformer):
    """Each turn of a loop and each run of a macro begins with a step; what Jinja2 hands to Python itself, without a
    hook (comparisons, slices, `~`), is measured first."""

    def __init__(self, environment: Sandbox) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._begun(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._begun(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._begun(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._measured(node.expr, _OPERAND)
        for operand in node.ops:
            operand.expr = self._measured(operand.expr, _OPERAND)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._measured(each, _PIECE) for each in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._measured(node.node, _OPERAND)
        return node

    def _begun(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        start = self._measured(nodes.Const(None, lineno=node.lineno), _TURN)
        node.body.insert(0, nodes.ExprStmt(start, lineno=node.lineno))
        return node

    def _measured(self, node: nodes.Expr, how: str) -> nodes.Filter:
        return nodes.Filter(node, how, [], [], None, None, lineno=node.lineno)


@jinja2.pass_context  # so that it is not taken for a constant
def _turn(context: Any, value: None) -> None:
    del context, value
    _ALLOWANCE.get().step()


def _operand(value: Any) -> Any:
    allowance = _ALLOWANCE.get()
    allowance.step()
    allowance.write(_size(value))
    return value


def _piece(value: Any) -> Any:
    allowance = _ALLOWANCE.get()
    allowance.step()
    allowance.write(_size(value, _PRINTED))
    return value


def _printed(value: Any) -> Any:
    """What `{{ }}` prints."""
    if not isinstance(value, jinja2.Undefined):
        _ALLOWANCE.get().write(_size(value, _PRINTED))
    return value


def _joined(pieces: Iterable[str]) -> str:
    """The output of a template, a macro or a block."""
    allowance = _ALLOWANCE.get()
    kept: list[str] = []
    for piece in pieces:
        allowance.write(len(piece))
        kept.append(piece)
    return "".join(kept)


def _by_chance(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    raise LimitError(_CHANCE)


def _counted(name: str, do: Callable[..., Any], *, printing: bool = True) -> Callable[..., Any]:
    """A filter or test of Jinja2 that is counted."""
    n_passed = 1 if hasattr(do, "jinja_pass_arg") else 0
    allowed = None if not printing or name in _TAKE_ANYTHING else _PRINTED if name in _TAKE_TEXT else _TAKEN

    @functools.wraps(do)
    def counted(*args: Any, **kwargs: Any) -> Any:
        allowance = _ALLOWANCE.get()
        allowance.step()
        passed, (value, *rest) = args[:n_passed], args[n_passed:]
        if name in _MULTIPLY and isinstance(value, types.GeneratorType):
            value = list(value)
        allowance.write(_foreseen(name, value, rest, kwargs, allowed))
        result = do(*passed, value, *rest, **kwargs)
        allowance.write(_size(result))
        return result

    return counted


# --- sizes --------------------------------------------------------------------------------------------------------


def _size(value: Any, allowed: tuple[type, ...] | None = None) -> int:
    """Characters that a value has when it is written out, and one for each thing in it. To look at a thing in it is a
    step: a list may hold another one, and that another one, many times over.

    With `allowed`, a thing that is neither of these types nor a text, a number or a container is an error: it would be
    written out as the name of an object.
    """
    allowance = _ALLOWANCE.get()
    total, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        total += 1
        if isinstance(each, str | bytes | range):
            total += len(each)
        elif isinstance(each, dict):
            allowance.step(2 * len(each))
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView):
            allowance.step(len(each))
            waiting += each
        elif isinstance(each, int):
            total += each.bit_length() // 3
        elif allowed is not None and not isinstance(each, (float, type(None), *allowed)):
            name = type(each).__name__
            raise LimitError(_NOT_PLAIN.format(what=_KINDS.get(name, f"an object ({name})")))
    return total


def _foreseen(
    name: str, value: Any, args: Iterable[Any], kwargs: dict[str, Any], allowed: tuple[type, ...] | None
) -> int:
    """The most characters that a filter or method reads and writes."""
    beside = [*args, *kwargs.values()]
    size = _size(value, allowed)
    others = sum(_size(each, allowed) for each in beside)
    numbers = sum(abs(each) for each in beside if isinstance(each, int))
    if name in ("format", "format_map") and isinstance(value, str):
        return _format_size(value, beside)
    if name in _ADD:
        return size + others + numbers
    if name == "sum" and any(isinstance(each, list | tuple) for each in beside):
        return size * size
    if name in _MULTIPLY:
        return (1 + size) * (1 + others + numbers)
    return size + others


def _format_size(text: str | bytes, values: list[Any]) -> int:
    """The most characters that formatting makes: the widths, given in the text or as values, and a value a field."""
    written = text if isinstance(text, str) else text.decode("latin-1")
    widths = sum(int(digits[:12]) for digits in re.findall(r"\d+", written))
    fields = 1 + written.count("%") + written.count("{")
    flat = [each for value in values for each in (value if isinstance(value, tuple | list) else [value])]
    largest = max((abs(each) for each in flat if isinstance(each, int)), default=0)
    given = largest if "*" in written or ":{" in written else 0
    return len(written) + widths + fields * (given + sum(_size(each, _PRINTED) for each in values))


def _product(left: Any, right: Any, sizes: tuple[int, int]) -> int:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise LimitError(f"makes a whole number of more than {MAX_BITS} bits")
        return 1
    if isinstance(right, int):
        return sizes[0] * max(0, right)
    if isinstance(left, int):
        return sizes[1] * max(0, left)
    return 1


def _power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * max(0, exponent) > MAX_BITS:
        raise LimitError(f"makes a whole number of more than {MAX_BITS} bits")
