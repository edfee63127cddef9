"""torch's products, norms, distances, attention and losses on nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn._reduction import legacy_get_string

from duckkeops import (
    contractions,
    expr,
    genuine,
    indexing,
    ops,
    shapes,
    statistics,
    torch_statistics,
    views,
)
from duckkeops.errors import DtypeError, ShapeError
from duckkeops.expr import Node
from duckkeops.operands import describe, input_of, unsupported
from duckkeops.tensors import numpy_dtype
from duckkeops.torch_rules import Dim, as_node, axes_of, axis_of, call, promoted
from duckkeops.torch_statistics import finished


def pair(what: str, input: Any, other: Any) -> tuple[Node, Node]:
    """Two operands of one dtype, as torch's products take them."""
    a, b = as_node(input), as_node(other)
    if a.dtype != b.dtype:
        raise DtypeError(
            f"{what}: expected both operands of one dtype, and got {describe(a)} and "
            f"{describe(b)}.\n  Convert one of them, as in b.to(d.dtype)."
        )
    return a, b


def matmul(input: Any, other: Any, *, out: Any = None) -> Any:
    return finished(contractions.matmul(*pair("matmul", input, other)), out)


def rmatmul(other: Any, input: Any) -> Any:
    return matmul(input, other)


def product(name: str, first: int, second: int) -> Callable:
    """mm, mv, bmm and dot: matmul of operands with so many axes."""

    def handler(input: Any, other: Any = None, *, out: Any = None, **named: Any) -> Any:
        other = next(iter(named.values())) if other is None else other
        a, b = pair(name, input, other)
        if (a.ndim, b.ndim) != (first, second):
            raise ShapeError(
                f"{name} takes operands of {first} and {second} axes, and got {describe(a)} "
                f"and {describe(b)}.\n  torch.matmul takes any number."
            )
        return finished(contractions.matmul(a, b), out)

    return handler


def einsum(*args: Any) -> Any:
    if len(args) == 2 and isinstance(args[1], list | tuple):  # einsum("ij,j->i", [K, b])
        args = (args[0], *args[1])
    return contractions.einsum(*args)


def tensordot(a: Any, b: Any, dims: Any = 2, out: Any = None) -> Any:
    dims = dims.tolist() if isinstance(dims, torch.Tensor) else dims
    return finished(contractions.tensordot(*pair("tensordot", a, b), dims), out)


def inner(input: Any, other: Any, *, out: Any = None) -> Any:
    return finished(contractions.inner(*pair("inner", input, other)), out)


def outer(input: Any, vec2: Any, *, out: Any = None) -> Node:
    shapes.refuse_out("outer", out)
    a, b = as_node(input), as_node(vec2)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"outer takes two vectors, and got {describe(a)} and {describe(b)}.")
    return call("multiply", views.expand(a, (1,)), b)


def vdot(input: Any, other: Any, *, out: Any = None) -> Any:
    return finished(contractions.vdot(*pair("vdot", input, other)), out)


def vecdot(x: Any, y: Any, *, dim: int = -1, out: Any = None) -> Any:
    return finished(contractions.vecdot(*pair("vecdot", x, y), axis=dim), out)


def cross(input: Any, other: Any, dim: int | None = None, *, out: Any = None) -> Node:
    shapes.refuse_out("cross", out)
    a, b = promoted([as_node(input), as_node(other)])
    if dim is None:
        if 3 not in a.shape:
            raise RuntimeError(f"no dimension of size 3 in input: d is {describe(a)}")
        dim = a.shape.index(3)
    return contractions.cross(a, b, axis=dim)


def linalg_cross(input: Any, other: Any, *, dim: int = -1, out: Any = None) -> Node:
    return cross(input, other, dim, out=out)


def multi_dot(tensors: Any, *, out: Any = None) -> Any:
    return finished(contractions.multi_dot([as_node(x) for x in tensors]), out)


def chain_matmul(*matrices: Any, out: Any = None) -> Any:
    return multi_dot(matrices, out=out)


