"""Reductions of tensors, with gradients of every order: one `autograd.Function` for all of them.

A reduction is differentiated by what its entries weigh in it: d out = sum of weight * d entry. The
weights are lazy expressions again, of the entries and of the result, so a gradient is a sum over
pairs of `Vjp` nodes, and the backward pass a few more reductions, which are differentiated in the
same way. What picks entries (min, top-k) is differentiated at the entries that it picked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from duckkeops import evaluate, expr, gradients, ops, reductions, rewrite, views
from duckkeops.batching import batched
from duckkeops.config import current
from duckkeops.engines import blocks
from duckkeops.errors import UnsupportedError
from duckkeops.expr import NEUTRAL, Input, Node, Reduce, Scalar, Vjp
from duckkeops.reductions import parameter
from duckkeops.tensors import as_tensor

Outputs = tuple[torch.Tensor, ...]
ROWS = reductions.BY_NAME
TIES = 64  # equal least entries of one row that are differentiated one by one


def value(node: Reduce) -> Any:
    """The value of a reduction of tensors; of a top-k, values and indices."""
    if is_native(node):
        return blocks.value(node)
    out = outputs(node)
    return out[:2] if node.row.name == "topk" else out[0]


def outputs(node: Reduce, places: bool = False) -> Outputs:
    """The value, and what gradients need beside it, where there are any; see `_names`.

    `places`: argmin and argmax give the entry beside its place in any case.
    """
    leaves = [i for i in expr.inputs(node) if isinstance(i.array, torch.Tensor)]
    tensors = [i.array for i in leaves]
    if not _is_tracked(tensors):
        return _computed(node, places)
    return _Reduction.apply(_Plan(node, leaves), *tensors)


def is_native(node: Reduce) -> bool:
    """Does torch itself compute it, as no pair enters?"""
    nodes = expr.walk(node)
    return not any(isinstance(n, Vjp) for n in nodes) and evaluate.is_plain(node, nodes)


def _is_tracked(tensors: Sequence[torch.Tensor]) -> bool:
    """Does somebody differentiate, or map over, what is computed of these tensors?"""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return torch.autograd.forward_ad._current_level >= 0 and any(
        torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


# -- values ----------------------------------------------------------------------------------------


def _computed(node: Reduce, differentiated: bool) -> Outputs:
    """The outputs of plain tensors. `differentiated`: those that only gradients need too."""
    if differentiated and node.row.name in ("min", "max") and node.dtype.kind == "f":
        return _tied_extremes(node)
    settings = current()
    key, nodes = evaluate.listed(node)
    found = evaluate.known(key, settings)
    state = found(nodes, settings.threads) if found is not None else evaluate.state(node, np)
    out = reductions.result(np, node, state)
    out = out if isinstance(out, tuple) else (out,)
    more = _extra(node, state) if differentiated else ()
    return tuple([as_tensor(a) for a in (*out, *more)])


def _extra(node: Reduce, state: tuple) -> tuple[Any, ...]:
    """What gradients need beside the value: of argmin the least entry, of a softmax the logsumexp
    of the scores, of a variance the mean.
    """
    name = node.row.name
    with np.errstate(all="ignore"):
        if name in ("argmin", "argmax"):
            return (state[0],)
        if name == "softmax_sum":
            total = reductions.BY_NAME["logsumexp"].finish(np, state[:2], 0, ())
            return (_narrowed(total, node),)
        if name in ("var", "std"):
            return (np.asarray(state[1]),)
    return ()


def _narrowed(total: np.ndarray, node: Reduce) -> np.ndarray:
    """Of the shape of the scores, which lack the features of the values."""
    scores = node.args[0]
    n = len(node.whole)
    key = []
    for a in range(n):
        if a in node.axes:
            continue
        r = n - a
        key.append(slice(None) if scores.ndim >= r and scores.shape[-r] != 1 else slice(0, 1))
    return total[tuple(key)]


def _tied_extremes(node: Reduce) -> Outputs:
    """The least (or greatest) entries, the places of all that equal them, and their shares.

    As in torch.amin, equal entries share the gradient. Where a row has more than `TIES` of them
    there are no places, and the entries will be compared with the result instead.
    """
    n, k = node.outline.count, 2
    while True:
        top = reductions.reduce(
            ROWS["topk"], node.args, node.axes, k=min(k, n), largest=node.row.name == "max"
        )
        values, index = reductions.result(np, top, evaluate.state(top, np))
        hit = values == values[..., :1]
        if k >= n or not hit[..., -1].any():
            break
        k *= 4
        if k > TIES:
            index, hit = index[..., :0], hit[..., :0]
            break
    share = hit / np.maximum(hit.sum(-1, keepdims=True), 1)
    most = hit.any(axis=tuple(range(hit.ndim - 1))).sum() if hit.size else index.shape[-1]
    value = reductions.astype(np, values[..., 0], node.dtype)
    return tuple(
        as_tensor(a)
        for a in (value, index[..., :most].copy(), share[..., :most].astype(values.dtype))
    )


# -- the function ----------------------------------------------------------------------------------


class _Plan:
    """A reduction, and those of its inputs that are arguments of the function."""

    __slots__ = ("leaves", "node")

    def __init__(self, node: Reduce, leaves: Sequence[Input]):
        self.node, self.leaves = node, tuple(leaves)

    def of(self, tensors: Sequence[torch.Tensor]) -> tuple[Reduce, list[Input]]:
        """The same reduction of other tensors, and their inputs."""
        if all(t is i.array for t, i in zip(tensors, self.leaves, strict=True)):
            return self.node, list(self.leaves)
        new = {
            id(i): type(i)(t, i.dtype, i.roles, i.bare)
            if type(i) is Input
            else expr.Table(t, i.dtype)
            for i, t in zip(self.leaves, tensors, strict=True)
        }
        node = rewrite.with_inputs(self.node, lambda i: new.get(id(i), i))
        return node, [new[id(i)] for i in self.leaves]  # type: ignore[return-value]


class _Reduction(torch.autograd.Function):
    """(plan, tensors) -> the outputs of `_computed`."""

    @staticmethod
    def forward(plan: _Plan, *tensors: torch.Tensor) -> Outputs:
        node, _ = plan.of(tensors)
        return _computed(node, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Outputs) -> None:
        plan, *tensors = inputs
        ctx.plan = plan
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)
        fixed = [t for t in output if not (t.is_floating_point() or t.is_complex())]
        if plan.node.row.name in ("min", "max"):
            fixed = list(output[1:])
        ctx.mark_non_differentiable(*fixed)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        saved, n = ctx.saved_tensors, len(ctx.plan.leaves)
        wanted = ctx.needs_input_grad[1:]
        if all(g is None for g in grads):
            return (None, *[None] * n)
        return None, *_pulled_back(ctx.plan, saved[:n], saved[n:], grads, wanted)

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: torch.Tensor | None) -> Any:
        saved, n = ctx.saved_tensors, len(ctx.plan.leaves)
        return _pushed_forward(ctx.plan, saved[:n], saved[n:], tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, plan: _Plan, *tensors: torch.Tensor) -> Any:
        node = batched(plan.node, plan.leaves, tensors, in_dims[1:], info.batch_size)
        out = outputs(node, True)
        return out, (0,) * len(out)


def _names(node: Reduce) -> tuple[str, ...]:
    """What the outputs are."""
    return {
        "argmin": ("index", "value"),
        "argmax": ("index", "value"),
        "topk": ("value", "index"),
        "min": ("value", "index", "share"),
        "max": ("value", "index", "share"),
        "softmax_sum": ("value", "total"),
        "var": ("value", "mean"),
        "std": ("value", "mean"),
    }.get(node.row.name, ("value",))


# -- backwards -------------------------------------------------------------------------------------


def _pulled_back(
    plan: _Plan,
    tensors: Sequence[torch.Tensor],
    outs: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor | None],
    wanted: Sequence[bool],
) -> list[torch.Tensor | None]:
    """The gradient with respect to each tensor that wants one."""
    if (picked := _picks(plan.node, outs)) is not None:
        place, share = picked
        g = grads[_names(plan.node).index("value")]
        return _picked_back(plan, tensors, place, share, g, wanted)
    node, leaves = plan.of(tensors)
    cotangents = _cotangents(node, outs, grads)
    terms: list[gradients.Term] = []
    counts = []
    for leaf, want in zip(leaves, wanted, strict=True):
        own = [t for v, c in cotangents for t in gradients.gradient(v, c, leaf)] if want else []
        terms += own
        counts.append(len(own))
    values = iter([value(t.node) for t in terms])
    orders = iter([t.order for t in terms])
    out: list[torch.Tensor | None] = []
    for leaf, count in zip(leaves, counts, strict=True):
        total: torch.Tensor | None = None
        for _ in range(count):
            part = next(values).permute(next(orders)).reshape(leaf.shape)
            total = part if total is None else total + part
        out.append(total)
    return out


def _cotangents(
    node: Reduce, outs: Sequence[torch.Tensor], grads: Sequence[torch.Tensor | None]
) -> list[tuple[Node, Node]]:
    """Pairs of an argument and what each of its entries adds to the loss."""
    found: list[tuple[Node, Node]] = []
    for g, weighed in zip(grads, _weights(node, outs), strict=True):
        if g is None:
            continue
        spread = _spread(g, node)
        for arg, weight in weighed:
            found.append((arg, spread if weight is None else ops.call("multiply", weight, spread)))
    return found


def _spread(tensor: torch.Tensor, node: Reduce) -> Node:
    """A tensor of the shape of the reduction's result, along the axes that were reduced."""
    roles = "".join(r for a, r in enumerate(node.whole_roles) if a not in node.axes)
    dtype = expr.dtype_of(str(tensor.dtype).rpartition(".")[2])
    return views.expand(Input(tensor, dtype, roles), node.axes)


