"""Reductions of tensors, with gradients of every order: one `autograd.Function` for all of them.

A reduction is differentiated by what its entries weigh in it: d out = sum of conj(weight) * d entry
(of which a real result takes the real part). The weights are lazy expressions again, of the entries
and of the result, so a gradient is a sum over pairs of `Vjp` nodes, and the backward pass a few
more reductions, which are differentiated in the same way. What picks entries (min, top-k) is
differentiated at the entries that it picked.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch._C._functorch import unwrap_if_dead

from duckkeops import (
    concatenation,
    evaluate,
    expr,
    gradients,
    joint,
    ops,
    reductions,
    restriction,
    rewrite,
    torch_passes,
    views,
)
from duckkeops.batching import batched
from duckkeops.config import current
from duckkeops.engines import blocks
from duckkeops.errors import UnsupportedError
from duckkeops.expr import NEUTRAL, Concat, Input, Node, Reduce, Scalar, Vjp
from duckkeops.reductions import parameter
from duckkeops.tensors import as_tensor, check_unchanged, computing, on_one_device, torch_dtype

Outputs = tuple[torch.Tensor, ...]
ROWS = reductions.BY_NAME
PICKS = ("min", "max", "argmin", "argmax", "topk")  # rows whose values are entries
WEIGHED = ("logsumexp", "softmax_sum", "var", "std")  # whose outputs weigh their arguments
PROXY = torch._C._TorchDispatchModeKey.PROXY
POLES = ("divide", "reciprocal", "pow", "rsqrt")
TIES = 64  # equal least entries of one row that are differentiated one by one


def value(node: Reduce, order: Sequence[int] | None = None) -> Any:
    """The value of a reduction of tensors, its axes in this order; of a top-k, values and
    indices.
    """
    key, nodes = evaluate.listed(node)
    known = evaluate.known(key, current())
    if order is not None and (known is None or expr.is_transformed()):
        return value(node).permute(order)
    if known is None and (moved := on_one_device(node)) is not node:
        return value(moved)  # type: ignore[arg-type]
    if known is None and not _is_meta(nodes) and node.row.name != "std" and is_native(node):
        return blocks.value(node)  # but no root of a variance, which has no slope at 0
    out = _outputs(node, key, nodes, False, known is not None, order)
    return out[:2] if node.row.name == "topk" else out[0]


def outputs(node: Reduce, places: bool = False) -> Outputs:
    """The value, and what gradients need beside it, where there are any; see `_names`.

    `places`: argmin and argmax give the entry beside its place in any case.
    """
    return _outputs(node, *evaluate.listed(node), places)


def _outputs(
    node: Reduce,
    key: tuple,
    nodes: list[Node],
    places: bool,
    known: bool = False,
    order: Sequence[int] | None = None,
) -> Outputs:
    """`known`: is there a launch of it, whose arrays have entries, and none of which are joined?
    `order`: of the axes of the value.
    """
    leaves = [n for n in nodes if isinstance(n, Input) and isinstance(n.source, torch.Tensor)]
    tensors = [i.source for i in leaves]
    if not known and any(t.is_meta for t in tensors):
        return _without_entries(node)
    if torch._C._get_dispatch_mode(PROXY) is not None:
        raise UnsupportedError(
            "a trace of torch operations, as torch.func.linearize and make_fx take it, would see a "
            "reduction of a lazy array as a constant.\n"
            "  Call torch.func.jvp or vjp for each tangent, or trace with torch.compile."
        )
    if torch._C._get_tracing_state() is not None:
        raise UnsupportedError(
            "torch.jit.trace would see a reduction of a lazy array as a constant.\n"
            "  Trace with torch.compile or torch.export."
        )
    if not is_tracked(tensors):
        return _computed(node, key, nodes, places, order)
    if expr.is_transformed() and any(i.order is not None for i in leaves):
        return outputs(rewrite.with_inputs(node, _with_view), places)  # type: ignore[arg-type]
    if not known and node.row.name in MERGED and any(isinstance(n, Concat) for n in nodes):
        return _in_parts(node)
    out = _differentiable(_Plan(node, leaves, key, nodes, order), *tensors)
    return _picked(node, out) if node.row.name in PICKS else out


def _is_meta(nodes: Sequence[Node]) -> bool:
    return any(
        isinstance(n, Input) and isinstance(n.source, torch.Tensor) and n.source.is_meta
        for n in nodes
    )


def _without_entries(node: Reduce) -> Outputs:
    """The outputs of tensors on the device "meta": shapes and dtypes."""
    shape, dtypes = node.shape, [torch_dtype(node.dtype)]
    if node.row.name == "topk":
        shape = (*shape, parameter(node.params, "k", 1))
        dtypes.append(torch.int64)
    elif node.row.name in ("argmin", "argmax"):
        dtypes.append(torch_dtype(node.args[0].dtype))
    return tuple([torch.empty(shape, dtype=t, device="meta") for t in dtypes])


def is_native(node: Reduce) -> bool:
    """Does torch itself compute it, as no pair enters?"""
    nodes = expr.walk(node)
    return not any(isinstance(n, Vjp) for n in nodes) and evaluate.is_plain(node, nodes)


def _with_view(leaf: Input) -> Input:
    """The same input with a view of its source that torch knows."""
    if leaf.order is None:
        return leaf
    return Input(leaf.array, leaf.dtype, leaf.roles, leaf.bare)


def is_tracked(tensors: Sequence[torch.Tensor]) -> bool:
    """Does somebody differentiate, or map over, what is computed of these tensors?"""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return torch.autograd.forward_ad._current_level >= 0 and any(
        torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


# -- values ----------------------------------------------------------------------------------------


def _computed(
    node: Reduce,
    key: tuple,
    nodes: list[Node],
    differentiated: bool,
    order: Sequence[int] | None = None,
) -> Outputs:
    """The outputs of plain tensors. `differentiated`: those that only gradients need too."""
    if differentiated and node.row.name in ("min", "max") and _is_floating(node):
        return _tied_extremes(node)
    settings = current()
    found = evaluate.known(key, settings)
    xp = computing(node)
    state = found(nodes, settings.threads) if found is not None else evaluate.state(node, xp)
    out = reductions.result(xp, node, state)
    if order is not None:
        out = out.transpose(order) if type(out) is np.ndarray else out.permute(order)
    out = out if isinstance(out, tuple) else (out,)
    more = _extra(node, state, xp) if differentiated else ()
    return tuple([as_tensor(a) for a in (*out, *more)])


def _extra(node: Reduce, state: tuple, xp: Any) -> tuple[Any, ...]:
    """What gradients need beside the value: of argmin the least entry, of a softmax the logsumexp
    of the scores, of a variance the mean.
    """
    name = node.row.name
    if name in ("argmin", "argmax"):
        return (state[0],)
    if name not in ("softmax_sum", "var", "std"):
        return ()
    with np.errstate(all="ignore"):
        if name == "softmax_sum":
            total = reductions.BY_NAME["logsumexp"].finish(xp, state[:2], 0, ())
            return (_narrowed(total, node),)
        return (xp.asarray(state[1]),)


def _narrowed(total: Any, node: Reduce) -> Any:
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

    As in torch.amin, equal entries share the gradient, and NaN is the extreme of its row. Where a
    row has more than `TIES` equals there are no places, and the entries will be compared with the
    result instead.
    """
    n, k = node.outline.count, 2
    first = _alike(node, f"arg{node.row.name}", *node.args)
    xp = computing(node)
    extreme, place = evaluate.state(first, xp)
    while True:
        top = _alike(node, "topk", *node.args, k=min(k, n), largest=node.row.name == "max")
        values, index = reductions.result(xp, top, evaluate.state(top, xp))
        hit = (values == values[..., :1]) & (index >= 0)
        if k >= n or not hit[..., -1].any():
            break
        k *= 4
        if k > TIES:
            index, hit = index[..., :0], hit[..., :0]
            break
    if index.shape[-1]:  # a top-k passes over NaN in the search for the least
        nan = xp.isnan(extreme)
        hit[nan, :] = False
        hit[..., 0] |= nan
        index = xp.where(nan[..., None], xp.asarray(place)[..., None], index)
    # what is no extreme counts as the first one, times 0: it may be infinite, or have no derivative
    index = xp.where(hit, index, index[..., :1])
    count = hit.sum(-1, keepdims=True)
    share = xp.astype(hit, values.dtype) / xp.maximum(count, xp.ones_like(count))
    most = max(int(count.max()), 1) if math.prod(hit.shape) else index.shape[-1]
    value = reductions.astype(xp, extreme, node.dtype)
    shares = xp.astype(share, values.dtype)[..., :most]
    return tuple(as_tensor(a) for a in (value, index[..., :most] + 0, shares))