def combined(name: str, first: int, second: int, summed: bool = False) -> Callable:
    """addmm and its kin: beta input + alpha (a product)."""
    multiply = product(name, first, second)

    def handler(
        input: Any, one: Any, other: Any, *, beta: Any = 1, alpha: Any = 1, out: Any = None
    ) -> Any:
        value = multiply(one, other)
        if summed:
            value = (
                statistics.total(value, (0,)) if isinstance(value, Node) else torch.sum(value, 0)
            )
        value = _scaled(value, alpha)
        if beta != 0:
            value = _plus(_scaled(input, beta), value)
        return finished(value, out)

    return handler


def _scaled(x: Any, by: Any) -> Any:
    if type(by) is int and by == 1:
        return x
    return call("multiply", x, by) if isinstance(x, Node) else x * by


def _plus(x: Any, y: Any) -> Any:
    if isinstance(x, Node) or isinstance(y, Node):
        total = call("add", x, y)
        return total if expr.is_virtual(total) else genuine.dense(total)
    return x + y


def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1, out: Any = None):
    shapes.refuse_out("addr", out)
    return call("add", _scaled(as_node(input), beta), _scaled(outer(vec1, vec2), alpha))


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b: the columns of the weight are features."""
    if isinstance(weight, Node):
        w = shapes.matrix_transpose(weight) if weight.ndim > 1 else weight
    else:
        w = input_of(weight.mT if weight.ndim > 1 else weight, expr.FEATURE * weight.ndim)
    value = contractions.matmul(*pair("linear", input, w))
    return value if bias is None else _plus(value, bias)


# -- norms and distances ---------------------------------------------------------------------------


def vector_norm(
    x: Any,
    ord: Any = 2,
    dim: Dim = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    a = _inexact("linalg.vector_norm", x, dtype)
    return finished(_norm(a, axes_of(a, dim), keepdim, ord), out)


def _inexact(what: str, x: Any, dtype: Any = None) -> Node:
    a = as_node(x)
    a = a if dtype is None else ops.cast(a, numpy_dtype(dtype))
    torch_statistics.inexact(what, a)
    return a


def _norm(a: Node, axes: tuple[int, ...], keepdim: bool, order: Any) -> Any:
    return contractions.vector_norm(a, axis=axes, keepdims=keepdim, ord=order)


def matrix_norm(
    A: Any,
    ord: Any = "fro",
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    a = _inexact("linalg.matrix_norm", A, dtype)
    axes = tuple(axis_of(a, k) for k in dim)
    if len(axes) != 2 or axes[0] == axes[1]:
        raise RuntimeError(f"linalg.matrix_norm: dim must be two dimensions, and got {dim}")
    if ord in (2, -2, "nuc") and expr.is_virtual(a):
        raise unsupported(f"torch.linalg.matrix_norm(ord={ord!r})", a, "Take ord='fro', 1 or inf.")
    return finished(contractions.norm(a, ord, axes, keepdim), out)


def linalg_norm(
    A: Any,
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    a = as_node(A)
    both = isinstance(dim, tuple | list) and len(dim) == 2
    if ord is not None and (both or (dim is None and a.ndim == 2)):
        return matrix_norm(a, ord, dim or (-2, -1), keepdim, dtype=dtype, out=out)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: ord={ord!r} is of matrices, and dim={dim} is one axis")
    return vector_norm(a, 2 if ord is None else ord, dim, keepdim, dtype=dtype, out=out)


def norm(
    input: Any,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: Any = None,
    dtype: Any = None,
) -> Any:
    if p == "nuc":
        return matrix_norm(input, p, dim or (-2, -1), keepdim, dtype=dtype, out=out)
    order = 2 if p in (None, "fro") else p
    return vector_norm(input, order, dim, keepdim, dtype=dtype, out=out)


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: Any = None) -> Node:
    """The distances of all pairs of rows: (..., M, D), (..., N, D) -> (..., M, N), lazy."""
    a, b = pair("cdist", x1, x2)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ShapeError(
            f"cdist takes rows of equal length, and got {describe(a)} and {describe(b)}."
        )
    difference = call("subtract", views.expand(a, (a.ndim - 1,)), views.expand(b, (b.ndim - 2,)))
    return _norm(difference, (difference.ndim - 1,), False, p)


def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    difference = call("add", call("subtract", x1, x2), eps)
    return _norm(difference, (difference.ndim - 1,), keepdim, p)


def dist(input: Any, other: Any, p: float = 2) -> Any:
    return vector_norm(call("subtract", input, other), p)


def normalize(
    input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Node:
    shapes.refuse_out("normalize", out)
    a = _inexact("normalize", input)
    length = as_node(_norm(a, axes_of(a, dim), True, p))
    return call("divide", a, call("clamp_min", length, eps))


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    a, b = promoted([as_node(x1), as_node(x2)])
    torch_statistics.inexact("cosine_similarity", a)
    inside = call("multiply", a, b)
    axis = axis_of(inside, dim) - inside.ndim
    value = statistics.total(inside, (axis + inside.ndim,))
    lengths = [
        as_node(_norm(x, (axis + x.ndim,), False, 2)) if -axis <= x.ndim else call("abs", x)
        for x in (a, b)
    ]
    bounded = [call("clamp_min", n, eps) for n in lengths]
    out = call("divide", as_node(value), call("multiply", *bounded))
    return out if expr.is_virtual(out) or isinstance(value, Node) else genuine.dense(out)


# -- attention -------------------------------------------------------------------------------------


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(Q K^T scale + mask) V, in one pass over the pairs of queries and keys."""
    q, k = pair("scaled_dot_product_attention", query, key)
    v = as_node(value)
    if dropout_p or enable_gqa:
        asked = f"dropout_p={dropout_p}" if dropout_p else "enable_gqa=True"
        remedy = "Set dropout_p=0." if dropout_p else "Repeat the heads of key and value first."
        raise unsupported(f"scaled_dot_product_attention({asked})", q, remedy)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    products = call("multiply", views.expand(q, (q.ndim - 1,)), views.expand(k, (k.ndim - 2,)))
    scores = call("multiply", as_node(statistics.total(products, (products.ndim - 1,))), scale)
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError("_scaled_dot_product_attention: is_causal=True takes no attn_mask")
        scores = call("where", shapes.below(scores, 0), scores, -math.inf)
    kept = None
    if attn_mask is not None:
        kept = _some_kept(attn_mask)
        mask = as_node(attn_mask)
        boolean = mask.dtype == bool
        scores = call("where", mask, scores, -math.inf) if boolean else call("add", scores, mask)
        if kept is not None:
            scores = call("where", kept, scores, 0.0)
    weights = views.expand(statistics.softmax(scores, scores.ndim - 1), (scores.ndim,))
    weighted = call("multiply", weights, views.expand(v, (v.ndim - 2,)))
    out = statistics.total(weighted, (weighted.ndim - 2,))
    if kept is None:
        return out
    return call("where", kept, out, 0.0) if isinstance(out, Node) else torch.where(kept, out, 0.0)


