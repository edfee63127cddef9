"""torch's tensors as NumPy's arrays over the same memory, and back. torch is there already, or
nothing here is called.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from duckkeops import expr, rewrite
from duckkeops.errors import DtypeError, UnsupportedError
from duckkeops.expr import Input, Node, Order, Table
from duckkeops.operands import constant, leading_input, namespace_of, refuse_mixture


def is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_traced(x: Any) -> bool:
    """Is it a tensor of torch.compile's or torch.export's, in code that they trace?"""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return False
    if torch.compiler.is_dynamo_compiling():
        return True
    return torch.compiler.is_compiling() and type(x) not in (torch.Tensor, torch.nn.Parameter)


def is_own_tensor(x: Any) -> bool:
    """Is it a tensor of torch's own class, outside of code that is traced?"""
    torch = sys.modules.get("torch")
    if torch is None or type(x) is not torch.Tensor:
        return False
    return not torch.compiler.is_dynamo_compiling()


def copied(x: Any) -> Any:
    """A copy of an array; of a tensor, one that it can be differentiated through."""
    return x.clone() if is_tensor(x) else namespace_of(x).asarray(x, copy=True)


def as_array(tensor: Any) -> np.ndarray:
    """The entries of a tensor on the CPU, as a NumPy array that shares its memory.

    Raises UnsupportedError for tensors whose entries are not here: of another device, sparse,
    or without storage.
    """
    torch = sys.modules["torch"]
    tensor = tensor.detach()
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise UnsupportedError(
            f"compiled C reads strided tensors on the CPU, and got one of layout {tensor.layout} "
            f"on {tensor.device}.\n  Move it first: x.cpu(), x.to_dense()."
        )
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(expr.dtype_of("bfloat16"))
    return tensor.numpy()


def computing(node: Node) -> Any:
    """The namespace that states are finished in: NumPy's, too, for tensors on the CPU."""
    array = leading_input(node).source
    if type(array) is np.ndarray or (is_tensor(array) and array.is_cpu):
        return np
    return namespace_of(array)


Located = tuple[int, Sequence[int]]  # the address of the first entry, and the strides in bytes


def located(tensor: Any, keep: list[Any], order: Order = None) -> Located:
    """Where the entries of a tensor lie, its axes in this order; a copy that is needed for that
    goes to `keep`.

    Raises what `as_array` raises.
    """
    if not (tensor.is_cpu or tensor.is_cuda) or (tensor.layout is not sys.modules["torch"].strided):
        as_array(tensor)
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.detach().resolve_conj().resolve_neg()
        keep.append(tensor)
    size, steps = tensor.element_size(), tensor.stride()
    try:
        address = tensor.data_ptr()
    except RuntimeError as e:
        raise UnsupportedError(
            f"a {type(tensor).__name__} without storage, as torch.autograd makes them for "
            "is_grads_batched=True and vectorize=True, has no entries to read.\n"
            "  Use torch.func: vmap, jacrev, jacfwd, hessian."
        ) from e
    if not address and tensor.numel():
        raise UnsupportedError(
            f"a {type(tensor).__name__} of shape {tuple(tensor.shape)} has no entries to read.\n"
            '  For shapes and dtypes alone, take tensors of device="meta".'
        )
    if order is None:
        return address, [s * size for s in steps]
    return address, [0 if a is None else steps[a] * size for a in order]


def check_unchanged(tensor: Any, own: Any) -> None:
    """Raise ValueError if a tensor has another shape or dtype than the outline of its input, which
    are those when it was wrapped: kernels would read beyond it.
    """
    if tensor.shape != own.source_shape or tensor.dtype is not torch_dtype(own.dtype):
        raise ValueError(
            f"a tensor of shape {own.source_shape} and dtype {own.dtype} was wrapped, and has "
            f"become {tuple(tensor.shape)} {str(tensor.dtype).rpartition('.')[2]} since, as x.data "
            "= ... and x.resize_() change it.\n  Wrap it again: LazyArray(x)."
        )


def as_tensor(array: Any) -> Any:
    """A NumPy array or scalar as a tensor that shares its memory where that may be written to."""
    torch = sys.modules["torch"]
    if isinstance(array, torch.Tensor):
        return array
    array = array if type(array) is np.ndarray else np.asarray(array)
    flags = array.flags
    if flags.carray and array.dtype.isbuiltin == 1:  # mostly
        return torch.from_numpy(array)
    if not flags.writeable or any(s < 0 for s in array.strides):
        array = array.copy()
    if array.dtype.isbuiltin == 2:  # bfloat16, the one that does not come with NumPy
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def on_one_device(node: Node) -> Node:
    """The same expression with single numbers on the CPU copied to the device of the arrays.

    Raises TypeError for arrays of several libraries or devices.
    """
    inputs = expr.inputs(node)
    if all(type(i.source) is np.ndarray or getattr(i.source, "is_cpu", False) for i in inputs):
        return node
    first = leading_input(node).source
    if all(getattr(i.source, "device", None) == first.device for i in inputs):
        return node
    for one in inputs:
        if one.source.ndim and one.source is not first:
            refuse_mixture(first, one.source)

    def moved(array: Any) -> Any:
        if array.ndim or getattr(array, "device", None) == first.device:
            return array
        if is_tensor(array):
            return array.to(first.device)  # which is differentiated
        return constant(node, np.asarray(array))

    return rewrite.with_arrays(node, moved)


def is_torch(node: Node) -> bool:
    """Is the expression made of tensors?"""
    return is_tensor(leading_input(node).source)


def hosted(node: Node) -> Node:
    """The same expression of NumPy arrays over the tensors' memory."""
    return rewrite.with_inputs(node, _hosted)


def _hosted(one: Input) -> Input:
    if not is_tensor(one.array):
        return one
    array = as_array(one.array)
    if isinstance(one, Table):
        return Table(array, one.dtype)
    return Input(array, one.dtype, one.roles, one.bare)


# -- dtypes ----------------------------------------------------------------------------------------


@functools.cache
@functools.lru_cache(maxsize=256)
def torch_dtype(dtype: Any) -> Any:
    """torch's own object for one of NumPy's dtypes."""
    return getattr(sys.modules["torch"], np.dtype(dtype).name)


def numpy_dtype(dtype: Any) -> np.dtype:
    """NumPy's dtype for one of torch's. Raises DtypeError for those that are not computed with."""
    name = str(dtype).rpartition(".")[2]
    try:
        return expr.dtype_of(name)
    except TypeError:
        raise DtypeError(
            f"duckkeops does not compute with {dtype}.\n  Convert with d.to(torch.float32)."
        ) from None