Weighed = list[tuple[Node, Node | None]]


def _weights(node: Reduce, outs: Sequence[torch.Tensor]) -> list[Weighed]:
    """For each output, pairs of an argument and what its entries weigh in the output: None is 1."""
    name, (v, *more) = node.row.name, node.args
    if name == "sum":
        return [[(v, None)]]
    if name == "mean":
        return [[(v, Scalar(1 / max(node.outline.count, 1)))]]
    if name == "logsumexp":
        return [[(v, _softmax(v, _spread(outs[0], node)))]]
    if name == "softmax_sum":
        weight = _softmax(v, _spread(outs[1], node))
        gap = ops.call("subtract", more[0], _spread(outs[0], node))
        return [[(v, ops.call("multiply", weight, gap)), (more[0], weight)], [(v, weight)]]
    if name in ("var", "std"):
        return _deviations(node, v, outs)
    if name == "prod":
        return [[(v, _product_of_others(node, v, outs[0]))]]
    return [[] for _ in outs]  # counts, places and truth do not change


def _softmax(scores: Node, total: Node) -> Node:
    return ops.call("exp", ops.call("subtract", scores, total))


def _deviations(node: Reduce, v: Node, outs: Sequence[torch.Tensor]) -> list[Weighed]:
    """Of the variance 2 (v - mean) / (n - correction); of its root, 0 where it is 0, as torch's."""
    n = node.outline.count
    left = max(n - parameter(node.params, "correction", 0), 0)
    gap = ops.call("subtract", v, _spread(outs[1], node))
    if node.row.name == "var":
        each: Any = Scalar(2 / left if left else np.inf)
    else:
        flat = outs[0] == 0
        inverse = torch.where(flat, 0, 1 / torch.where(flat, 1, outs[0] * left))
        each = _spread(inverse, node)
    return [[(v, ops.call("multiply", gap, each))], [(v, Scalar(1 / max(n, 1)))]]