def _alike(node: Reduce, name: str, *args: Node, **params: Any) -> Reduce:
    """Another reduction over the same entries."""
    made = reductions.reduce(ROWS[name], args, node.axes, **params)
    return restriction.with_pairs(made, restriction.of(node))


# -- joined parts ----------------------------------------------------------------------------------


def _in_parts(node: Reduce) -> Outputs:
    """The value of a reduction of joined arrays: of each part by itself, put together by torch,
    which differentiates that.
    """
    node = concatenation.without_cut_folds(node)  # type: ignore[assignment]
    cut = concatenation.cut(node)
    if cut is None:
        return outputs(node)
    if cut.axis in node.axes:
        return (MERGED[node.row.name](node, cut.parts),)
    place = [a for a in range(len(node.whole)) if a not in node.axes].index(cut.axis)
    return (torch.cat([outputs(p)[0] for p in cut.parts], place),)


def _stacked(parts: Sequence[Reduce]) -> list[torch.Tensor]:
    """Each of the outputs, and what gradients need beside them, of all parts along a first axis."""
    return [torch.stack(some) for some in zip(*[outputs(p, True) for p in parts], strict=True)]


def _shares(node: Reduce, parts: Sequence[Reduce], like: torch.Tensor) -> torch.Tensor:
    """How many of the entries are in each part, along the first axis of `like`."""
    kind = like.real.dtype if like.is_complex() else like.dtype
    counts = torch.tensor([p.outline.count for p in parts], dtype=torch.float64)
    shares = (counts / max(node.outline.count, 1)).to(like.device, kind)
    return shares.reshape(-1, *[1] * (like.ndim - 1))


