"""What a person sees of a node: its formula, on one line."""

from __future__ import annotations

from duckkeops import expr, ops
from duckkeops.expr import Apply, Broadcast, Concat, Input, Node, Reduce, Scalar
from duckkeops.operands import describe, library
from duckkeops.rewrite import Softmax

WIDTH = 240  # characters of a formula, at most about
INFIX = {  # the sign, and how tightly it binds in Python
    "equal": ("==", 0),
    "not_equal": ("!=", 0),
    "less": ("<", 0),
    "less_equal": ("<=", 0),
    "greater": (">", 0),
    "greater_equal": (">=", 0),
    "logical_or": ("|", 1),
    "bitwise_or": ("|", 1),
    "bitwise_xor": ("^", 2),
    "logical_and": ("&", 3),
    "bitwise_and": ("&", 3),
    "bitwise_left_shift": ("<<", 5),
    "bitwise_right_shift": (">>", 5),
    "add": ("+", 6),
    "subtract": ("-", 6),
    "multiply": ("*", 7),
    "divide": ("/", 7),
    "floor_divide": ("//", 7),
    "remainder": ("%", 7),
    "pow": ("**", 9),
}
PREFIX = {"negative": ("-", 8), "bitwise_invert": ("~", 8), "logical_not": ("~", 8)}
ATOM = 10


def formula(node: Node) -> tuple[str, list[Input]]:
    """The expression as Python would write it, and the inputs x0, x1, ... in it. Long ones are cut
    with an ellipsis.

    >>> import numpy as np
    >>> from duckkeops import LazyArray
    >>> x, y = LazyArray(np.ones((3, 2))), LazyArray(np.ones((4, 2)))
    >>> formula(((x[:, None] - y[None]) ** 2).sum(-1)._node)[0]
    'sum((x0 - x1)**2, axis=-1)'
    """
    inputs = expr.inputs(node)
    names: dict[int, str] = {}
    arrays: list[Input] = []
    for one in inputs:
        if one.ndim == 0 and one.bare:
            names[id(one)] = str(one.array)
        else:
            names[id(one)] = f"x{len(arrays)}"
            arrays.append(one)
    return _Text(names).of(node)[0], arrays


class _Text:
    """Writes nodes while there is room left."""

    def __init__(self, names: dict[int, str]):
        self.names, self.room = names, WIDTH

    def of(self, node: Node, depth: int = 0) -> tuple[str, int]:
        """The text and how tightly it binds."""
        if self.room <= 0 or depth > 40:
            return "...", ATOM
        if isinstance(node, Scalar):
            return self._atom(str(node.value))
        if isinstance(node, Input):
            return self._atom(self.names[id(node)])
        if isinstance(node, Broadcast):
            return self.of(node.args[0], depth + 1)
        if isinstance(node, Apply):
            return self._apply(node, depth + 1)
        self.room -= 12
        args = ", ".join(self.of(a, depth + 1)[0] for a in node.args)
        if isinstance(node, Concat):
            return f"concatenate([{args}], axis={node.axis - node.ndim})", ATOM
        if isinstance(node, Softmax):
            return f"softmax({args}, axis={_axes(node.axes, node.ndim)})", ATOM
        if isinstance(node, Reduce):
            return f"{node.row.name}({args}, axis={_axes(node.axes, len(node.whole))})", ATOM
        return f"{type(node).__name__.lower()}({args})", ATOM

    def _atom(self, text: str) -> tuple[str, int]:
        self.room -= len(text)
        return text, ATOM if not text.startswith("-") else 8

    def _apply(self, node: Apply, depth: int) -> tuple[str, int]:
        name = node.op.name
        if node.op in ops.ROUNDED.values():
            return self.of(node.args[0], depth)
        self.room -= 3
        if name in INFIX:
            sign, binds = INFIX[name]
            left, right = (self.of(a, depth) for a in node.args)
            first = _bracketed(left, binds + (name == "pow" or binds == 0))
            second = _bracketed(right, binds + (name != "pow"))
            return (
                f"{first}{sign}{second}" if name == "pow" else f"{first} {sign} {second}"
            ), binds
        if name in PREFIX:
            sign, binds = PREFIX[name]
            return sign + _bracketed(self.of(node.args[0], depth), binds), binds
        self.room -= len(name)
        args = [self.of(a, depth)[0] for a in node.args]
        if name == "cast":
            args.append(node.dtype.name)
            name = "astype"
        return f"{name}({', '.join(args)})", ATOM


def _bracketed(text: tuple[str, int], binds: int) -> str:
    return text[0] if text[1] >= binds else f"({text[0]})"


def _axes(axes: tuple[int, ...], ndim: int) -> str:
    """Axes from the right, so that they hold for arguments with fewer axes too."""
    return str(axes[0] - ndim) if len(axes) == 1 else str(tuple(a - ndim for a in axes))


def lines(node: Node, name: str = "LazyArray") -> list[str]:
    """The formula, shape and dtype; then one line for each input."""
    text, arrays = formula(node)
    shown = [f"  x{k}: {describe(one)}{_from(one)}" for k, one in enumerate(arrays[:8])]
    if len(arrays) > 8:
        shown.append(f"  and {len(arrays) - 8} more inputs")
    return [f"{name} {text}: {describe(node)}", *shown]


def _from(one: Input) -> str:
    name = library(one.array)
    return "" if name == "numpy" else f", {name}"


def html(node: Node, latex: str) -> str:
    """The formula above a table of the array and its inputs."""
    _, arrays = formula(node)
    roles = ", ".join(expr.ROLE_NAMES[r] for r in node.roles)
    rows = [
        ("LazyArray", node.shape, node.dtype, roles),
        *(
            (f"x{k}", a.shape, a.dtype, ", ".join(expr.ROLE_NAMES[r] for r in a.roles))
            for k, a in enumerate(arrays[:8])
        ),
    ]
    body = "".join(
        f"<tr><th>{n}</th><td>{s}</td><td>{d}</td><td>{r}</td></tr>" for n, s, d, r in rows
    )
    head = "<tr><th></th><th>shape</th><th>dtype</th><th>axes</th></tr>"
    return f"<div>{latex}<table>{head}{body}</table></div>"
