"""No handler keeps the error that it has caught: the error's traceback holds the handler's frame.

Such a cycle keeps all locals of that frame and its callers, received bytes and task values among
them, until the garbage collector comes by. Python itself deletes the name of ``except ... as``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastworker

PACKAGE = Path(fastworker.__file__).parent


def kept(source: str) -> list[int]:
    """The lines of the assignments that keep a caught error itself in a name of the frame."""
    return [
        node.lineno
        for handler in ast.walk(ast.parse(source))
        if isinstance(handler, ast.ExceptHandler) and handler.name
        for node in ast.walk(handler)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None
        if handler.name in names(node.value)
    ]


def names(value: ast.expr) -> Iterator[str]:
    """The names whose objects a value is or holds; what a call makes of them is another object."""
    match value:
        case ast.Name():
            yield value.id
        case ast.IfExp():
            yield from names(value.body)
            yield from names(value.orelse)
        case ast.BoolOp() | ast.Dict() | ast.Tuple() | ast.List() | ast.Set():
            for part in value.values if isinstance(value, ast.BoolOp | ast.Dict) else value.elts:
                yield from names(part)
        case ast.Attribute(attr="cause" | "__cause__" | "__context__"):
            yield from names(value.value)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_no_handler_keeps_its_error(path):
    assert kept(path.read_text()) == []


@pytest.mark.parametrize(
    "value", ["error", "a or error", "error.cause if b else a", "{'error': error}", "[a, (error,)]"]
)
def test_it_is_seen(value):
    assert kept(f"try:\n    f()\nexcept OSError as error:\n    kept = {value}\n") == [4]
    assert kept("try:\n    f()\nexcept OSError as error:\n    text = str(error)\n") == []