def _merged_mean(node: Reduce, parts: Sequence[Reduce]) -> torch.Tensor:
    (means,) = _stacked(parts)
    return (means * _shares(node, parts, means)).sum(0)


def _merged_softmax(node: Reduce, parts: Sequence[Reduce]) -> torch.Tensor:
    values, totals = _stacked(parts)
    return (values * torch.softmax(totals, 0)).sum(0)


def _merged_variance(node: Reduce, parts: Sequence[Reduce]) -> torch.Tensor:
    """The mean square within the parts, and that between their means."""
    params = tuple(p for p in node.params if p[0] != "correction")
    own = [Reduce(ROWS["var"], p.args, p.axes, p.dtype, params) for p in parts]
    within, means = _stacked(own)
    shares = _shares(node, parts, within)
    gap = means - (means * shares).sum(0)
    between = (gap * gap.conj()).real if gap.is_complex() else gap.square()
    n = node.outline.count
    left = max(n - parameter(node.params, "correction", 0), 0)
    return ((within + between) * shares).sum(0) * (n / left if left else torch.inf)


def _merged_deviation(node: Reduce, parts: Sequence[Reduce]) -> torch.Tensor:
    """Its gradient is 0 where it is 0, as torch's."""
    square = _merged_variance(node, parts)
    flat = square == 0
    return torch.where(flat, 0, torch.where(flat, 1, square).sqrt())


MERGED: dict[str, Callable[[Reduce, Sequence[Reduce]], torch.Tensor]] = {
    "sum": lambda node, parts: _stacked(parts)[0].sum(0),
    "prod": lambda node, parts: _stacked(parts)[0].prod(0),
    "logsumexp": lambda node, parts: torch.logsumexp(_stacked(parts)[0], 0),
    "mean": _merged_mean,
    "softmax_sum": _merged_softmax,
    "var": _merged_variance,
    "std": _merged_deviation,
}


# -- the function ----------------------------------------------------------------------------------


