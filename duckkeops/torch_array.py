"""The family of LazyArray over torch's tensors: torch's protocol, methods and results."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from duckkeops import (
    array,
    expr,
    ops,
    shapes,
    torch_elementwise,
    torch_functions,
    torch_shapes,
    torch_table,
)
from duckkeops.array import LazyArray, _opened, _wrap
from duckkeops.errors import UnsupportedError
from duckkeops.expr import Node
from duckkeops.genuine import all_entries
from duckkeops.operands import unsupported
from duckkeops.tensors import torch_dtype
from duckkeops.torch_elementwise import with_tensors
from duckkeops.torch_rules import apply


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
        return any(i.source.requires_grad for i in expr.inputs(self._node))

    @property
    def T(self) -> Any:
        """The axes in reverse order."""
        return _wrap(type(self), shapes.transpose(self._node))

    @property
    def mT(self) -> Any:
        """The last two axes swapped."""
        return _wrap(type(self), shapes.matrix_transpose(self._node))

    @property
    def H(self) -> Any:
        """The conjugate transpose of a matrix."""
        return _wrap(type(self), torch_shapes.adjoint(self._node))

    mH = H

    @property
    def real(self) -> Any:
        """The real parts."""
        return _wrap(type(self), torch_elementwise.real(self._node))

    @property
    def imag(self) -> Any:
        """The imaginary parts, of complex numbers."""
        return _wrap(type(self), torch_elementwise.imag(self._node))

    @property
    def data(self) -> Any:
        """The same of detached inputs."""
        return _wrap(type(self), torch_elementwise.detach(self._node))

    @property
    def layout(self) -> torch.layout:
        """That of tensors whose entries are all there."""
        return torch.strided

    @property
    def is_leaf(self) -> bool:
        """Is it an input itself?"""
        return isinstance(self._node, expr.Input)

    def item(self) -> Any:
        """The one entry, as a Python number."""
        return all_entries("d.item()", self._node).item()

    def tolist(self) -> Any:
        """The entries as nested lists of Python numbers."""
        return all_entries("d.tolist()", self._node).tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """All entries as a NumPy array, of an array that is not virtual."""
        return all_entries("d.numpy()", self._node).numpy(force=force)

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
        return _recorded(TorchLazyArray, result)
    if isinstance(result, tuple | list):
        return type(result)([wrapped(r) for r in result])
    return result


def _recorded(cls: type, node: Node) -> Any:
    """The lazy array of a node; what is recorded under torch.no_grad() is a constant ever after."""
    if not torch.is_grad_enabled() and any(
        getattr(i.source, "requires_grad", False) for i in expr.inputs(node)
    ):
        node = with_tensors(node, lambda t: t.detach() if t.requires_grad else t)
    return _wrap(cls, node)


def _method(handler: Callable) -> Callable:
    def method(self: LazyArray, *args: Any, **kwargs: Any) -> Any:
        return wrapped(
            handler(self._node, *_opened(args), **_opened(torch_functions.spelled(kwargs)))
        )

    return method


def _refusing(name: str, remedy: str) -> Callable:
    def method(self: LazyArray, *args: Any, **kwargs: Any) -> Any:
        raise unsupported(f"torch.Tensor.{name}", self._node, remedy)

    return method


def _add_methods(cls: Any) -> None:
    for name in dir(torch.Tensor):
        function = getattr(torch.Tensor, name)
        if name.startswith("_") or (hasattr(cls, name) and name not in torch_table.METHODS):
            continue
        if name in torch_table.METHODS:
            array._add(cls, name, _method(torch_table.METHODS[name]), f"As torch.Tensor.{name}.")
        elif callable(function):
            remedy = torch_table.refusal_of_method(name)
            if remedy is not None:
                array._add(cls, name, _refusing(name, remedy), f"Refused: {remedy}")
    for name in dir(torch.Tensor):
        if name.startswith("is_") and torch_table.PROPERTIES.get(name) and not hasattr(cls, name):
            setattr(cls, name, property(_is(name)))
    for name, value in (("grad", None), ("grad_fn", None), ("name", None), ("retains_grad", False)):
        setattr(cls, name, property(lambda self, value=value: value))
    cls.output_nr = property(lambda self: 0)
    cls.names = property(lambda self: (None,) * self.ndim)
    cls.__matmul__ = _product(torch_table.REDUCES["matmul"])
    cls.__rmatmul__ = _product(torch_table.REDUCES["Tensor.__rmatmul__"])
    for short, name in array.BINARY.items():
        row = ops.ROWS[name]
        array._add(cls, f"__{short}__", _operator(row, False))
        array._add(cls, f"__r{short}__", _operator(row, True))
    for short, name in array.COMPARE.items():
        array._add(cls, f"__{short}__", _operator(ops.ROWS[name], False))
    array._add(cls, "__pow__", _operator(ops.ROWS["pow"], False))
    array._add(cls, "__rpow__", _operator(ops.ROWS["pow"], True))
    cls.__hash__ = object.__hash__


def _is(name: str) -> Callable:
    """A property such as is_cuda: that of the inputs."""
    return lambda self: getattr(expr.inputs(self._node)[0].array, name)


def _product(function: Callable) -> Callable:
    def operator(self: LazyArray, other: Any) -> Any:
        node = array._operand(self, other)
        return node if node is NotImplemented else wrapped(function(self._node, node))

    return operator


def _operator(op: ops.Op, reflected: bool) -> Callable:
    def operator(self: LazyArray, other: Any) -> Any:
        node = array._operand(self, other)
        if node is NotImplemented:
            return node
        pair = (node, self._node) if reflected else (self._node, node)
        return _recorded(type(self), apply(op, *pair))

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
