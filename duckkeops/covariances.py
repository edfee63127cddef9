"""np.cov and np.corrcoef: products of centred rows, lazy like any product of two virtual arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from duckkeops import ops, statistics, views
from duckkeops.contractions import conj, contract
from duckkeops.expr import Node
from duckkeops.genuine import all_entries, call, plain
from duckkeops.indexing import diagonal
from duckkeops.operands import is_array, node_of, on_host
from duckkeops.shapes import concatenate


def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: Any = None,
) -> Any:
    """The covariances of the rows (or columns), which stay lazy: of (M, N) an (M, M)."""
    if ddof is not None and ddof != int(ddof):
        raise ValueError("ddof must be integer")
    if ddof is None:
        ddof = 0 if bias else 1
    x = _variables(m, rowvar)
    if y is not None:
        x = concatenate([x, _variables(y, rowvar)], 0)
    if dtype is None:
        dtype = ops.common((x.dtype, np.dtype(np.float64)))
    x = ops.cast(x, np.dtype(dtype))
    w = _observation_weights(x, fweights, aweights)
    n = x.shape[1]
    if w is None:
        mean, total, squares = statistics.mean(x, 1, keepdims=True), n, n
    else:
        mean, total = statistics.average(x, 1, w, keepdims=True), w.sum()
        squares = (w * (1 if aweights is None else on_host(aweights))).sum()
    fact = total - (ddof if aweights is None else ddof * squares / total)
    if fact <= 0:
        warnings.warn("Degrees of freedom <= 0 for slice", RuntimeWarning, stacklevel=4)
        fact = 0.0
    centred = ops.call("subtract", x, node_of(mean))
    weighted = centred if w is None else ops.call("multiply", centred, node_of(w))
    with np.errstate(divide="ignore"):
        scale = np.true_divide(1, fact)
    product = contract("cov", (centred, conj(weighted)), (("i", "k"), ("j", "k")), ("i", "j"))
    return _squeezed(call("multiply", product, x.dtype.type(scale)))


def _variables(m: Any, rowvar: bool) -> Node:
    x = node_of(m if isinstance(m, Node) or is_array(m) else np.asarray(m))
    if x.ndim > 2:
        raise ValueError("m has more than 2 dimensions")
    if x.ndim < 2:
        return views.expand(x, range(2 - x.ndim))
    return x if rowvar else views.permute(x, (1, 0))


def _observation_weights(x: Node, fweights: Any, aweights: Any) -> np.ndarray | None:
    w: Any = None
    for name, given in (("fweights", fweights), ("aweights", aweights)):
        if given is None:
            continue
        one = np.asarray(
            all_entries(f"numpy.cov({name}=)", given) if isinstance(given, Node) else given,
            dtype=np.float64,
        )
        if one.shape != x.shape[1:]:
            raise RuntimeError(f"incompatible numbers of samples and {name}")
        if (one < 0).any():
            raise ValueError(f"{name} cannot be negative")
        if name == "fweights" and (one != np.around(one)).any():
            raise TypeError("fweights must be integer")
        w = one if w is None else w * one
    return w


def _squeezed(value: Any) -> Any:
    ones = [k for k, n in enumerate(value.shape) if n == 1]
    if not ones:
        return value
    return views.squeeze(value, ones) if isinstance(value, Node) else plain(value.squeeze())


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Any:
    """The correlation coefficients of the rows (or columns), which stay lazy."""
    c = node_of(cov(x, y, rowvar, dtype=dtype))
    if c.ndim == 0:
        return call("divide", c, c)
    size = node_of(call("sqrt", _real_of(diagonal(c))))
    out = ops.call("divide", ops.call("divide", c, views.expand(size, (1,))), size)
    if c.dtype.kind != "c":
        return ops.clip(out, -1, 1)
    return ops.call("complex", *(ops.clip(ops.call(p, out), -1, 1) for p in ("real", "imag")))


def _real_of(x: Any) -> Any:
    return call("real", x) if x.dtype.kind == "c" else x