class _Plan:
    """A reduction, those of its inputs that are arguments of the function, what
    `evaluate.listed` says of it, and the order of the axes of its value.
    """

    __slots__ = ("key", "leaves", "node", "nodes", "order")

    def __init__(
        self,
        node: Reduce,
        leaves: Sequence[Input],
        key: tuple,
        nodes: list[Node],
        order: Sequence[int] | None = None,
    ):
        self.node, self.leaves, self.key, self.nodes = node, tuple(leaves), key, nodes
        self.order = order

    def in_order(self, values: Sequence[Any]) -> Sequence[Any]:
        """Outputs, or their gradients, with the axes of the value as the reduction has them."""
        if self.order is None or not values or values[0] is None:
            return values
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return (values[0].permute(back), *values[1:])

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Are these the tensors of its own inputs?"""
        return all(map(operator.is_, tensors, [i.source for i in self.leaves]))

    def of(self, tensors: Sequence[torch.Tensor]) -> tuple[Reduce, list[Input]]:
        """The same reduction of other tensors, and their inputs."""
        if self.holds(tensors):
            return self.node, list(self.leaves)
        new = {
            id(i): Input(t, i.dtype, i.roles, i.bare, i.order)
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
        if plan.holds(tensors):
            out = _computed(plan.node, plan.key, plan.nodes, True, plan.order)
        else:
            node, _ = plan.of(tensors)
            out = _computed(node, *evaluate.listed(node), True, plan.order)
        # a view in another order than its tangent's is refused by forward mode
        return tuple([t.contiguous() if t._is_view() else t for t in out])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Outputs) -> None:
        plan, *tensors = inputs
        ctx.plan = plan
        used = output if plan.node.row.name in WEIGHED else ()
        ctx.save_for_backward(*tensors, *used)  # others may be written to before the backward pass
        if expr.is_transformed():
            ctx.save_for_forward(*tensors, *output)
        fixed = [t for t in output if not (t.is_floating_point() or t.is_complex())]
        if plan.node.row.name in PICKS:
            fixed = list(output)
        if fixed:
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
    def jvp(ctx: Any, *tangents: Any) -> Any:
        saved, n = ctx.saved_tensors, len(ctx.plan.leaves)
        return _pushed_forward(ctx.plan, saved[:n], saved[n:], tangents[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> Any:
        plan, *tensors = args
        node = batched(plan.node, plan.leaves, tensors, in_dims[1:], info.batch_size)
        out = outputs(node, True)
        return out, (0,) * len(out)


def _differentiable(plan: _Plan, *tensors: torch.Tensor) -> Outputs:
    """_Reduction.apply, which binds its arguments to a signature at each call, for 25 us."""
    if torch._C._are_functorch_transforms_active():
        return _Reduction.apply(plan, *tensors)
    own = map(unwrap_if_dead, tensors)
    return super(torch.autograd.Function, _Reduction).apply(plan, *own)  # type: ignore[misc]


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
    """The gradient with respect to each tensor that wants one. `outs` and `grads` have the axes of
    the value in the plan's order.
    """
    once = not (torch.is_grad_enabled() or torch._C._are_functorch_transforms_active())
    key = torch_passes.key_of(plan.key, plan.order, outs, grads, wanted, current())
    if once and (known := torch_passes.find(key)) is not None:
        for t, leaf in zip(tensors, plan.leaves, strict=True):
            if type(leaf) is Input:
                check_unchanged(t, leaf.outline)
        return known(plan.nodes, tensors, outs, grads)
    node, leaves = plan.of(tensors)
    outs, grads = plan.in_order(outs), plan.in_order(grads)
    pairs = restriction.of(node)
    results = [_spread(o, node) for o in outs]
    spread = [None if g is None else _spread(g, node) for g in grads]
    cotangents = _cotangents(_weights(node, results), spread)
    terms = [
        (k, term._replace(node=restriction.with_pairs(term.node, pairs)))
        for k, leaf in enumerate(leaves)
        if wanted[k]
        for v, c in cotangents
        for term in gradients.gradient(v, c, leaf, nested=pairs is None)
    ]
    out: list[torch.Tensor | None] = [None] * len(leaves)
    sums = [term.node for _, term in terms]
    parts = map(as_tensor, joint.arrays(sums)) if once else map(value, sums)
    for (k, term), part in zip(terms, parts, strict=True):
        part = part.permute(gradients.source_order(term, leaves[k])).reshape(tensors[k].shape)
        have = out[k]
        out[k] = part if have is None else have + part
    if once and pairs is None and plan.holds(tensors):
        torch_passes.keep(key, plan.nodes, leaves, results, spread, terms, plan.order)
    return out


Weighed = list[tuple[Node, Node | None]]


def _cotangents(
    weights: Sequence[Weighed], spread: Sequence[Node | None]
) -> list[tuple[Node, Node]]:
    """Pairs of an argument and what each of its entries adds to the loss, given the gradients of
    the outputs.
    """
    found: list[tuple[Node, Node]] = []
    for g, weighed in zip(spread, weights, strict=True):
        if g is not None:
            found += [(v, g if w is None else ops.call("multiply", w, g)) for v, w in weighed]
    return found


def _spread(tensor: torch.Tensor, node: Reduce) -> Input:
    """A tensor of the shape of the reduction's result, along the axes that were reduced."""
    kept = iter(range(tensor.ndim))
    roles = "".join(NEUTRAL if a in node.axes else r for a, r in enumerate(node.whole_roles))
    dtype = expr.dtype_of(str(tensor.dtype).rpartition(".")[2])
    order = tuple([None if a in node.axes else next(kept) for a in range(len(node.whole))])
    return Input(tensor, dtype, roles, order=order)


