"""The family of LazyArray over torch's tensors: torch's protocol, methods and results."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from duckkeops import array, expr, ops, shapes, torch_functions
from duckkeops.array import LazyArray, _opened, _wrap
from duckkeops.errors import UnsupportedError
from duckkeops.expr import Node
from duckkeops.genuine import all_entries
from duckkeops.tensors import numpy_dtype, torch_dtype
from duckkeops.torch_rules import apply, axis_of


class TorchLazyArray(LazyArray):
    """A lazy array with torch's methods, over tensors."""

    __slots__ = ()

    @property
    def dtype(self) -> torch.dtype:
        """What each entry is."""
        return torch_dtype(self._node.dtype)

    @property
    def shape(self) -> torch.Size:
        """The length of each axis."""
        return torch.Size(self._node.shape)

    @property
    def requires_grad(self) -> bool:
        """Does any input require a gradient?"""
        return any(i.array.requires_grad for i in expr.inputs(self._node))

    @property
    def T(self) -> Any:
        """The axes in reverse order."""
        return _wrap(type(self), shapes.transpose(self._node))

    @property
    def mT(self) -> Any:
        """The last two axes swapped."""
        return _wrap(type(self), shapes.matrix_transpose(self._node))

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one axis."""
        return self.shape if dim is None else self._node.shape[axis_of(self._node, dim)]

    def dim(self) -> int:
        """The number of axes."""
        return self._node.ndim

    def numel(self) -> int:
        """The number of entries."""
        return math.prod(self._node.shape)

    def t(self) -> Any:
        """The transpose of a matrix."""
        return _wrap(type(self), shapes.matrix_transpose(self._node))

    def transpose(self, dim0: int, dim1: int) -> Any:
        """Two axes swapped."""
        return _wrap(type(self), shapes.swapaxes(self._node, dim0, dim1))

    def permute(self, *dims: Any) -> Any:
        """The axes in another order."""
        order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
        return _wrap(type(self), shapes.transpose(self._node, order))

    def unsqueeze(self, dim: int) -> Any:
        """A new axis of length 1."""
        return _wrap(type(self), shapes.expand_dims(self._node, dim))

    def item(self) -> Any:
        """The one entry, as a Python number."""
        return all_entries("d.item()", self._node).item()

    def to(self, dtype: Any) -> Any:
        """In another dtype."""
        return _wrap(type(self), ops.cast(self._node, numpy_dtype(dtype)))

    def float(self) -> Any:
        """In float32."""
        return self.to(torch.float32)

    def double(self) -> Any:
        """In float64."""
        return self.to(torch.float64)

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return _recorded_function(func, args, kwargs or {})
        if not all(issubclass(t, torch.Tensor | LazyArray) for t in types):
            return NotImplemented
        return wrapped(torch_functions.function(func, _opened(args), _opened(kwargs or {})))


SIDES: list[str] = []  # not empty once Dynamo says on which side of @ a tensor stands


def _recorded_function(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    if not SIDES and func is torch.Tensor.matmul:
        raise UnsupportedError(
            "torch.compile does not say on which side of @ a tensor stands, if a lazy array that "
            "was made outside is first used there.\n"
            "  Write torch.matmul(d, b), or import duckkeops.torch_compile before."
        )
    from duckkeops.torch_compile import function

    return function(func, args, kwargs)


def wrapped(result: Any) -> Any:
    """A handler's result with every node a lazy array; torch's named tuples stay such."""
    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, Node):
        return _wrap(TorchLazyArray, result)
    if isinstance(result, tuple | list):
        return type(result)([wrapped(r) for r in result])
    return result


def _method(handler: Callable) -> Callable:
    def method(self: LazyArray, *args: Any, **kwargs: Any) -> Any:
        for theirs, ours in (("axis", "dim"), ("keepdims", "keepdim")):
            if theirs in kwargs:
                kwargs[ours] = kwargs.pop(theirs)
        return wrapped(handler(self._node, *_opened(args), **_opened(kwargs)))

    return method


def _add_methods(cls: Any) -> None:
    own = vars(cls)
    for function, handler in torch_functions.HANDLERS.items():
        name = getattr(function, "__name__", "")
        if hasattr(torch.Tensor, name) and name not in own:
            array._add(cls, name, _method(handler), f"As torch.Tensor.{name}.")
    for short, name in array.BINARY.items():
        row = ops.ROWS[name]
        array._add(cls, f"__{short}__", _operator(row, False))
        array._add(cls, f"__r{short}__", _operator(row, True))
    for short, name in array.COMPARE.items():
        array._add(cls, f"__{short}__", _operator(ops.ROWS[name], False))
    array._add(cls, "__pow__", _operator(ops.ROWS["pow"], False))
    array._add(cls, "__rpow__", _operator(ops.ROWS["pow"], True))
    cls.__hash__ = object.__hash__


def _operator(op: ops.Op, reflected: bool) -> Callable:
    def operator(self: LazyArray, other: Any) -> Any:
        node = array._operand(self, other)
        if node is NotImplemented:
            return node
        pair = (node, self._node) if reflected else (self._node, node)
        return _wrap(type(self), apply(op, *pair))

    return operator


def _compiled(kind: str, name: str, function: Callable) -> Callable:
    """The method, which is recorded in another way in code that torch.compile traces."""
    is_traced = torch.compiler.is_dynamo_compiling

    @functools.wraps(function)
    def method(self: LazyArray, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            from duckkeops.torch_compile import recorded

            return recorded(kind, name, (self, *args), kwargs)
        return function(self, *args, **kwargs)

    return method


def _compile_methods(cls: Any) -> None:
    for name in dir(cls):
        if name.startswith("_") and name not in array.OPERATORS:
            continue
        value = inspect.getattr_static(cls, name)
        if isinstance(value, property) and value.fget is not None:
            if name in VIEWS:
                setattr(
                    cls, name, property(_compiled("property", name, value.fget), doc=value.__doc__)
                )
        elif callable(value):
            setattr(cls, name, _compiled("method", name, value))


VIEWS = ("T", "mT", "H", "mH", "real", "imag")
_add_methods(TorchLazyArray)
_compile_methods(TorchLazyArray)
array.FAMILIES["torch"] = TorchLazyArray
