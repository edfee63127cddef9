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
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from duckkeops.errors import RoleError, ShapeError

BATCH, POINT, FEATURE, NEUTRAL = "b", "p", "f", "n"
ROLE_NAMES = {BATCH: "batch", POINT: "point", FEATURE: "feature", NEUTRAL: "neutral"}

Shape = tuple[int, ...]
Order = tuple[int | None, ...] | None

TABLE_SIZE = 8192  # outlines that each table keeps


class Outline:
    """All that a node knows but its arrays and numbers: it repeats when an expression is recorded
    again.

    Outlines come from tables (`applied`, `reduced`, `outline`), each made once for an operation
    and the outlines of its arguments, and are compared by identity. So recording an operation
    again is one look-up, and the outlines of all nodes say whether an expression was met before.
    They hold no arrays. A table drops what was not used lately; the next look-up makes it anew.
    """

    __slots__ = ("bare", "dtype", "pending", "roles", "shape", "spans", "virtual")

    def __init__(
        self,
        shape: Shape,
        dtype: Any,
        roles: str,
        spans: tuple[int, ...],
        bare: bool,
        pending: bool = False,
    ):
        self.shape, self.dtype, self.roles = shape, dtype, roles
        self.spans, self.bare, self.pending = spans, bare, pending
        self.virtual = _is_virtual(shape, roles, spans)

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Given(Outline):
    """The outline of an array: where it is, its own shape, and the order in which its axes are
    seen.
    """

    __slots__ = ("order", "place", "source_shape")


class Applied(Outline):
    """The outline of an elementwise operation."""

    __slots__ = ("loop", "op", "params")


class Reduced(Outline):
    """The outline of a reduction."""

    __slots__ = ("axes", "count", "evaluated", "row", "unsettled", "whole", "whole_roles")


class Node:
    """One operation of an expression: an outline, and arguments. Immutable; equality is
    identity.
    """

    __slots__ = ("__weakref__", "_args", "outline")

    outline: Any  # an Outline; of an Apply, Applied; of a Reduce, Reduced
    _args: tuple[Node, ...]

    @property
    def shape(self) -> Shape:
        return self.outline.shape

    @property
    def ndim(self) -> int:
        return len(self.outline.shape)

    @property
    def dtype(self) -> Any:
        """A numpy.dtype; of a Scalar, the Python type."""
        return self.outline.dtype

    @property
    def roles(self) -> str:
        """One letter an axis."""
        return self.outline.roles

    @property
    def spans(self) -> tuple[int, ...]:
        """For each occurrence of an input, the mask of the axes that it spans; only the largest."""
        return self.outline.spans

    @property
    def bare(self) -> bool:
        """Is it made of arrays that no LazyArray wraps, so that the roles are only a default?"""
        return self.outline.bare

    @property
    def args(self) -> tuple[Node, ...]:
        return self._args


def _place(array: Any) -> Any:
    """The class of an array, and its device where that is not the CPU: kernels differ."""
    kind = type(array)
    if kind is np.ndarray or getattr(array, "is_cpu", False):
        return kind
    return kind, str(getattr(array, "device", ""))


def is_plain_tensor(array: Any) -> bool:
    """Is it a tensor of torch's own, which no transform looks at? Its views are orders of ours:
    torch needs microseconds for each, and would record those of what is differentiated.
    """
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(array) in (torch.Tensor, torch.nn.Parameter)
        and not is_transformed()
    )


def is_transformed() -> bool:
    """Are torch's transforms or its forward-mode derivatives at work?"""
    torch = sys.modules["torch"]
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