def _some_kept(mask: Any) -> torch.Tensor | None:
    """Which queries keep a key; None if all do. torch gives 0 to the others, and no NaN."""
    if isinstance(mask, Node):
        open_ = mask if mask.dtype == bool else call("greater", mask, -math.inf)
        kept = statistics.any(open_, (mask.ndim - 1,), keepdims=True)
        kept = genuine.dense(kept) if isinstance(kept, Node) else kept
    else:
        kept = (mask if mask.dtype is torch.bool else mask > -math.inf).any(-1, keepdim=True)
    return None if bool(kept.all()) else kept


# -- losses ----------------------------------------------------------------------------------------


def _reduced(loss: Any, reduction: str, size_average: Any = None, reduce: Any = None) -> Any:
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce, emit_warning=False)
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if isinstance(loss, Node):
        return torch_statistics.mean(loss) if reduction == "mean" else torch_statistics.sum(loss)
    return loss.mean() if reduction == "mean" else loss.sum()


def loss(entry: Callable) -> Callable:
    """A loss of two arrays, entry by entry, then its mean or sum."""

    def handler(
        input: Any,
        target: Any,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        weight: Any = None,
        **options: Any,
    ) -> Any:
        each = entry(*promoted([as_node(input), as_node(target)]), **options)
        each = each if weight is None else call("multiply", each, weight)
        return _reduced(each, reduction, size_average, reduce)

    return handler


def _gap(x: Node, y: Node) -> Node:
    return call("abs", call("subtract", x, y))


def squared(x: Node, y: Node) -> Node:
    return call("square", call("subtract", x, y))


