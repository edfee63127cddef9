"""Views of expressions: indexing, transposing, new axes, pushed down to the inputs at once.

There a view is an ordinary view of the user's array; expressions have no view nodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from duckkeops.errors import ShapeError
from duckkeops.expr import (
    FEATURE,
    NEUTRAL,
    POINT,
    ROLE_NAMES,
    Apply,
    Broadcast,
    Concat,
    Input,
    Node,
    Reduce,
    Scalar,
    Shape,
    cast_to,
    is_plain_tensor,
    pointed,
)

Entry = tuple[tuple[int, ...], tuple[Any, ...]]
ALL = slice(None)


class View:
    """A rearrangement of a node's axes, as a list of what each axis of the result is.

    An entry is None (a new axis of length 1) or (source axes, selectors): one source axis and a
    slice or an integer array; or several source axes and one integer array for each (a pointwise
    pick, which makes them one axis; at most one such entry). `dropped` maps source axes to the
    integer at which they are taken. `roles` are those of the result; None means that they follow
    the source.
    """

    __slots__ = ("dropped", "entries", "key", "ndim", "roles")

    def __init__(
        self,
        ndim: int,
        entries: Sequence[Entry | None],
        dropped: dict[int, int],
        roles: str | None = None,
    ):
        self.ndim, self.entries, self.dropped, self.roles = ndim, tuple(entries), dropped, roles
        names = (
            None if e is None else (e[0], tuple(_selector_key(s) for s in e[1]))
            for e in self.entries
        )
        self.key = (ndim, tuple(names), tuple(sorted(dropped.items())), roles)

    def shape(self, source: Shape) -> Shape:
        """The shape of the result, given that of the source."""
        return tuple(1 if e is None else _length(e, source) for e in self.entries)


def axis(a: int, select: Any = ALL) -> Entry:
    """The entry of a View that is one source axis."""
    return (a,), (select,)


def view(node: Node, how: View) -> Node:
    """`node` seen through `how`, with all views at the inputs."""
    return _push([(node, _settled(node, how))])[0]


def part(args: Sequence[Node], whole: Shape, box: Sequence[slice]) -> tuple[Node, ...]:
    """The arguments of a Reduce, cut to a box of their common shape `whole`."""
    cut = (ALL if (s.start, s.stop) == (0, n) else s for s, n in zip(box, whole, strict=True))
    how = View(len(whole), [axis(a, s) for a, s in enumerate(cut)], {})
    return tuple(_push([(a, _settled(a, _for_argument(how, whole, a))) for a in args]))


def _selector_key(s: Any) -> Any:
    return (s.start, s.stop, s.step) if isinstance(s, slice) else id(s)


def _length(entry: Entry, shape: Shape) -> int:
    axes, selects = entry
    return (
        len(range(shape[axes[0]])[selects[0]]) if isinstance(selects[0], slice) else len(selects[0])
    )


def _settled(node: Node, how: View) -> View:
    """The same view with indices counted from 0 and checked, and with the roles of the result.

    What is not bare keeps its roles: they are handed down, not found anew from what the view leaves
    of the arguments.
    """
    entries: list[Entry | None] = []
    for e in how.entries:
        if e is not None:
            selects = (
                s if isinstance(s, slice) else _counted(s, a, node.shape[a])
                for a, s in zip(*e, strict=True)
            )
            e = e[0], tuple(selects)
        entries.append(e)
    dropped = {a: int(_counted(k, a, node.shape[a])) for a, k in how.dropped.items()}
    how = View(how.ndim, entries, dropped, how.roles)
    if how.roles is None and not node.bare:
        how = View(how.ndim, entries, dropped, _followed(node, how))
    return how


def _counted(index: Any, a: int, n: int) -> Any:
    """Indices counted from the front. Those of another library were made, and checked, by us."""
    if hasattr(index, "requires_grad"):
        return index
    index = np.asarray(index, dtype=np.intp)
    wrong = (index < -n) | (index >= n)
    if wrong.any():
        raise IndexError(f"index {index[wrong][0]} is out of bounds for axis {a} with {n} entries.")
    return np.where(index < 0, index + n, index) if (index < 0).any() else index


def _push(wanted: Sequence[tuple[Node, View]]) -> list[Node]:
    """The nodes seen through the views.

    A subexpression that is shared, and seen alike, stays shared.
    """
    done: dict[Any, Node] = {}
    needs: dict[
        Any, tuple[View, list[tuple[Node, View]]]
    ] = {}  # keeps the selectors alive, whose ids are in the keys
    stack = list(reversed(wanted))
    while stack:
        node, how = stack[-1]
        key = (id(node), how.key)
        if key in done:
            stack.pop()
        elif _is_identity(node, how):
            done[key] = node
        elif type(node) in _RULES:
            done[key] = _RULES[type(node)](node, how, done)
        elif key not in needs:
            needs[key] = how, _NEEDS[type(node)](node, how)
            stack.extend(reversed(needs[key][1]))
        else:
            args = tuple(done[id(a), h.key] for a, h in needs[key][1])
            done[key] = _SEEN[type(node)](node, how, args)
    return [done[id(node), how.key] for node, how in wanted]


def _is_identity(node: Node, how: View) -> bool:
    return (
        len(how.entries) == node.ndim
        and (how.roles is None or (how.roles == node.roles and not node.bare))
        and not how.dropped
        and all(
            e is not None and e[0] == (a,) and _is_all(e[1][0]) for a, e in enumerate(how.entries)
        )
    )


def _is_all(select: Any) -> bool:
    return isinstance(select, slice) and select == ALL


def _for_argument(how: View, whole: Shape, arg: Node) -> View:
    """The view of a broadcast argument that gives the view of the whole.

    Nothing is selected where it is broadcast.
    """
    shift = len(whole) - arg.ndim

    def selected(a: int) -> bool:
        return a >= shift and not (arg.shape[a - shift] == 1 and whole[a] != 1)

    entries: list[Entry | None] = []
    dropped = {a - shift: k if selected(a) else 0 for a, k in how.dropped.items() if a >= shift}
    for e in how.entries:
        if e is None or (len(e[0]) == 1 and e[0][0] < shift):
            entries.append(None)
        elif len(e[0]) == 1:
            entries.append(axis(e[0][0] - shift, e[1][0] if selected(e[0][0]) else ALL))
        else:
            dropped |= {a - shift: 0 for a in e[0] if a >= shift and not selected(a)}
            picked = [(a - shift, s) for a, s in zip(*e, strict=True) if selected(a)]
            entries.append(
                (tuple(a for a, _ in picked), tuple(s for _, s in picked)) if picked else None
            )
    extra = 0
    if shift:  # leading axes of length 1 come back by broadcasting
        extra = next((k for k, e in enumerate(entries) if e is not None), len(entries))
    roles = None if how.roles is None else how.roles[extra:]
    return View(arg.ndim, entries[extra:], dropped, roles)


def _followed(node: Node, how: View) -> str:
    """The roles of the result, where they follow the source.

    A pointwise pick gives a point axis.
    """
    named = (
        NEUTRAL if e is None else POINT if e[0][1:] else node.roles[e[0][0]] for e in how.entries
    )
    return pointed("".join(named), how.shape(node.shape))


# What a view of each kind of node needs of its arguments, and the node made of the arguments seen
# so.


def _no_needs(node: Node, how: View) -> list[tuple[Node, View]]:
    return []


def _input_seen(node: Input, how: View, args: tuple[Node, ...]) -> Node:
    roles = _followed(node, how) if how.roles is None else how.roles
    bare = node.bare and how.roles is None
    if not how.dropped and is_plain_tensor(node.source):
        entries = [e for e in how.entries if e is not None]
        if all(len(axes) == 1 and _is_all(selects[0]) for axes, selects in entries):
            order = tuple([None if e is None else e[0][0] for e in how.entries])
            return node.ordered(order, roles, bare)
    index: list[Any] = [how.dropped.get(a, ALL) for a in range(node.ndim)]
    gathers: list[tuple[int, np.ndarray]] = []
    picks: list[Entry] = []
    for e in how.entries:
        if e is None:
            continue
        (a, *others), (select, *_) = e
        if others:
            picks.append(e)
        elif isinstance(select, slice):
            index[a] = select
        else:
            gathers.append((a, select))
    array = _cut(node.array, index)
    left = [a for a in range(node.ndim) if a not in how.dropped]
    for a, select in gathers:
        array = _take(array, select, left.index(a))
    for axes, selects in picks:
        array = _picked(array, [left.index(a) for a in axes], selects)
        left = [axes[0], *(a for a in left if a not in axes)]
    array = _permuted(array, [left.index(e[0][0]) for e in how.entries if e is not None])
    if None in how.entries:
        array = array[tuple(None if e is None else ALL for e in how.entries)]
    return Input(array, node.dtype, roles, bare)


def _scalar_seen(node: Scalar, how: View, args: tuple[Node, ...]) -> Node:
    return Broadcast(node, (1,) * len(how.entries)) if how.entries else node


def _common_needs(node: Node, how: View) -> list[tuple[Node, View]]:
    return [(a, _for_argument(how, node.shape, a)) for a in node.args]


def _apply_seen(node: Apply, how: View, args: tuple[Node, ...]) -> Node:
    return Apply(node.op, args, node.loop, node.dtype, node.params)


def _broadcast_seen(node: Broadcast, how: View, args: tuple[Node, ...]) -> Node:
    roles = _followed(node, how) if how.roles is None else how.roles
    return Broadcast(args[0], how.shape(node.shape), roles)


def _reduce_needs(node: Reduce, how: View) -> list[tuple[Node, View]]:
    """The reduced axes go last."""
    kept = [a for a in range(len(node.whole)) if a not in node.axes]
    entries = [None if e is None else (tuple(kept[a] for a in e[0]), e[1]) for e in how.entries]
    dropped = {kept[a]: k for a, k in how.dropped.items()}
    roles = (
        None if how.roles is None else how.roles + "".join(node.whole_roles[a] for a in node.axes)
    )
    inner = View(len(node.whole), [*entries, *(axis(a) for a in node.axes)], dropped, roles)
    return [(a, _for_argument(inner, node.whole, a)) for a in node.args]


def _reduce_seen(node: Reduce, how: View, args: tuple[Node, ...]) -> Node:
    n = len(how.entries)
    return Reduce(node.row, args, tuple(range(n, n + len(node.axes))), node.dtype, node.params)


def _concat_needs(node: Concat, how: View) -> list[tuple[Node, View]]:
    """One view for each run of wanted entries that come from one argument."""
    starts = np.cumsum([0, *(a.shape[node.axis] for a in node.args)])
    if node.axis in how.dropped:
        k = int(np.searchsorted(starts, how.dropped[node.axis], side="right")) - 1
        dropped = how.dropped | {node.axis: how.dropped[node.axis] - int(starts[k])}
        return [_piece(node, k, View(how.ndim, how.entries, dropped, how.roles))]
    place = _place(node, how)
    axes, selects = how.entries[place]  # type: ignore[misc]
    wanted = np.arange(node.shape[node.axis])[selects[axes.index(node.axis)]]
    wanted = np.atleast_1d(wanted)  # NumPy takes a tensor of one index for that number
    owners = np.searchsorted(starts, wanted, side="right") - 1
    cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(wanted)]
    needs = []
    for first, last in itertools.pairwise(cuts):
        k = int(owners[first]) if last else 0
        local = wanted[first:last] - starts[k]
        run = tuple(
            local if a == node.axis else s[first:last] for a, s in zip(axes, selects, strict=True)
        )
        entry = (axes, run) if len(axes) > 1 else axis(node.axis, _as_slice(local))
        entries = (*how.entries[:place], entry, *how.entries[place + 1 :])
        needs.append(_piece(node, k, View(how.ndim, entries, how.dropped, how.roles)))
    return needs


def _place(node: Concat, how: View) -> int:
    return next(p for p, e in enumerate(how.entries) if e is not None and node.axis in e[0])


def _piece(node: Concat, k: int, how: View) -> tuple[Node, View]:
    arg = node.args[k]
    whole = (*node.shape[: node.axis], arg.shape[node.axis], *node.shape[node.axis + 1 :])
    return arg, _for_argument(how, whole, arg)


def _concat_seen(node: Concat, how: View, args: tuple[Node, ...]) -> Node:
    if len(args) != 1:
        return Concat(args, _place(node, how), node.dtype)
    only, shape = cast_to(args[0], node.dtype), how.shape(node.shape)
    return only if only.shape == shape else Broadcast(only, shape, how.roles)


def _as_slice(at: np.ndarray) -> Any:
    """The slice that picks these indices, if one does."""
    if len(at) < 2:
        return slice(int(at[0]), int(at[0]) + 1) if len(at) else slice(0, 0)
    step = int(at[1] - at[0])
    if step and np.array_equal(at, at[0] + step * np.arange(len(at))):
        stop = int(at[-1]) + step
        return slice(int(at[0]), stop if stop >= 0 else None, step)
    return at


_NEEDS: dict[type, Callable[[Any, View], list[tuple[Node, View]]]] = {
    Input: _no_needs,
    Scalar: _no_needs,
    Apply: _common_needs,
    Reduce: _reduce_needs,
    Concat: _concat_needs,
    Broadcast: _common_needs,
}
_SEEN: dict[type, Callable[[Any, View, tuple[Node, ...]], Node]] = {
    Input: _input_seen,
    Scalar: _scalar_seen,
    Apply: _apply_seen,
    Reduce: _reduce_seen,
    Concat: _concat_seen,
    Broadcast: _broadcast_seen,
}

_RULES: dict[type, Callable[[Any, View, dict], Node]] = {}


def set_view(kind: type, rule: Callable[[Any, View, dict], Node]) -> None:
    """How nodes of a class defined elsewhere are seen through a view."""
    _RULES[kind] = rule


# -- the same on the users' arrays -----------------------------------------------------------------


def _namespace(array: Any) -> Any:
    from array_api_compat import array_namespace

    return array_namespace(array)


def _cut(array: Any, index: Sequence[Any]) -> Any:
    """Basic indexing, which leaves an array with no axes an array."""
    if all(_is_all(i) for i in index):
        return array
    if isinstance(array, np.ndarray):
        return array[(*index, ...)]
    flipped: list[int] = []
    forward: list[Any] = []
    for i, n in zip(index, array.shape, strict=True):
        if isinstance(
            i, slice
        ):  # torch refuses negative steps, the array API bounds beyond the array
            taken = range(n)[i]
            if taken.step < 0:
                flipped.append(sum(isinstance(k, slice) for k in forward))
                taken = taken[::-1]
            i = slice(taken[0], taken[-1] + 1, taken.step) if taken else slice(0, 0)
        forward.append(i)
    array = array[(*forward, ...)]
    return _namespace(array).flip(array, axis=tuple(flipped)) if flipped else array


def _take(array: Any, index: Any, a: int) -> Any:
    if isinstance(array, np.ndarray):
        return np.take(array, index, axis=a)
    if not isinstance(index, np.ndarray):
        return array[(ALL,) * a + (index,)]
    from array_api_compat import device

    xp = _namespace(array)
    index = index if index.flags.writeable else index.copy()  # torch warns
    return xp.take(array, xp.asarray(index, device=device(array)), axis=a)


def _picked(array: Any, axes: Sequence[int], picks: Sequence[np.ndarray]) -> Any:
    """Entries picked pointwise along several axes, which become the first axis."""
    array = _permuted(array, [*axes, *(a for a in range(array.ndim) if a not in axes)])
    if isinstance(array, np.ndarray) or not isinstance(picks[0], np.ndarray):
        return array[tuple(picks)]
    lengths, rest = tuple(array.shape[: len(axes)]), tuple(array.shape[len(axes) :])
    flat = np.ravel_multi_index(tuple(picks), lengths) if len(picks[0]) else np.zeros(0, np.intp)
    return _take(_namespace(array).reshape(array, (math.prod(lengths), *rest)), flat, 0)


def _permuted(array: Any, order: Sequence[int]) -> Any:
    if list(order) == list(range(array.ndim)):
        return array
    if isinstance(array, np.ndarray):
        return array.transpose(order)
    return _namespace(array).permute_dims(array, tuple(order))


# -- rearranging nodes -----------------------------------------------------------------------------


def expand(node: Node, places: Iterable[int]) -> Node:
    """New axes of length 1 at these places of the result; as np.expand_dims."""
    places = sorted(places)
    n = node.ndim + len(places)
    old = iter(range(node.ndim))
    return view(
        node, View(node.ndim, [None if k in places else axis(next(old)) for k in range(n)], {})
    )


def permute(node: Node, order: Sequence[int]) -> Node:
    """The axes in another order; as np.transpose."""
    return view(node, View(node.ndim, [axis(a) for a in order], {}))


def squeeze(node: Node, axes: Iterable[int]) -> Node:
    """Without these axes, of length 1; as np.squeeze."""
    axes = set(axes)
    return view(
        node,
        View(
            node.ndim, [axis(a) for a in range(node.ndim) if a not in axes], dict.fromkeys(axes, 0)
        ),
    )


def flip(node: Node, axes: Iterable[int]) -> Node:
    """These axes backwards; as np.flip."""
    axes, back = set(axes), slice(None, None, -1)
    return view(
        node, View(node.ndim, [axis(a, back if a in axes else ALL) for a in range(node.ndim)], {})
    )


def broadcast_to(node: Node, shape: Shape) -> Node:
    """`node` repeated to `shape`; new axes longer than 1 are points. As np.broadcast_to."""
    return node if node.shape == tuple(shape) else Broadcast(node, shape)


def concatenate(nodes: Sequence[Node], axis: int, dtype: np.dtype) -> Node:
    """The nodes one after the other along an axis that each of them has; as np.concatenate."""
    return cast_to(nodes[0], dtype) if len(nodes) == 1 else Concat(tuple(nodes), axis, dtype)


def stack(nodes: Sequence[Node], place: int, dtype: np.dtype) -> Node:
    """The nodes along a new axis, a feature axis; as np.stack."""
    n = max(a.ndim for a in nodes)
    aligned = [expand(a, range(n - a.ndim)) for a in nodes]
    return Concat(tuple(expand(a, [place]) for a in aligned), place, dtype)


def reshape(node: Node, shape: Shape) -> Node:
    """`node` in another shape: ones come and go, feature axes split and merge; as np.reshape in C
    order.

    Raises ShapeError if the entries do not fit, or if a point or batch axis would be split or
    merged.
    """
    groups = _groups(node, tuple(shape))
    for group in reversed(groups):  # from the right, so that the places to the left stay
        if (len(group.old), len(group.new)) != (1, 1):
            node = _merge(node, group.old)
            node = _split(node, group.old[0], group.new)
    ones = [a for a, n in enumerate(node.shape) if n == 1]
    node = squeeze(node, ones) if ones else node
    places = [a for a, n in enumerate(shape) if n == 1]
    return expand(node, places) if places else node


class _Group(NamedTuple):
    """Old axes that become new axes of these lengths."""

    old: tuple[int, ...]
    new: tuple[int, ...]


def _groups(node: Node, shape: Shape) -> list[_Group]:
    """Which axes longer than 1 become which."""
    refusal = ShapeError(
        f"cannot reshape d: {node.shape} to {shape}: only axes of length 1 come and go, "
        "and only feature axes split and merge.\n"
        f"  The axes of d are {', '.join(ROLE_NAMES[r] for r in node.roles) or 'none'}."
    )
    if math.prod(node.shape) != math.prod(shape):
        raise ShapeError(
            f"cannot reshape d: {node.shape} with {math.prod(node.shape)} entries to {shape}."
        )
    old = [a for a, n in enumerate(node.shape) if n != 1]
    new = [n for n in shape if n != 1]
    groups: list[_Group] = []
    while old or new:
        left, right = old[:1], new[:1]
        del old[:1], new[:1]
        while math.prod(node.shape[a] for a in left) != math.prod(right):
            less = math.prod(node.shape[a] for a in left) < math.prod(right)
            source, target = (old, left) if less else (new, right)
            if not source:
                raise refusal
            target.append(source.pop(0))
        if not left or (
            (len(left), len(right)) != (1, 1) and any(node.roles[a] != FEATURE for a in left)
        ):
            raise refusal
        groups.append(_Group(tuple(left), tuple(right)))
    return groups


def _merge(node: Node, axes: Sequence[int]) -> Node:
    """The axes from the first to the last of `axes` as one, all others between them being 1
    long.
    """
    for a in range(axes[-1] - 1, axes[0] - 1, -1):
        rows = [_component(node, a, k) for k in range(node.shape[a])]
        node = concatenate(rows, a, node.dtype)
    return node


def _component(node: Node, a: int, k: int) -> Node:
    entries = [axis(b) for b in range(node.ndim) if b != a]
    return view(node, View(node.ndim, entries, {a: k}))


def _split(node: Node, a: int, lengths: Sequence[int]) -> Node:
    """Axis `a` as several axes of these lengths."""
    if len(lengths) == 1:
        return node
    step = math.prod(lengths[1:])
    rows = []
    for k in range(lengths[0]):
        entries = [
            axis(b, slice(k * step, (k + 1) * step) if b == a else ALL) for b in range(node.ndim)
        ]
        rows.append(_split(view(node, View(node.ndim, entries, {})), a, lengths[1:]))
    return stack(rows, a, node.dtype)
