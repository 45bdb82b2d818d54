"""Formulas: arithmetic over the rewards of several graders, such as `0.5 * name + 0.5 * max(age, 0)`."""

import ast
import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from engine.command_io.finetuning.graders.faults import FaultKind, Ungradable
from engine.errors import InvalidRequest
from engine.wording import quote

_MAX_CHARACTERS = 2000
_MAX_NODES = 256
_TOO_NESTED = "too many nested"  # of the parser's own message about parentheses
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # Python accepts more, such as 0x10 and 1_000
_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # of floats: no large integers, no complex numbers
}
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_OF_ONE: Mapping[str, Callable[[float], float]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_OF_SOME: Mapping[str, Callable[..., float]] = {"min": min, "max": max}
_KNOWN = f"+, -, *, /, ^, parentheses, numbers, and {', '.join([*_OF_SOME, *_OF_ONE])}"


@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed formula. The tree has only nodes that `parse_formula` accepts."""

    text: str
    _tree: ast.expr

    def value(self, rewards: Mapping[str, float]) -> float:
        """Return the formula's value. Raises Ungradable if it is not a finite number, as after a division by zero."""
        try:
            value = float(_value(self._tree, rewards))
        except (ArithmeticError, ValueError) as error:
            raise Ungradable(FaultKind.FORMULA, f"{self.text} has no value: {error}") from None
        if not math.isfinite(value):
            raise Ungradable(FaultKind.FORMULA, f"{self.text} is not finite")
        return value


def is_variable(name: str) -> bool:
    """Return whether a grader's name can be a variable in a formula. Python's parser changes non-NFKC names."""
    is_free = not keyword.iskeyword(name) and name not in (*_OF_ONE, *_OF_SOME)
    return is_free and name.isidentifier() and unicodedata.normalize("NFKC", name) == name


def parse_formula(text: str, names: Collection[str], param: str) -> Formula:
    """Parse a formula. names: the graders, which are its variables. Raises InvalidRequest for other expressions."""
    if len(text) > _MAX_CHARACTERS:
        raise InvalidRequest.of(param, f"has {len(text):,} characters; it may have {_MAX_CHARACTERS:,}: shorten it")
    source = text.strip().replace("^", "**")
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, MemoryError | RecursionError) or _TOO_NESTED in str(error):
            raise InvalidRequest.of(param, "is nested too deeply; simplify it") from None
        raise _unreadable(text, param) from None
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
    if len(nodes) > _MAX_NODES:
        raise InvalidRequest.of(param, f"has {len(nodes)} parts; it may have {_MAX_NODES}: simplify it")
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if id(node) not in functions:
            _check(node, text, names, param)
    if not all(_is_plainly_written(node, source) for node in nodes):
        raise _unreadable(text, param)
    if not any(isinstance(node, ast.Name) and id(node) not in functions for node in nodes):
        raise InvalidRequest.of(param, f"is {quote(text)}; it must name a grader: {', '.join(names)}")
    return Formula(text, tree)


def _check(node: ast.expr, text: str, names: Collection[str], param: str) -> None:
    match node:
        case ast.Name(id=name):
            if name not in names:
                raise InvalidRequest.of(param, f"names {quote(name)}; the graders are {', '.join(names)}")
        case ast.Constant(value=bool()):
            raise _unreadable(text, param)
        case ast.Constant(value=int() | float() as number):
            try:
                is_finite = math.isfinite(float(number))
            except OverflowError:
                is_finite = False
            if not is_finite:
                raise InvalidRequest.of(param, "has a number that is too large; give one below 1e308")
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            pass
        case ast.BinOp(op=binary) if type(binary) in _BINARY:
            pass
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _OF_ONE or name in _OF_SOME:
            if not args or (name in _OF_ONE and len(args) != 1):
                takes = "one value" if name in _OF_ONE else "at least one value"
                raise InvalidRequest.of(param, f"gives {name} {len(args)} values; it takes {takes}")
        case _:
            raise _unreadable(text, param)


def _is_plainly_written(node: ast.expr, source: str) -> bool:
    """Return whether a formula's number or name is written in the allowed form. Python's parser accepts more: `0x10`,
    and full-width letters in place of ASCII ones."""
    if not isinstance(node, ast.Constant | ast.Name):
        return True
    written = ast.get_source_segment(source, node) or ""
    if isinstance(node, ast.Name):
        return unicodedata.normalize("NFC", written) == node.id
    return _NUMBER.fullmatch(written) is not None


def _unreadable(text: str, param: str) -> InvalidRequest:
    return InvalidRequest.of(param, f"is {quote(text)}; it may have {_KNOWN} over the graders' names")


def _value(node: ast.expr, rewards: Mapping[str, float]) -> float:
    match node:
        case ast.Name(id=name):
            return rewards[name]
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, rewards))
        case ast.BinOp(op=binary, left=left, right=right):
            return _BINARY[type(binary)](_value(left, rewards), _value(right, rewards))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(each, rewards) for each in args]
            return _OF_SOME[name](values) if name in _OF_SOME else float(_OF_ONE[name](values[0]))
    raise AssertionError(node)