class Input(Node):
    """An array that the user gave. `bare`: not wrapped in a LazyArray.

    Its axes may be in another `order` than those of `source`, what the user gave, with new ones of
    length 1, which are None there. Kernels read that in other strides, and torch has no view to
    differentiate.
    """

    __slots__ = ("source",)

    def __init__(
        self, source: Any, dtype: np.dtype, roles: str, bare: bool = False, order: Order = None
    ):
        self.source, self._args = source, ()
        self.outline = _of_input(_place(source), tuple(source.shape), dtype, roles, bare, order)

    @property
    def order(self) -> Order:
        return self.outline.order

    @property
    def array(self) -> Any:
        """The entries, with the axes of the node."""
        if self.order is None:
            return self.source
        array = self.source.permute([a for a in self.order if a is not None])
        return array[tuple([None if a is None else slice(None) for a in self.order])]

    def ordered(self, order: tuple[int | None, ...], roles: str, bare: bool) -> Input:
        """The same with its axes in this order, and new ones for None."""
        node = object.__new__(Input)
        node.source, node._args = self.source, ()
        node.outline = _reordered(self.outline, order, roles, bare)
        return node


class Table(Input):
    """An array that a reduction looks things up in: it takes no part in broadcasting, and has no
    axes.
    """

    __slots__ = ()

    def __init__(self, array: Any, dtype: np.dtype):
        self.source, self._args = array, ()
        self.outline = _of_input(_place(array), (), dtype, "", False, None)


class Scalar(Node):
    """A Python number: weak in promotion, a constant or a parameter of the kernel."""

    __slots__ = ("value",)

    def __init__(self, value: complex):
        self.value, self._args = value, ()
        self.outline = _of_number(type(value))


class Apply(Node):
    """An elementwise operation on broadcast arguments.

    `loop` holds the dtypes it computes in, one an argument.
    """

    __slots__ = ()

    def __init__(
        self, op: Any, args: tuple[Node, ...], loop: tuple, dtype: np.dtype, params: tuple = ()
    ):
        self.outline, self._args = applied(op, outlines(args), loop, dtype, params), args

    @property
    def op(self) -> Any:
        return self.outline.op

    @property
    def loop(self) -> tuple:
        return self.outline.loop

    @property
    def params(self) -> tuple:
        return self.outline.params


class Reduce(Node):
    """A reduction (`row` of the reductions' table) of broadcast arguments over `axes` of their
    common shape.

    `whole` is that shape. As a node inside an expression only the rows marked `fold` occur; any row
    may be the root. The parameters are no part of the outline: of two that are equal, such as 0.0
    and -0.0, each must keep its own.
    """

    __slots__ = ("params",)

    def __init__(
        self,
        row: Any,
        args: tuple[Node, ...],
        axes: tuple[int, ...],
        dtype: np.dtype,
        params: tuple = (),
    ):
        self.outline, self._args = reduced(row, outlines(args), axes, dtype), args
        self.params = params

    @property
    def row(self) -> Any:
        return self.outline.row

    @property
    def axes(self) -> tuple[int, ...]:
        return self.outline.axes

    @property
    def whole(self) -> Shape:
        return self.outline.whole

    @property
    def whole_roles(self) -> str:
        return self.outline.whole_roles


class Joint(Reduce):
    """Reductions over the same loop axes, each with features of its own, for one kernel.

    Only a root. The first of them, `args[0]`, stands for all where they agree: in the row, the
    reduced axes, and the lengths of those that are no features of the result.
    """

    __slots__ = ()

    def __init__(self, args: tuple[Reduce, ...]):
        self.outline, self._args, self.params = args[0].outline, args, args[0].params


def together(node: Reduce) -> tuple[Reduce, ...]:
    """The reductions that a kernel for `node` computes."""
    return node._args if type(node) is Joint else (node,)  # type: ignore[return-value]


class Concat(Node):
    """The arguments one after the other along `axis`.

    They agree in the other axes, up to broadcasting.
    """

    __slots__ = ("axis",)

    def __init__(self, args: tuple[Node, ...], axis: int, dtype: np.dtype):
        self._args, self.axis = args, axis
        n = args[0].ndim
        if any(a.ndim != n for a in args):
            raise ShapeError(
                "cannot concatenate arrays with different numbers of axes.\n"
                + _operands(args)
                + "\n  Insert axes of length 1 first, as in x[None]."
            )
        shape, roles, spans, bare = _broadcast("concatenate", outlines(args), without=axis)
        shape = (*shape[:axis], sum(a.shape[axis] for a in args), *shape[axis + 1 :])
        role = _concat_role(args, axis)
        roles = roles[:axis] + role + roles[axis + 1 :]
        bit = 1 << (n - 1 - axis)
        if role == FEATURE:
            spans = _maximal(s | bit for s in spans)
        else:  # an input is only a part of such an axis: one of its own must span each part
            spans = functools.reduce(_common, (_whole_along(a, axis, bit) for a in args))
        pending = any(a.outline.pending for a in args)
        self.outline = outline(Concat, shape, dtype, roles, spans, bare, pending)


