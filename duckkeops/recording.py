"""A computation that was one reduction of its arrays, again, of other arrays of the same kind.

To record an expression takes longer than a small problem. Where the same function is called over
and over, what it recorded the first time is enough: its nodes, with other arrays for inputs.

>>> import numpy as np
>>> from duckkeops import LazyArray
>>> from duckkeops.recording import kind, record
>>> def nearest(x, y):
...     return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1).min(axis=1)
>>> x, y = np.zeros((2, 3)), np.ones((4, 3))
>>> value, again = record(lambda: nearest(x, y), (x, y))
>>> others = np.zeros((2, 3)), np.full((4, 3), 2.0)
>>> kind(others) == kind((x, y))
True
>>> again(others)
array([12., 12.])
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from duckkeops import expr, genuine, restriction
from duckkeops.config import current
from duckkeops.expr import Apply, Broadcast, Concat, Input, Node, Reduce, Scalar
from duckkeops.restriction import BlockPairs

KINDS = (Apply, Reduce, Concat, Broadcast, Scalar)


def kind(arrays: Sequence[Any]) -> tuple | None:
    """What a recording takes for granted of its arrays: shapes, dtypes, places, whether they lie
    side by side and have gradients, which are the same, and which begin at the same address. None
    where nothing is recorded: of arrays that are not NumPy's or torch's own, and of tensors that
    are transformed or compiled.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return None
    out: list[Any] = [_first_of_each(list(map(id, arrays)))]
    addresses = []
    for a in arrays:
        if type(a) is np.ndarray:
            addresses.append(a.__array_interface__["data"][0])
            out.append((a.shape, a.dtype, a.flags.c_contiguous))
        elif expr.is_plain_tensor(a):
            addresses.append(a.data_ptr())
            own = type(a), a.shape, a.dtype, a.device, a.is_contiguous(), a.requires_grad
            out.append(own)
        else:
            return None
    out.append(_first_of_each(addresses))
    if torch is not None:
        out.append(torch.is_grad_enabled())
    out.append(current().kernels)
    return tuple(out)


def _first_of_each(ids: Sequence[int]) -> tuple[int, ...] | None:
    """The place of the first that is the same; None if all are others."""
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))


def record(call: Callable[[], Any], arrays: Sequence[Any]) -> tuple[Any, Recording | None]:
    """What `call` gives, and what gives it of other arrays of the same kind, as far as that was one
    reduction of these, with the shape of its result changed at most.

    `call` must look at no entries, write none, and depend on nothing that may change but `arrays`.
    """
    with genuine.watched() as seen:
        value = call()
    if len(seen) != 1:
        return value, None
    node, order, found = seen[0]
    results = found if isinstance(found, tuple) else (found,)
    parts = value if type(value) is tuple else (value,)
    ends = [_end(part, results) for part in parts]
    if not all(ends):
        return value, None
    nodes = expr.walk(node)
    origins = {id(n): _origin(n.source, arrays) for n in nodes if type(n) is Input}
    if not all(type(n) in KINDS or origins.get(id(n)) for n in nodes):
        return value, None
    return value, Recording(nodes, origins, order, ends if type(value) is tuple else ends[0])


def _origin(source: Any, arrays: Sequence[Any]) -> tuple[int, Callable[[Any], Any] | None] | None:
    """Which of the arrays an input is, and what makes it of that where it is not the same."""
    for k, array in enumerate(arrays):
        if source is array:
            return k, None
    for k, array in enumerate(arrays):  # those at one address are at one in arrays of this kind
        if {type(source), type(array)} == {np.ndarray}:
            both = source.flags.c_contiguous and array.flags.c_contiguous
            same = both and source.dtype == array.dtype and source.size == array.size
            if same and source.size and source.ctypes.data == array.ctypes.data:
                return k, operator.methodcaller("reshape", source.shape)
        elif getattr(array, "requires_grad", False) and not source.requires_grad:
            both = source.is_contiguous() and array.is_contiguous()
            same = both and source.dtype == array.dtype and source.shape == array.shape
            if same and source.numel() and source.data_ptr() == array.data_ptr():
                return k, operator.methodcaller("detach")  # recorded where no gradients are wanted
    return None


def _end(part: Any, results: Sequence[Any]) -> tuple[int, Callable[[Any], Any] | None] | None:
    """Which of the results has the entries of a value, and what makes it the value: a view of it,
    if it is not the same.
    """
    for k, result in enumerate(results):
        if not getattr(part, "shape", ()) or type(part) is not type(result):
            continue
        if part is result:
            return k, None
        view = _view(part, result) if part.dtype == result.dtype else None
        if view is not None:
            return k, view
    return None


def _view(part: Any, result: Any) -> Callable[[Any], Any] | None:
    """What makes this part of other results that lie in memory as this one does."""
    shape = tuple(part.shape)
    if isinstance(part, np.ndarray):
        same = part.size == result.size and part.ctypes.data == result.ctypes.data
        if not (same and part.size and result.flags.c_contiguous):
            return None
        if part.flags.c_contiguous:
            return operator.methodcaller("reshape", shape)
        strides = part.strides
        return lambda whole: np.ndarray(shape, whole.dtype, whole, 0, strides)
    if not hasattr(part, "data_ptr") or part.numel() != result.numel():
        return None
    if part.data_ptr() != result.data_ptr() or not part.numel():
        return None
    if part.is_contiguous() and result.is_contiguous():
        return operator.methodcaller("reshape", shape)
    if part.requires_grad:
        return None
    return operator.methodcaller("as_strided", shape, part.stride())


class Recording:
    """See `record`. It keeps no arrays."""

    __slots__ = ("_ends", "_order", "_steps")

    def __init__(
        self,
        nodes: Sequence[Node],
        origins: dict[int, Any],
        order: Sequence[int] | None,
        ends: Any,
    ):
        numbers = {id(n): k for k, n in enumerate(nodes)}
        self._order, self._ends = order, ends
        self._steps: list[tuple[Any, Any]] = []  # arguments before what is made of them
        for n in nodes:
            if isinstance(n, Input):
                self._steps.append((n.outline, origins[id(n)]))
            elif isinstance(n, Scalar):
                self._steps.append((n, None))
            else:
                own = restriction.with_pattern(n, None) if type(n) is Reduce else n
                self._steps.append((expr.with_args(own, ()), [numbers[id(a)] for a in n.args]))

    def __call__(self, arrays: Sequence[Any], kept: BlockPairs | None = None) -> Any:
        """The result, of arrays of the kind that was recorded; over these pairs, where that was
        restricted to some.
        """
        made: list[Any] = []
        for what, args in self._steps:
            if args is None:
                made.append(what)
            elif type(args) is tuple:
                k, change = args
                made.append(expr.seen_as(what, change(arrays[k]) if change else arrays[k]))
            else:
                made.append(expr.with_args(what, tuple([made[k] for k in args])))
        root = made[-1] if kept is None else restriction.with_pattern(made[-1], kept)
        out = genuine.computed(root, self._order)
        results = out if isinstance(out, tuple) else (out,)
        if type(self._ends) is list:
            return tuple([change(results[k]) if change else results[k] for k, change in self._ends])
        k, change = self._ends
        return change(results[k]) if change else results[k]
