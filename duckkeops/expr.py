"""Plain nodes: an expression over pairs of rows, recorded and not yet computed.

A node knows its shape, its dtype, the role of each axis and which axes single inputs span. Nothing
here imports SymPy: recording must cost next to nothing, and a repeated evaluation needs no algebra.

Axes line up from the right, as in NumPy's broadcasting, so axis sets are bit masks over negative
positions: bit 0 is axis -1, bit 1 is axis -2. A view (indexing, transposing, inserting an axis) is
pushed down to the inputs at once, where it is an ordinary view of the user's array; expressions
have no view nodes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from duckkeops.errors import RoleError, ShapeError

BATCH, POINT, FEATURE, NEUTRAL = "b", "p", "f", "n"
ROLE_NAMES = {BATCH: "batch", POINT: "point", FEATURE: "feature", NEUTRAL: "neutral"}

Shape = tuple[int, ...]


class Node:
    """One operation of an expression. Immutable; equality is identity."""

    __slots__ = ("__weakref__", "dtype", "roles", "shape", "spans")

    shape: Shape
    dtype: Any  # numpy.dtype; of a Scalar, the Python type
    roles: str  # one letter an axis
    spans: tuple[
        int, ...
    ]  # for each occurrence of an input, the mask of the axes that it spans; only the largest
    bare: bool = False  # made of arrays that no LazyArray wraps, so the roles are only a default

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def args(self) -> tuple[Node, ...]:
        return ()


class Input(Node):
    """An array that the user gave. `bare`: not wrapped in a LazyArray."""

    __slots__ = ("array", "bare")

    def __init__(self, array: Any, dtype: np.dtype, roles: str, bare: bool = False):
        self.array, self.dtype, self.roles, self.bare = array, dtype, roles, bare
        self.shape = tuple(array.shape)
        self.spans = (_spanned(self.shape),)


class Scalar(Node):
    """A Python number: weak in promotion, a constant or a parameter of the kernel."""

    __slots__ = ("bare", "value")

    def __init__(self, value: complex):
        self.value, self.dtype = value, type(value)
        self.shape, self.roles, self.spans, self.bare = (), "", (), True


class _Inner(Node):
    """A node with arguments."""

    __slots__ = ("_args", "bare")

    @property
    def args(self) -> tuple[Node, ...]:
        return self._args


class Apply(_Inner):
    """An elementwise operation on broadcast arguments.

    `loop` holds the dtypes it computes in, one an argument.
    """

    __slots__ = ("loop", "op", "params")

    def __init__(
        self, op: Any, args: tuple[Node, ...], loop: tuple, dtype: np.dtype, params: tuple = ()
    ):
        self.op, self._args, self.loop, self.dtype, self.params = op, args, loop, dtype, params
        self.shape, self.roles, self.spans, self.bare = _broadcast(op.name, args)


class Reduce(_Inner):
    """A reduction (`row` of the reductions' table) of broadcast arguments over `axes` of their
    common shape.

    `whole` is that shape. As a node inside an expression only the rows marked `fold` occur; any row
    may be the root.
    """

    __slots__ = ("axes", "params", "row", "whole", "whole_roles")

    def __init__(
        self,
        row: Any,
        args: tuple[Node, ...],
        axes: tuple[int, ...],
        dtype: np.dtype,
        params: tuple = (),
    ):
        self.row, self._args, self.axes, self.dtype, self.params = row, args, axes, dtype, params
        self.whole, self.whole_roles, spans, self.bare = _broadcast(row.name, args)
        n = len(self.whole)
        kept = [a for a in range(n) if a not in axes]
        self.shape = tuple(self.whole[a] for a in kept)
        self.roles = "".join(self.whole_roles[a] for a in kept)
        self.spans = _maximal(_compress(s, n, kept) for s in spans)


class Concat(_Inner):
    """The arguments one after the other along `axis`.

    They agree in the other axes, up to broadcasting.
    """

    __slots__ = ("axis",)

    def __init__(self, args: tuple[Node, ...], axis: int, dtype: np.dtype):
        self._args, self.axis, self.dtype = args, axis, dtype
        n = args[0].ndim
        if any(a.ndim != n for a in args):
            raise ShapeError(
                "cannot concatenate arrays with different numbers of axes.\n"
                + _operands(args)
                + "\n  Insert axes of length 1 first, as in x[None]."
            )
        shape, roles, spans, self.bare = _broadcast("concatenate", args, without=axis)
        self.shape = (*shape[:axis], sum(a.shape[axis] for a in args), *shape[axis + 1 :])
        role = _concat_role(args, axis)
        self.roles = roles[:axis] + role + roles[axis + 1 :]
        bit = 1 << (n - 1 - axis)
        if role == FEATURE:
            self.spans = _maximal(s | bit for s in spans)
        else:  # an input is only a part of such an axis: one of its own must span each part
            self.spans = functools.reduce(_common, (_whole_along(a, axis, bit) for a in args))


class Broadcast(_Inner):
    """`args[0]` repeated to `shape`. New axes are points if `roles` does not say otherwise."""

    __slots__ = ()

    def __init__(self, arg: Node, shape: Shape, roles: str | None = None):
        self._args, self.dtype, self.bare = (arg,), arg.dtype, arg.bare
        new = len(shape) - arg.ndim
        if new < 0 or any(
            have not in (1, want) for have, want in zip(arg.shape, shape[new:], strict=True)
        ):
            raise ShapeError(f"cannot broadcast an array of shape {arg.shape} to {tuple(shape)}.")
        self.shape = tuple(shape)
        self.roles = pointed(NEUTRAL * new + arg.roles, self.shape) if roles is None else roles
        self.spans = arg.spans


class Vjp(Node):
    """cotangent * d value / d wrt: what each entry of `value` adds to the gradient of `wrt`, where
    `wrt` is at `place`.

    The last `summed` axes of the value are summed here. `place` names, for each axis of `wrt`, the
    axis of the value that it follows, counted from the right; None is a new axis (or one of length
    1). Shape: the value's axes that are not summed, then the new axes. So the gradient of `wrt` is
    the sum of a Vjp over all axes that `place` does not name; where `wrt` occurs at several places,
    the sum of several such.
    """

    __slots__ = ("_args", "new", "place", "summed", "whole", "whole_roles", "wrt")

    def __init__(
        self,
        value: Node,
        cotangent: Node,
        wrt: Input,
        place: tuple[int | None, ...],
        summed: int = 0,
    ):
        self._args, self.wrt, self.place, self.summed, self.dtype = (
            (value, cotangent),
            wrt,
            place,
            summed,
            wrt.dtype,
        )
        self.whole, self.whole_roles, spans, _ = _broadcast("multiply", (value, cotangent))
        self.new = tuple(a for a, at in enumerate(place) if at is None and wrt.shape[a] != 1)
        n, k = len(self.whole) - summed, len(self.new)
        self.shape = self.whole[:n] + tuple(wrt.shape[a] for a in self.new)
        self.roles = self.whole_roles[:n] + "".join(
            FEATURE if wrt.roles[a] == NEUTRAL else wrt.roles[a] for a in self.new
        )
        self.spans = _maximal((s >> summed) << k | (1 << k) - 1 for s in spans)

    @property
    def args(self) -> tuple[Node, ...]:
        return self._args


# -- roles and spans -------------------------------------------------------------------------------


def default_roles(ndim: int, feature_ndim: int | None = None, batch_ndim: int | None = None) -> str:
    """The roles of an input's axes, one letter each.

    >>> default_roles(1), default_roles(2), default_roles(3), default_roles(5)
    ('p', 'pf', 'ppf', 'bbppf')
    >>> default_roles(3, feature_ndim=2), default_roles(3, batch_ndim=1)
    ('pff', 'bpf')
    """
    features = (1 if ndim > 1 else 0) if feature_ndim is None else feature_ndim
    if not 0 <= features <= ndim:
        raise ShapeError(f"feature_ndim={feature_ndim} does not fit an array with {ndim} axes.")
    others = ndim - features
    batch = max(others - 2, 0) if batch_ndim is None else batch_ndim
    if not 0 <= batch <= others:
        raise ShapeError(
            f"batch_ndim={batch_ndim} does not fit an array with {ndim} axes, "
            f"{features} of them features."
        )
    return BATCH * batch + POINT * (others - batch) + FEATURE * features


def _spanned(shape: Shape) -> int:
    mask = 0
    for r, n in enumerate(reversed(shape)):
        if n != 1:
            mask |= 1 << r
    return mask


def pointed(roles: str, shape: Shape) -> str:
    """An axis that no input spans is a point axis."""
    return "".join(
        POINT if r == NEUTRAL and n != 1 else r for r, n in zip(roles, shape, strict=True)
    )


def _maximal(spans: Iterable[int]) -> tuple[int, ...]:
    """Drop masks that another one contains."""
    out: list[int] = []
    for s in spans:
        if any(s | t == t for t in out):
            continue
        out = [t for t in out if t | s != s]
        out.append(s)
    return tuple(out)


def _common(left: Iterable[int], right: Sequence[int]) -> tuple[int, ...]:
    """What a part of each side spans together."""
    return _maximal(s & t for s in left for t in right)


def _whole_along(part: Node, axis: int, bit: int) -> tuple[int, ...]:
    """The spans of a part of a Concat; a single row counts as spanned."""
    return tuple(s | bit for s in part.spans) if part.shape[axis] == 1 else part.spans


def _compress(mask: int, n: int, kept: Sequence[int]) -> int:
    """The mask's bits of the `kept` axes of n, pushed together."""
    out = 0
    for r, a in enumerate(reversed(kept)):
        if mask >> (n - 1 - a) & 1:
            out |= 1 << r
    return out


def point_mask(node: Node) -> int:
    """The point axes that count: those longer (or shorter) than 1."""
    mask = 0
    for r, (role, n) in enumerate(zip(reversed(node.roles), reversed(node.shape), strict=True)):
        if role == POINT and n != 1:
            mask |= 1 << r
    return mask


def is_virtual(node: Node) -> bool:
    """No single occurrence of an input spans all the point axes."""
    points = point_mask(node)
    return points != 0 and not any(s & points == points for s in node.spans)


def is_evaluated(node: Reduce) -> bool:
    """Is it evaluated, by DESIGN's rule?

    It is if it removes a point or batch axis, and one input spans the point axes that are left.
    """
    removed = {node.whole_roles[a] for a in node.axes}
    return not removed <= {FEATURE, NEUTRAL} and not is_virtual(node)


class _Operand(NamedTuple):
    """What broadcasting reads of a node; passed as plain tuples, which are faster to make."""

    shape: Shape
    roles: str
    spans: tuple[int, ...]
    bare: bool


class _Clash(Exception):
    """Two operands do not fit: axis -r, and the two operands' positions."""


def _broadcast(
    what: str, args: Sequence[Node], without: int | None = None
) -> tuple[Shape, str, tuple[int, ...], bool]:
    """Common shape, roles, spans, and whether all are bare.

    Along axis `without` all count as 1 long.
    """
    try:
        return _together(tuple([(a.shape, a.roles, a.spans, a.bare) for a in args]), without)
    except _Clash as clash:
        r, one, other = clash.args
        raise _explained(what, r, args, args[one], args[other]) from None


@functools.lru_cache(maxsize=4096)
def _together(
    described: tuple[tuple[Shape, str, tuple[int, ...], bool], ...], without: int | None
) -> tuple[Shape, str, tuple[int, ...], bool]:
    operands = [_Operand(*d) for d in described]
    if without is not None:
        operands = [
            o._replace(shape=(*o.shape[:without], 1, *o.shape[without + 1 :])) for o in operands
        ]
    n = max(len(o.shape) for o in operands)
    shape = tuple(_common_length(operands, r) for r in range(n, 0, -1))
    lazy = [_lazy_role(operands, r) for r in range(n, 0, -1)]
    spans = _maximal(itertools.chain.from_iterable(o.spans for o in operands))
    return shape, _with_bare_roles(operands, shape, lazy), spans, all(o.bare for o in operands)


def _common_length(operands: Sequence[_Operand], r: int) -> int:
    """The length of axis -r."""
    length, first = 1, 0
    for k, o in enumerate(operands):
        if len(o.shape) < r or o.shape[-r] in (1, length):
            continue
        if length != 1:
            raise _Clash(r, first, k)
        length, first = o.shape[-r], k
    return length


def _lazy_role(operands: Sequence[_Operand], r: int) -> str:
    """The role of axis -r by the lazy operands.

    Axes of length 1 yield, then the operand with more axes wins.
    """
    best, role, first, rival = (-1, -1), NEUTRAL, 0, None
    for k, o in enumerate(operands):
        if o.bare or len(o.shape) < r or o.roles[-r] == NEUTRAL:
            continue
        strength = (int(o.shape[-r] != 1), len(o.shape))
        if strength > best:
            best, role, first, rival = strength, o.roles[-r], k, None
        elif strength == best and o.roles[-r] != role:
            rival = k
    if rival is None:
        return role
    if best[0] == 0:  # all of length 1: whatever they meet next decides
        return NEUTRAL
    raise _Clash(r, first, rival)


def _with_bare_roles(operands: Sequence[_Operand], shape: Shape, lazy: Sequence[str]) -> str:
    """Complete the lazy operands' roles by those of axes that only bare arrays span."""
    roles = list(lazy)
    known = [a for a, role in enumerate(lazy) if role != NEUTRAL]
    last = (
        known[-1] if known and lazy[known[-1]] != FEATURE else None
    )  # the last point axis, no feature behind it
    for a, length in enumerate(shape):
        if roles[a] == NEUTRAL and length != 1:
            roles[a] = (
                FEATURE if last is not None and a > last else _bare_role(operands, len(shape) - a)
            )
    return "".join(roles)


def _bare_role(operands: Sequence[_Operand], r: int) -> str:
    """The default role of axis -r, by the bare operand with most axes that spans it."""
    spanning = [o for o in operands if len(o.shape) >= r and o.shape[-r] != 1]
    role = max(spanning, key=lambda o: len(o.shape)).roles[-r]
    return POINT if role == NEUTRAL else role


def _concat_role(args: Sequence[Node], axis: int) -> str:
    """The role of the axis along which arrays are joined: as in a broadcast.

    A new axis is a feature axis.
    """
    for some in ([a for a in args if not a.bare], args):
        for these in ([a for a in some if a.shape[axis] != 1], some):
            known = [a for a in these if a.roles[axis] != NEUTRAL]
            rival = next(
                (a for a in known if a.roles[axis] != known[0].roles[axis] and not a.bare), None
            )
            if rival is not None and rival.shape[axis] != 1:
                raise _explained(
                    "concatenate", args[0].ndim - axis, args, known[0], rival, roles=True
                )
            if known:
                return known[0].roles[axis]
    return FEATURE


def _explained(
    what: str, r: int, args: Sequence[Node], one: Node, other: Node, roles: bool = False
) -> ShapeError:
    """The error for axis -r of two operands: lengths that differ, or else roles that differ."""
    if not roles and {one.shape[-r], other.shape[-r]} != {one.shape[-r]}:
        return ShapeError(
            f"cannot {what}: axis -{r} has {one.shape[-r]} entries in one operand "
            f"and {other.shape[-r]} in another.\n"
            + _operands([one, other])
            + "\n  Axes must be equal, or one of them 1."
        )
    return RoleError(
        f"cannot {what}: axis -{r} is a {ROLE_NAMES[one.roles[-r]]} axis in one lazy array and a "
        f"{ROLE_NAMES[other.roles[-r]]} axis in another, both with {one.ndim} axes.\n"
        + _operands(args)
        + "\n  Say which it is with LazyArray(x, feature_ndim=...); "
        "a matrix of parameters is LazyArray(A, feature_ndim=2)."
    )


def _operands(args: Sequence[Node]) -> str:
    return "  " + "   ".join(
        f"{a.shape} {getattr(a.dtype, 'name', a.dtype)}" for a in args if a.ndim
    )


# -- walking ---------------------------------------------------------------------------------------


def walk(*roots: Node) -> list[Node]:
    """Every node below the roots once, arguments first."""
    out: list[Node] = []
    seen: set[int] = set()
    stack: list[Node | None] = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node is None:  # the arguments of the node below it are done
            out.append(stack.pop())  # type: ignore[arg-type]
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        args = node.args
        if args:
            stack += (node, None)
            stack += reversed(args)
        else:
            out.append(node)
    return out


def inputs(*roots: Node) -> list[Input]:
    """The inputs in the order of first sight."""
    return [n for n in walk(*roots) if isinstance(n, Input)]


def is_constant(value: complex) -> bool:
    """Is this number part of the formula's text?

    Small integers and halves are; -0.0 is not, as it equals 0.0.
    """
    if (
        isinstance(value, (bool, complex))
        or not abs(value) <= 16
        or not float(2 * value).is_integer()
    ):
        return False
    return value != 0 or math.copysign(1.0, value) > 0


# -- dtypes ----------------------------------------------------------------------------------------


def cast_to(node: Node, dtype: np.dtype) -> Node:
    """`node` in another dtype; set by ops.py, which owns the row."""
    if node.dtype == dtype:
        return node
    return _cast(node, dtype)


_cast: Callable[[Node, np.dtype], Node]


def set_cast(cast: Callable[[Node, np.dtype], Node]) -> None:
    global _cast
    _cast = cast


@functools.lru_cache(maxsize=4096)
def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of this name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