def _weights(node: Reduce, outs: Sequence[Node]) -> list[Weighed]:
    """For each output, pairs of an argument and what its entries weigh in the output: None is 1.

    `outs` are the outputs, along the axes that were reduced.
    """
    name, (v, *more) = node.row.name, node.args
    if name == "sum":
        return [[(v, None)]]
    if name == "mean":
        return [[(v, Scalar(1 / max(node.outline.count, 1)))]]
    if name == "logsumexp":
        return [[_where_it_weighs(v, _softmax(v, outs[0]))]]
    if name == "softmax_sum":
        weight = _softmax(v, outs[1])
        none = ops.call("equal", outs[1], -np.inf)  # the quotient is 0 / 0
        gap = ops.call("where", none, 0.0, ops.call("subtract", more[0], outs[0]))
        of_scores = ops.call("multiply", weight, _conj(gap))
        first = [_where_it_weighs(v, of_scores), _where_it_weighs(more[0], weight)]
        return [first, [_where_it_weighs(v, weight)]]
    if name in ("var", "std"):
        return _deviations(node, v, outs)
    if name == "prod":
        return [[(v, _conj(_product_of_others(node, v)))]]
    return [[] for _ in outs]  # counts, places and truth do not change


def _conj(node: Node) -> Node:
    return ops.call("conj", node) if _is_complex(node) else node


def _is_floating(node: Node) -> bool:
    return node.dtype.kind == "f" or node.dtype.name == "bfloat16"


def _is_complex(node: Node) -> bool:
    return getattr(node.dtype, "kind", "") == "c"  # a Python number has no kind


def _softmax(scores: Node, total: Node) -> Node:
    """exp(scores - total), and 1 at most: scores are computed once more, maybe rounded in other
    ways. Of a row whose scores are all -inf it is 0, as in torch.logsumexp.
    """
    finite = ops.call("where", ops.call("equal", total, -np.inf), 0.0, total)
    gap = ops.call("subtract", scores, finite)
    return ops.call("exp", gap if _is_complex(gap) else ops.call("at_most_zero", gap))


def _where_it_weighs(v: Node, weight: Node) -> tuple[Node, Node | None]:
    """The same pair, with a value that does not change where its weight is 0, if its slope may
    have overflowed there.
    """
    if any(map(_has_poles, expr.walk(v))):
        v = ops.call("where", ops.call("equal", weight, 0), 0, v)
    return v, weight


