"""Assertions do nothing: with PYTHONOPTIMIZE they are not there."""

import ast
from collections.abc import Iterator

import pytest

from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_CHANGING = frozenset({"pop", "popleft", "add", "append", "remove", "discard", "update", "setdefault", "send", "write"})


def _effects(tree: ast.AST) -> Iterator[ast.AST]:
    """Within assertions, what has an effect as far as can be seen."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assert):
            for node in ast.walk(statement.test):
                if isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
                    yield node
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
                    yield node


@pytest.mark.parametrize("package", ["server", "engine", "models"])
def test_assertions_have_no_effect(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in _effects(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_effects_are_seen() -> None:
    sources = ("assert x.pop()", "assert (y := 1)", "async def f():\n    assert await g()")
    assert all(list(_effects(ast.parse(source))) for source in sources)
    assert not list(_effects(ast.parse("assert x.is_alive and len(y) == 2")))
