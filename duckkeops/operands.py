"""What may take part in an expression: arrays, NumPy scalars and Python numbers become nodes."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import numpy as np

from duckkeops import expr
from duckkeops.errors import DtypeError, UnsupportedError, VirtualArrayError
from duckkeops.expr import Input, Node, Outline, Scalar

NUMBERS = (bool, int, float, complex)  # exactly these types are weak in promotion
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


def node_of(x: Any) -> Node:
    """`x` as a node: a node stays, a Python number is a weak scalar, an array or NumPy scalar a
    bare input.

    Raises TypeError for anything else, and for arrays of objects, strings and dates.
    """
    if isinstance(x, Node):
        return x
    if type(x) in NUMBERS:
        return Scalar(x)
    if not is_array(x):
        raise TypeError(
            f"a {type(x).__name__} cannot take part in a lazy expression.\n"
            "  Pass an array, as numpy.asarray makes it."
        )
    return input_of(x, bare=True)


def input_of(array: Any, roles: str | None = None, bare: bool = False) -> Input:
    """The input node of an array; the roles are the default ones unless given."""
    if type(array) is np.ndarray and array.dtype in _KNOWN_DTYPES:
        dtype = array.dtype
        array = array.view()  # x.shape = ... of the user's array must not reach us
    else:
        array, dtype = _checked(array)
    return Input(array, dtype, _default_roles(array.ndim) if roles is None else roles, bare)


_default_roles = functools.lru_cache(expr.default_roles)


def is_array(x: Any) -> bool:
    """Is `x` an array of an array-API library, or a NumPy scalar?"""
    if type(x) is np.ndarray:
        return True  # before np.ma is asked, which takes 12 ms to load
    if isinstance(x, np.ndarray):
        return not isinstance(x, np.matrix | np.ma.MaskedArray)
    return (
        isinstance(x, np.generic)
        or hasattr(x, "__array_namespace__")
        or _is_torch(x)
        or _is_cupy(x)
    )


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _is_cupy(x: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def is_cupy_type(kind: type) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and issubclass(kind, cupy.ndarray)


def is_number(x: Any) -> bool:
    return type(x) in NUMBERS or isinstance(x, np.generic) or (is_array(x) and x.ndim == 0)


def _checked(array: Any) -> tuple[Any, np.dtype]:
    """The array, and its dtype under NumPy's name."""
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if not isinstance(array, np.ndarray):
        return array, _dtype_of(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype not in _KNOWN_DTYPES:
        _dtype_named(array.dtype.name)
    return array.view(), array.dtype


@functools.lru_cache(maxsize=256)
def _dtype_of(dtype: Any) -> np.dtype:
    """NumPy's dtype for another library's."""
    return _dtype_named(str(dtype).rpartition(".")[2])


_KNOWN_DTYPES = frozenset(np.dtype(name) for name in DTYPES if name != "bfloat16")


def _dtype_named(name: str) -> np.dtype:
    if name not in DTYPES:
        raise DtypeError(
            f"LazyArray does not take arrays of dtype {name}.\n"
            "  It computes with bool, integers, float16, bfloat16, float32, float64, "
            "complex64 and complex128; convert with x.astype(...)."
        )
    return expr.dtype_of(name)


# -- libraries -------------------------------------------------------------------------------------


def library(array: Any) -> str:
    """The name of the library that an array comes from.

    >>> library(np.zeros(3))
    'numpy'
    """
    if isinstance(array, np.ndarray | np.generic):
        return "numpy"
    return "torch" if _is_torch(array) else type(array).__module__.partition(".")[0]


def leading_input(node: Node) -> Input:
    """An input that tells the library of the whole expression.

    It is the first with axes, where there is one.
    """
    one = node
    while one._args:
        one = one._args[0]
    if type(one) is Input and one.outline.shape:  # as mostly
        return one
    found: Input | None = None
    stack = [node]
    while stack:
        one = stack.pop()
        if type(one) is Input:
            if one.shape:
                return one
            found = found or one
        else:
            stack.extend(reversed(one.args))
    assert found is not None, "an expression without inputs"
    return found


def namespace_of(x: Any) -> Any:
    """The array-API namespace of an array, or of a node's inputs."""
    array = leading_input(x).source if isinstance(x, Node) else x
    if isinstance(array, np.ndarray | np.generic):
        return np
    if _is_torch(array):  # at once: to ask array_namespace takes 3 us
        return importlib.import_module("array_api_compat.torch")
    from array_api_compat import array_namespace

    return array_namespace(array)


def device_of(node: Node) -> Any:
    array = leading_input(node).source
    return "cpu" if isinstance(array, np.ndarray) else array.device


def constant(like: Node, array: np.ndarray) -> Any:
    """A small NumPy array as one of the library and device of `like`."""
    one = leading_input(like).source
    if isinstance(one, np.ndarray):
        return array
    return namespace_of(one).asarray(array, device=one.device)


def on_host(x: Any) -> np.ndarray:
    """The entries of an array of any library and device as NumPy's, copied if they lie elsewhere.

    For what is small, or must be known before anything is computed: indices, edges, counts.
    """
    if _is_torch(x):
        return x.detach().cpu().numpy()
    return x.get() if _is_cupy(x) else np.asarray(x)


def same_library(node: Node, other: Any) -> None:
    """Raise TypeError if the array `other` is not of the library of the expression `node`, or lies
    on another device.
    """
    one = leading_input(node)
    if type(other) is np.ndarray is type(one.source) or other.ndim == 0 or one.ndim == 0:
        return
    refuse_mixture(one.source, other)


def refuse_mixture(one: Any, other: Any) -> None:
    """Raise TypeError if two arrays are of two libraries, or on two devices."""
    ours, theirs = library(one), library(other)
    if ours != theirs:
        how = f"{ours}.asarray(...)"
        if "cupy" in (ours, theirs):  # whose arrays NumPy does not take
            how = "cupy.asarray(...), or cupy.asnumpy(...)"
            if "torch" in (ours, theirs):
                how = "torch.as_tensor(..., device='cuda'), or cupy.from_dlpack(...)"
        raise TypeError(
            f"a lazy array over {ours} and an array of {theirs} cannot be combined: "
            "one expression reads one library's arrays.\n"
            f"  Convert one of them first: {how}."
        )
    if ours != "numpy" and one.device != other.device:
        how = f"x.to({str(one.device)!r})"
        if ours == "cupy":
            how = f"with cupy.cuda.Device({one.device.id}): x = cupy.array(x)"
        raise TypeError(
            f"arrays on {one.device} and on {other.device} cannot be combined: one expression is "
            f"computed on one device.\n  Copy one of them first: {how}"
        )


# -- what messages say -----------------------------------------------------------------------------


def nbytes(node: Node) -> int:
    """Bytes of all entries of a node, were they stored."""
    return int(np.prod(node.shape, dtype=object)) * np.dtype(node.dtype).itemsize


def units(size: int) -> str:
    """A number of bytes with its unit.

    >>> units(8_000_000), units(2 * 10**12)
    ('7.6 MiB', '1.8 TiB')
    """
    if size < 1024:
        return f"{size} bytes"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 1024 or unit == "PiB":
            break
    return f"{value:.1f} {unit}"


def describe(node: Node | Outline) -> str:
    """Shape and dtype, as in messages."""
    return f"{node.shape} {getattr(node.dtype, 'name', node.dtype)}"


def unsupported(what: str, node: Node, remedy: str = "") -> UnsupportedError:
    """The error for a function that has no pairwise form."""
    remedy = remedy or "Reduce first, as in d.sum(axis=1)."
    return UnsupportedError(
        f"{what} has no pairwise form, so it cannot take d: {describe(node)}.\n  {remedy}\n"
        f"  All entries of d, as d.to_dense() computes them, are {units(nbytes(node))}."
    )


def refuse_dense(what: str, node: Node) -> VirtualArrayError:
    """The error for something that asks a virtual array for all of its entries."""
    remedy = ""
    if what == "numpy.asarray(d)":  # what functions that are compiled for arrays begin with
        remedy = _for_asker() + _for_scikit_learn()
    elif what == "bool(d)":  # numpy.testing too, and `d in a_list`
        remedy = (
            "\n  Whether any or all entries are true: d.any(), d.all(). Two arrays are compared by "
            "(d == e).all(),\n  and found in a list by `is`: any(d is e for e in a_list)."
        )
    elif what.startswith("iterating over"):
        remedy = "\n  Go over rows by their index: for i in range(len(d)): d[i], which stays lazy."
    return VirtualArrayError(
        f"{what} needs all entries of d: {describe(node)}, "
        f"which are never stored ({units(nbytes(node))}).\n"
        "  Reduce first, as in d.sum(axis=1), or compute all pairs with d.to_dense()." + remedy
    )


ASKERS = (  # the starts of functions' dotted names, and what stands for them
    (
        ("scipy.linalg.", "scipy._lib._util._apply_over_batch."),  # the latter wraps the former
        "scipy.linalg computes with stored matrices: solve with duckkeops.linalg.solve(d, b), find "
        "eigenvalues and\n  singular values with scipy.sparse.linalg.eigsh(d) and svds(d), which "
        "only need d @ b.",
    ),
    (
        ("scipy.special.",),
        "duckkeops.logsumexp(d, axis=1) and duckkeops.softmax(d, axis=1) "
        "stand for those of scipy.special.",
    ),
    (
        ("numpy.lib._function_base_impl.vectorize.",),
        "numpy.vectorize calls a function for one entry at a time: call it with all of d, written "
        "with NumPy's\n  functions, and numpy.where(condition, a, b) for an if.",
    ),
    (
        ("numpy.testing.",),
        "numpy.testing compares stored arrays: assert numpy.allclose(d, e) or "
        "numpy.array_equal(d, e), which store nothing.",
    ),
)
LIBRARIES = ("duckkeops", "numpy", "scipy", "sklearn", "array_api_compat", "functools")


def _for_asker() -> str:
    """What stands for the library function that asks, found in the frames that wait for it."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in LIBRARIES:
            return ""  # the user's own call
        name = f"{module}.{frame.f_code.co_qualname}"
        for starts, remedy in ASKERS:
            if name.startswith(starts):
                return f"\n  {remedy}"
        frame = frame.f_back
    return ""


def _for_scikit_learn() -> str:
    """What keeps scikit-learn from asking for arrays, if it is there and asks for them."""
    sklearn = sys.modules.get("sklearn")
    if sklearn is None or sklearn.get_config().get("array_api_dispatch", True):
        return ""
    return (
        "\n  Was it scikit-learn that asked? Much of it keeps d lazy after "
        "sklearn.set_config(array_api_dispatch=True)."
    )