def _has_poles(node: Node) -> bool:
    """Is it a division by something pairwise?"""
    if not isinstance(node, expr.Apply) or node.op.name not in POLES:
        return False
    base = node.args[node.op.name == "divide"]
    if sum(n != 1 for n in base.shape) < 2:
        return False
    power = node.args[-1]
    whole = isinstance(power, Scalar) and complex(power.value).real >= 0
    return node.op.name != "pow" or not whole


def _deviations(node: Reduce, v: Node, outs: Sequence[Node]) -> list[Weighed]:
    """Of the variance 2 (v - mean) / (n - correction); of its root, 0 where it is 0, as torch's."""
    n = node.outline.count
    left = max(n - parameter(node.params, "correction", 0), 0)
    gap = ops.call("subtract", v, outs[1])
    each: Any
    if not left:  # 0 / 0
        each = ops.call("multiply", outs[0], np.inf)
    elif node.row.name == "var":
        each = 2 / left
    else:
        flat = ops.call("equal", outs[0], 0)
        root = ops.call("where", flat, 1.0, ops.call("multiply", outs[0], float(left)))
        each = ops.call("where", flat, 0.0, ops.call("divide", 1.0, root))
    return [[(v, ops.call("multiply", gap, each))], [(v, Scalar(1 / max(n, 1)))]]


def _product_of_others(node: Reduce, v: Node) -> Node:
    """What each factor is multiplied by: right where some of them are 0 too."""
    zero = ops.call("equal", v, 0)
    safe = ops.call("where", zero, 1, v)
    zeros = _alike(node, "count_nonzero", zero)
    rest = _alike(node, "prod", safe)
    count, product = _spread(value(zeros), node), _spread(value(rest), node)
    alone = ops.call("where", ops.call("equal", count, 1), product, 0)
    among = ops.call("where", ops.call("equal", count, 0), ops.call("divide", product, safe), 0)
    return ops.call("where", zero, alone, among)


# -- what picks entries ----------------------------------------------------------------------------


def _picked(node: Reduce, outs: Outputs) -> Outputs:
    """The outputs with the value as entries at their places, computed by torch itself, which
    differentiates and maps that in every way.
    """
    names = _names(node)
    at_value = names.index("value")
    if not outs[at_value].is_floating_point():
        return outs
    place = outs[names.index("index")]
    arg = _with_finite_slopes(node.args[0])
    if node.row.name == "topk":
        entries = at(arg, node.axes, place)
    elif "share" not in names:
        entries = at(arg, node.axes, place[..., None])[..., 0]
    elif place.shape[-1]:
        share = outs[names.index("share")]
        entries = (at(arg, node.axes, place) * share).sum(-1)
    else:
        entries = _mean_of_equals(node, arg, outs[at_value])
    entries = entries.to(outs[at_value].dtype)
    if restriction.of(node) is not None:  # what no entry was picked for stays as it is
        nothing = outs[at_value] == reductions.neutral(node)[0]
        entries = torch.where(nothing, outs[at_value], entries)
    if any(isinstance(n, Concat) for n in expr.walk(arg)):
        entries = entries + _nothing_of(arg, entries)
    return tuple([entries if k == at_value else o for k, o in enumerate(outs)])


def _nothing_of(node: Node, like: torch.Tensor) -> torch.Tensor:
    """0, whose gradient by each tensor is 0: so a part that nothing was picked from has one."""
    out = like.new_zeros(())
    for one in expr.inputs(node):
        t = one.source
        if isinstance(t, torch.Tensor) and (t.is_floating_point() or t.is_complex()):
            out = out + t.reshape(-1)[:0].sum().real.to(like.dtype)
    return out


def _with_finite_slopes(node: Node) -> Node:
    """The same values, with the slope 0 where torch's own of a root is infinite, as in kernels: so
    a norm has the gradient 0 at coincident points.
    """
    done: dict[int, Node] = {}
    for one in expr.walk(node):
        args = [done[id(a)] for a in one.args]
        new = rewrite.rebuild(one, args) if args else one
        if isinstance(one, expr.Apply) and _is_root(one):
            zero = ops.call("equal", args[0], 0)
            safe = ops.call("where", zero, 1, args[0])
            new = ops.call("where", zero, 0, rewrite.rebuild(one, [safe, *args[1:]]))
        done[id(one)] = new
    return done[id(node)]