class Broadcast(Node):
    """`args[0]` repeated to `shape`. New axes are points if `roles` does not say otherwise."""

    __slots__ = ()

    def __init__(self, arg: Node, shape: Shape, roles: str | None = None):
        self._args, shape = (arg,), tuple(shape)
        new = len(shape) - arg.ndim
        if new < 0 or any(
            have not in (1, want) for have, want in zip(arg.shape, shape[new:], strict=True)
        ):
            raise ShapeError(f"cannot broadcast an array of shape {arg.shape} to {shape}.")
        roles = pointed(NEUTRAL * new + arg.roles, shape) if roles is None else roles
        self.outline = outline(
            Broadcast, shape, arg.dtype, roles, arg.spans, arg.bare, arg.outline.pending
        )


class Restricted(Node):
    """`args[0]` over some of its pairs: reductions along `axes`, two of its axes, pass over those
    that `kept` has (restriction.py).

    No engine sees it: it becomes a parameter of the reduction before anything is computed.
    """

    __slots__ = ("axes", "kept")

    def __init__(self, arg: Node, kept: Any, axes: tuple[int, int]):
        self._args, self.kept, self.axes = (arg,), kept, axes
        o = arg.outline
        self.outline = outline(Restricted, o.shape, o.dtype, o.roles, o.spans, o.bare, True)


class Vjp(Node):
    """cotangent * d value / d wrt: what each entry of `value` adds to the gradient of `wrt`, where
    `wrt` is at `place`.

    The last `summed` axes of the value are summed here. `place` names, for each axis of `wrt`, the
    axis of the value that it follows, counted from the right; None is a new axis (or one of length
    1). Shape: the value's axes that are not summed, then the new axes. So the gradient of `wrt` is
    the sum of a Vjp over all axes that `place` does not name; where `wrt` occurs at several places,
    the sum of several such.
    """

    __slots__ = ("new", "place", "summed", "whole", "whole_roles", "wrt")

    def __init__(
        self,
        value: Node,
        cotangent: Node,
        wrt: Input,
        place: tuple[int | None, ...],
        summed: int = 0,
    ):
        self._args, self.wrt, self.place, self.summed = (value, cotangent), wrt, place, summed
        self.whole, self.whole_roles, spans, _ = _broadcast("multiply", outlines(self._args))
        self.new = tuple(a for a, at in enumerate(place) if at is None and wrt.shape[a] != 1)
        n, k = len(self.whole) - summed, len(self.new)
        shape = self.whole[:n] + tuple(wrt.shape[a] for a in self.new)
        roles = self.whole_roles[:n] + "".join(
            FEATURE if wrt.roles[a] == NEUTRAL else wrt.roles[a] for a in self.new
        )
        spans = _maximal((s >> summed) << k | (1 << k) - 1 for s in spans)
        pending = any(a.outline.pending for a in self._args)
        self.outline = outline(Vjp, shape, wrt.dtype, roles, spans, False, pending)


# -- outlines --------------------------------------------------------------------------------------


def outlines(nodes: Iterable[Node]) -> tuple[Outline, ...]:
    return tuple([n.outline for n in nodes])


@functools.lru_cache(maxsize=TABLE_SIZE)
def outline(
    kind: type,
    shape: Shape,
    dtype: Any,
    roles: str,
    spans: tuple[int, ...],
    bare: bool,
    pending: bool = False,
) -> Outline:
    """The outline of a node of a class with these properties."""
    return Outline(shape, dtype, roles, spans, bare, pending)