def _product_of_others(node: Reduce, v: Node, out: torch.Tensor) -> Node:
    """What each factor is multiplied by: right where some of them are 0 too."""
    zero = ops.call("equal", v, 0)
    safe = ops.call("where", zero, 1, v)
    zeros = reductions.reduce(ROWS["count_nonzero"], (zero,), node.axes)
    rest = reductions.reduce(ROWS["prod"], (safe,), node.axes)
    count, product = _spread(value(zeros), node), _spread(value(rest), node)
    alone = ops.call("where", ops.call("equal", count, 1), product, 0)
    among = ops.call("where", ops.call("equal", count, 0), ops.call("divide", product, safe), 0)
    return ops.call("where", zero, alone, among)


# -- what picks entries ----------------------------------------------------------------------------


def _picks(
    node: Reduce, outs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """The places (..., k) of the entries that the value is made of, and their shares."""
    names = _names(node)
    if "index" not in names:
        return None
    index = outs[names.index("index")]
    if "share" in names:
        return index, outs[names.index("share")]
    return (index if node.row.name == "topk" else index[..., None]), None


def _picked_back(
    plan: _Plan,
    tensors: Sequence[torch.Tensor],
    place: torch.Tensor,
    share: torch.Tensor | None,
    g: torch.Tensor | None,
    wanted: Sequence[bool],
) -> list[torch.Tensor | None]:
    if g is None:
        return [None] * len(tensors)
    wrt = [k for k, want in enumerate(wanted) if want]

    def picked(*some: torch.Tensor) -> torch.Tensor:
        all_ = list(tensors)
        for k, t in zip(wrt, some, strict=True):
            all_[k] = t
        return entries(plan, all_, place, share)

    found = iter(torch.func.vjp(picked, *(tensors[k] for k in wrt))[1](g))
    return [next(found) if want else None for want in wanted]


def entries(
    plan: _Plan,
    tensors: Sequence[torch.Tensor],
    place: torch.Tensor,
    share: torch.Tensor | None,
) -> torch.Tensor:
    """The entries at `place`, flat positions along the reduced axes, computed by torch itself.

    Shapes: place (..., k) -> (..., k) for a top-k, else (...), summed with the shares.
    """
    node, _ = plan.of(tensors)
    (arg,) = node.args
    out = at(arg, node.axes, place)
    if node.row.name == "topk":
        return out
    return out[..., 0] if share is None else (out * share).sum(-1)


def at(arg: Node, axes: Sequence[int], place: torch.Tensor) -> torch.Tensor:
    """The entries (..., k) at flat positions `place` (..., k) along these axes."""
    kept = [a for a in range(arg.ndim) if a not in axes]
    lengths = tuple(place.shape)
    picks: dict[int, torch.Tensor] = {}
    left = place
    for a in reversed(axes):
        n = max(arg.shape[a], 1)
        picks[a], left = left % n, left // n
    for k, a in enumerate(kept):
        shape = [1] * len(lengths)
        shape[k] = lengths[k]
        picks[a] = torch.arange(lengths[k], device=place.device).reshape(shape)
    order = sorted(picks)
    flat = tuple(picks[a].expand(lengths).reshape(-1) for a in order)
    seen = views.view(arg, views.View(arg.ndim, [(tuple(order), flat)], {}))
    return blocks.dense(seen, tile_bytes=1 << 62).reshape(lengths)


# -- forwards --------------------------------------------------------------------------------------


def _pushed_forward(
    plan: _Plan,
    tensors: Sequence[torch.Tensor],
    outs: Sequence[torch.Tensor],
    tangents: Sequence[torch.Tensor | None],
) -> Any:
    """The tangents of the outputs."""
    names = _names(plan.node)
    if (picked := _picks(plan.node, outs)) is not None:
        moved = [k for k, t in enumerate(tangents) if t is not None]

        def value_of(*some: torch.Tensor) -> torch.Tensor:
            all_ = list(tensors)
            for k, t in zip(moved, some, strict=True):
                all_[k] = t
            return entries(plan, all_, *picked)

        primals = tuple(tensors[k] for k in moved)
        _, change = torch.func.jvp(value_of, primals, tuple(tangents[k] for k in moved))
        return tuple(change if name == "value" else None for name in names)
    node, leaves = plan.of(tensors)
    found: list[torch.Tensor | None] = []
    for weighed, out in zip(_weights(node, outs), outs, strict=True):
        if not (out.is_floating_point() or out.is_complex()):
            found.append(None)
            continue
        total: torch.Tensor | None = None
        for arg, weight in weighed:
            for leaf, t in zip(leaves, tangents, strict=True):
                for part in () if t is None else _along(node, arg, weight, leaf, t):
                    one = value(part).to(out.dtype).reshape(out.shape)
                    total = one if total is None else total + one
        found.append(torch.zeros_like(out) if total is None else total)
    return tuple(found)


def _along(
    node: Reduce, arg: Node, weight: Node | None, leaf: Input, tangent: torch.Tensor
) -> list[Reduce]:
    """sum of weight * d arg / d leaf . tangent: one reduction for each place of the leaf."""
    if node.dtype.kind == "c" or leaf.dtype.kind == "c":
        raise UnsupportedError(
            f"forward-mode derivatives of complex numbers: {node.row.name} of {arg.dtype}.\n"
            "  Take the gradient in reverse mode, torch.func.vjp."
        )
    one = weight
    if one is None or isinstance(one, Scalar):
        number = torch.tensor(1.0 if one is None else one.value, dtype=tangent.dtype)
        one = Input(number, leaf.dtype, "")
    if one.ndim < len(node.whole):  # as long as the whole, so that places agree
        one = expr.Broadcast(one, node.whole, node.whole_roles)
    if any(isinstance(n, Vjp) for n in expr.walk(arg)):
        return _along_twice(node, ops.call("multiply", arg, one), leaf, tangent)
    out = []
    for place in gradients.places(arg, leaf, 0):
        vjp = Vjp(arg, one, leaf, place)
        n = len(vjp.whole)
        shape, source = [1] * vjp.ndim, []
        for a, p in enumerate(place):
            if leaf.shape[a] == 1:
                continue
            to = n + p if p is not None else n + vjp.new.index(a)
            shape[to] = leaf.shape[a]
            source.append((to, a))
        order = [a for _, a in sorted(source)]
        ones = [a for a in range(leaf.ndim) if leaf.shape[a] == 1]
        arranged = tangent.permute(*order, *ones).reshape(shape)
        roles = "".join(NEUTRAL if s == 1 else r for s, r in zip(shape, vjp.roles, strict=True))
        change = ops.call("multiply", vjp, Input(arranged, leaf.dtype, roles))
        axes = (*node.axes, *range(n, vjp.ndim))
        out.append(reductions.reduce(ROWS["sum"], (change,), axes))
    return out


def _along_twice(node: Reduce, arg: Node, leaf: Input, tangent: torch.Tensor) -> list[Reduce]:
    """The same as the gradient of a gradient: of sum of tangent * d (sum of u * arg) / d leaf, with
    respect to u, one number for each entry of the result. What u is does not matter.
    """
    zeros = torch.zeros((), dtype=tangent.dtype).expand(node.shape)
    spread = _spread(zeros, node)
    u = next(i for i in expr.inputs(spread))
    found = []
    for term in gradients.gradient(arg, spread, leaf):
        (vjp,) = term.node.args
        kept = [n for n in leaf.shape if n != 1]
        arranged = tangent.reshape(kept).permute(*_inverse(term.order))
        whole = _spread(arranged, term.node)
        for other in gradients.gradient(vjp, whole, u):
            assert list(other.order) == sorted(other.order)
            found.append(other.node)
    return found


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


evaluate.HOOKS["torch"] = value