def _is_root(node: expr.Apply) -> bool:
    if not _is_floating(node):
        return False
    if node.op.name == "pow":
        power = node.args[1]
        return isinstance(power, Scalar) and 0 < power.value.real < 1
    return node.op.name == "sqrt"


def _mean_of_equals(node: Reduce, arg: Node, extreme: torch.Tensor) -> torch.Tensor:
    """The mean of all entries that equal the extreme one of their row."""
    hit = ops.call("equal", arg, _spread(extreme.detach(), node))
    count = value(_alike(node, "count_nonzero", hit))
    kept = ops.call("where", hit, arg, 0)
    total = value(_alike(node, "sum", kept))
    return total / count


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
    if plan.node.row.name in PICKS:
        return (None,) * len(outs)
    node, leaves = plan.of(tensors)
    found: list[torch.Tensor | None] = []
    results = [_spread(o, node) for o in outs]
    for weighed, out in zip(_weights(node, results), outs, strict=True):
        if not (out.is_floating_point() or out.is_complex()):
            found.append(None)
            continue
        total: torch.Tensor | None = None
        for arg, weight in weighed:
            for leaf, t in zip(leaves, tangents, strict=True):
                if t is not None and t.device != out.device:  # of a number on the CPU
                    t = t.to(out.device)
                for part in () if t is None else _along(node, out.dtype, arg, weight, leaf, t):
                    one = value(part).to(out.dtype).reshape(out.shape)
                    total = one if total is None else total + one
        found.append(torch.zeros_like(out) if total is None else total)
    return tuple(found)


def _along(
    node: Reduce,
    dtype: torch.dtype,
    arg: Node,
    weight: Node | None,
    leaf: Input,
    tangent: torch.Tensor,
) -> list[Reduce]:
    """sum of conj(weight) * d arg / d leaf . tangent: one reduction for each place of the leaf.

    `dtype` is that of the result, which is real or complex.
    """
    one = weight
    if one is None or isinstance(one, Scalar):
        number = torch.tensor(
            1.0 if one is None else one.value, dtype=tangent.dtype, device=tangent.device
        )
        one = Input(number, leaf.dtype, "")
    if one.ndim < len(node.whole):  # as long as the whole, so that places agree
        one = expr.Broadcast(one, node.whole, node.whole_roles)
    if any(_is_complex(n) or isinstance(n, Vjp) for n in expr.walk(arg, one)):
        return _along_twice(node, dtype, arg, one, leaf, tangent)
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
        arranged = tangent.permute((*order, *ones)).reshape(shape)
        roles = "".join(NEUTRAL if s == 1 else r for s, r in zip(shape, vjp.roles, strict=True))
        change = ops.call("multiply", vjp, Input(arranged, leaf.dtype, roles))
        axes = (*node.axes, *range(n, vjp.ndim))
        made = reductions.reduce(ROWS["sum"], (change,), axes)
        out.append(restriction.with_pairs(made, restriction.of(node)))
    return out


def _along_twice(
    node: Reduce,
    dtype: torch.dtype,
    arg: Node,
    weight: Node,
    leaf: Input,
    tangent: torch.Tensor,
) -> list[Reduce]:
    """The same as the gradient of a gradient: of sum of tangent * d (sum of u * weight * arg) /
    d leaf, with respect to u, one number for each entry of the result. What u is does not matter.
    """
    if not dtype.is_complex:
        dtype = tangent.dtype.to_real()
    zeros = torch.zeros((), dtype=dtype, device=tangent.device).expand(node.shape)
    spread = _spread(zeros, node)
    u = next(i for i in expr.inputs(spread))
    found = []
    for term in gradients.gradient(arg, ops.call("multiply", weight, spread), leaf, nested=False):
        (vjp,) = term.node.args
        kept = [n for n in leaf.shape if n != 1]
        arranged = tangent.reshape(kept).permute(_inverse(term.order))
        whole = _spread(arranged, term.node)
        for other in gradients.gradient(vjp, whole, u, nested=False):
            assert list(other.order) == sorted(other.order)
            found.append(restriction.with_pairs(other.node, restriction.of(node)))
    return found


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


evaluate.HOOKS["torch"] = value