@functools.lru_cache(maxsize=TABLE_SIZE)
def _of_input(
    place: Any, shape: Shape, dtype: np.dtype, roles: str, bare: bool, order: Order
) -> Given:
    """The outline of an array of this class and shape, on this device, its axes in this order."""
    seen = shape if order is None else tuple([1 if a is None else shape[a] for a in order])
    out = Given(seen, dtype, roles, (_spanned(seen),), bare)
    out.place, out.source_shape, out.order = place, shape, order
    return out


@functools.lru_cache(maxsize=TABLE_SIZE)
def _reordered(own: Given, order: tuple[int | None, ...], roles: str, bare: bool) -> Given:
    """The outline of the same array, its axes in an order of those of `own`."""
    axes = range(len(own.shape)) if own.order is None else own.order
    seen = tuple([None if a is None else axes[a] for a in order])
    return _of_input(own.place, own.source_shape, own.dtype, roles, bare, seen)


@functools.cache
def _of_number(kind: type) -> Outline:
    """The outline of a Python number of this type."""
    return Outline((), kind, "", (), True)


@functools.lru_cache(maxsize=TABLE_SIZE)
def applied(
    op: Any, args: tuple[Outline, ...], loop: tuple, dtype: np.dtype, params: tuple = ()
) -> Applied:
    """The outline of an operation on such arguments. Raises ShapeError if they do not broadcast."""
    shape, roles, spans, bare = _broadcast(op.name, args)
    out = Applied(shape, dtype, roles, spans, bare, any(a.pending for a in args))
    out.op, out.loop, out.params = op, loop, params
    return out


def record(outline: Applied, args: tuple[Node, ...]) -> Apply:
    """The node of an operation whose outline is known."""
    node = object.__new__(Apply)
    node.outline, node._args = outline, args
    return node


def record_reduction(outline: Reduced, args: tuple[Node, ...], params: tuple) -> Reduce:
    """The node of a reduction whose outline is known."""
    node = object.__new__(Reduce)
    node.outline, node._args, node.params = outline, args, params
    return node


def with_args(node: Node, args: tuple[Node, ...]) -> Any:
    """The same operation on arguments with the outlines of its own."""
    made = object.__new__(type(node))
    made.outline, made._args = node.outline, args
    for name in type(node).__slots__:
        setattr(made, name, getattr(node, name))
    return made


def seen_as(outline: Given, source: Any) -> Input:
    """The input that an array is under an outline that fits it."""
    made = object.__new__(Input)
    made.outline, made._args, made.source = outline, (), source
    return made


@functools.lru_cache(maxsize=TABLE_SIZE)
def reduced(row: Any, args: tuple[Outline, ...], axes: tuple[int, ...], dtype: np.dtype) -> Reduced:
    """The outline of a reduction of such arguments. Raises ShapeError if they do not broadcast."""
    whole, whole_roles, spans, bare = _broadcast(row.name, args)
    n = len(whole)
    kept = [a for a in range(n) if a not in axes]
    unsettled = any(a.pending for a in args)
    out = Reduced(
        tuple(whole[a] for a in kept),
        dtype,
        "".join(whole_roles[a] for a in kept),
        _maximal(_compress(s, n, kept) for s in spans),
        bare,
        not row.fold or unsettled,
    )
    out.unsettled = unsettled
    out.row, out.axes, out.whole, out.whole_roles = row, axes, whole, whole_roles
    out.count = math.prod(whole[a] for a in axes)
    removed = {whole_roles[a] for a in axes}
    out.evaluated = not removed <= {FEATURE, NEUTRAL} and not out.virtual
    return out


# -- roles and spans -------------------------------------------------------------------------------


def default_roles(ndim: int, feature_ndim: int | None = None, batch_ndim: int | None = None) -> str:
    """The roles of an input's axes, one letter each.

    >>> default_roles(1), default_roles(2), default_roles(3), default_roles(5)
    ('p', 'pf', 'ppf', 'bbppf')
    >>> default_roles(3, feature_ndim=2), default_roles(3, batch_ndim=1)
    ('pff', 'bpf')
    """
    for name, value in (("feature_ndim", feature_ndim), ("batch_ndim", batch_ndim)):
        if value is not None and not isinstance(value, int | np.integer):
            raise TypeError(
                f"{name}={value!r}: it is a number of axes, an integer, and got a "
                f"{type(value).__name__}."
            )
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