def smooth_l1(x: Node, y: Node, beta: float = 1.0) -> Node:
    gap = _gap(x, y)
    if beta == 0:
        return gap
    near = call("multiply", call("square", gap), 0.5 / beta)
    return call("where", call("less", gap, beta), near, call("subtract", gap, 0.5 * beta))


def huber_loss(
    input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Any:
    x, y = promoted([as_node(input), as_node(target)])
    each = call("multiply", smooth_l1(x, y, delta), delta)
    return _reduced(each if weight is None else call("multiply", each, weight), reduction)


def kl_div(
    input: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    x, y = promoted([as_node(input), as_node(target)])
    if log_target:
        each = call("multiply", call("exp", y), call("subtract", y, x))
    else:
        each = call("subtract", call("xlogy", y, y), call("multiply", y, x))
    if reduction == "batchmean":
        return _reduced(each, "sum") / x.shape[0]
    return _reduced(each, reduction, size_average, reduce)


def bce_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    x, y = as_node(input), as_node(target)
    rest = call("subtract", 1, y)
    negative = call("negative", call("log_sigmoid", x))
    positive = y if pos_weight is None else call("multiply", y, pos_weight)
    other = call("negative", call("log_sigmoid", call("negative", x)))
    each = call("add", call("multiply", positive, negative), call("multiply", rest, other))
    each = each if weight is None else call("multiply", each, weight)
    return _reduced(each, reduction, size_average, reduce)


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Less the log-probability of each row's class: (M, C), (M,)."""
    a = _classes("nll_loss", input, target)
    shares = _shares(a, target, weight, ignore_index)
    each = -_picked(a, target, ignore_index) * shares
    return _mean_of_shares(each, shares, reduction, size_average, reduce)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """logsumexp of each row less the entry of its class: (M, C), (M,)."""
    a = _classes("cross_entropy", input, target)
    shares = _shares(a, target, weight, ignore_index)
    total = _dense(statistics.fold("logsumexp", (a,), (1,)))
    each = (total - _picked(a, target, ignore_index)) * shares
    if label_smoothing:
        heavy = a if weight is None else call("multiply", a, weight)
        amount = a.shape[1] if weight is None else weight.sum()
        spread = total * amount - _dense(statistics.total(heavy, (1,)))
        spread = torch.where(target == ignore_index, 0, spread) / a.shape[1]
        each = (1 - label_smoothing) * each + label_smoothing * spread
    return _mean_of_shares(each, shares, reduction, size_average, reduce)


def _classes(what: str, input: Any, target: Any) -> Node:
    a = as_node(input)
    known = isinstance(target, torch.Tensor) and not target.is_floating_point()
    if known and target.ndim == 1 and a.ndim == 2 and len(target) != a.shape[0]:
        raise ValueError(f"Expected {what}'s {len(target)} targets to match {a.shape[0]} inputs.")
    if not known or a.ndim != 2 or tuple(target.shape) != a.shape[:1]:
        raise unsupported(
            f"{what} of other than rows of logits and a tensor of their classes",
            a,
            "Give logits of shape (M, C) and integers of shape (M,).",
        )
    return a


def _dense(x: Any) -> Any:
    return genuine.dense(x) if isinstance(x, Node) else x


def _picked(a: Node, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    place = torch.where(target == ignore_index, 0, target)
    picked = indexing.take_along_axis(a, place[:, None], 1)[:, 0]
    return torch.where(target == ignore_index, 0, picked)


def _shares(a: Node, target: torch.Tensor, weight: Any, ignore_index: int) -> torch.Tensor:
    kept = target != ignore_index
    if weight is None:
        return kept.to(getattr(torch, a.dtype.name))
    return torch.where(kept, weight[torch.where(kept, target, 0)], 0)


def _mean_of_shares(
    each: torch.Tensor, shares: torch.Tensor, reduction: str, size_average: Any, reduce: Any
) -> torch.Tensor:
    if reduction == "mean" and size_average is None and reduce is None:
        total = shares.sum()
        none = total == 0  # NaN, as torch's, and no gradient
        return torch.where(none, math.nan, each.sum() / torch.where(none, 1, total))
    return _reduced(each, reduction, size_average, reduce)