def _is_virtual(shape: Shape, roles: str, spans: Iterable[int]) -> bool:
    points = 0  # the point axes that count: those longer (or shorter) than 1
    for r, (role, n) in enumerate(zip(reversed(roles), reversed(shape), strict=True)):
        if role == POINT and n != 1:
            points |= 1 << r
    return points != 0 and not any(s & points == points for s in spans)


def is_virtual(node: Node) -> bool:
    """No single occurrence of an input spans all the point axes."""
    return node.outline.virtual


def is_evaluated(node: Reduce) -> bool:
    """Is it evaluated, by DESIGN's rule?

    It is if it removes a point or batch axis, and one input spans the point axes that are left.
    """
    return node.outline.evaluated


class _Operand(NamedTuple):
    """What broadcasting reads of a node."""

    shape: Shape
    roles: str
    spans: tuple[int, ...]
    bare: bool


class _Clash(Exception):
    """Two operands do not fit: axis -r, and the two operands' positions."""


def _broadcast(
    what: str, args: Sequence[Outline], without: int | None = None
) -> tuple[Shape, str, tuple[int, ...], bool]:
    """Common shape, roles, spans, and whether all are bare.

    Along axis `without` all count as 1 long.
    """
    operands = [_Operand(a.shape, a.roles, a.spans, a.bare) for a in args]
    if without is not None:
        operands = [
            o._replace(shape=(*o.shape[:without], 1, *o.shape[without + 1 :])) for o in operands
        ]
    n = max(len(o.shape) for o in operands)
    try:
        shape = tuple(_common_length(operands, r) for r in range(n, 0, -1))
        lazy = [_lazy_role(operands, r) for r in range(n, 0, -1)]
    except _Clash as clash:
        r, one, other = clash.args
        raise _explained(what, r, args, args[one], args[other]) from None
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
                    "concatenate",
                    args[0].ndim - axis,
                    outlines(args),
                    known[0].outline,
                    rival.outline,
                    roles=True,
                )
            if known:
                return known[0].roles[axis]
    return FEATURE


def _explained(
    what: str,
    r: int,
    args: Sequence[Outline],
    one: Outline,
    other: Outline,
    roles: bool = False,
) -> ShapeError:
    """The error for axis -r of two operands: lengths that differ, or else roles that differ."""
    if not roles and {one.shape[-r], other.shape[-r]} != {one.shape[-r]}:
        return ShapeError(
            f"cannot {what}: axis -{r} has {one.shape[-r]} entries in one operand "
            f"and {other.shape[-r]} in another.\n"
            + _operands([one, other])
            + "\n  Axes must be equal, or one of them 1."
        )
    places = [next(k for k, a in enumerate(args) if a is o) for o in (one, other)]
    return RoleError(
        f"cannot {what}: axis -{r} is a {ROLE_NAMES[one.roles[-r]]} axis in one lazy array and a "
        f"{ROLE_NAMES[other.roles[-r]]} axis in another, both with {one.ndim} axes.\n"
        + _operands(args)
        + "\n"
        + role_remedy((places[0], one, one.ndim - r), (places[1], other, other.ndim - r))
    )


def role_remedy(*sides: tuple[int, Outline, int]) -> str:
    """What to write where operands (their place, outline, axis) take one axis for different
    things.
    """
    lines = []
    for place, o, axis in sides:
        role = o.roles[axis]
        which = f"operand {place}, {o.shape} {getattr(o.dtype, 'name', o.dtype)}, where it is "
        if role == FEATURE:
            lines.append(
                f"  Write LazyArray(a, feature_ndim={o.ndim - axis - 1}) for {which}"
                "a feature axis, if it numbers points."
            )
        elif role == POINT:
            lines.append(
                f"  Write LazyArray(a, feature_ndim={o.ndim - axis}) for {which}a point axis, "
                "if it holds the entries of one vector or matrix."
            )
        else:
            lines.append(f"  Write LazyArray(a, batch_ndim={axis}) for {which}a batch axis.")
    return "\n".join(lines)


def _operands(args: Sequence[Node | Outline]) -> str:
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
