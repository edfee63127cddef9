"""Several sums over the same pairs, in one pass over them.

The gradients of one reduction are sums over the same pairs, of values that share most of their
work: distances, exponentials. Sums that keep the same axes become one kernel. One that keeps fewer
goes with them: the kernel keeps the others' axes for it too, and what it writes is added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from duckkeops import evaluate, launch_cuda, offload, plan, reductions, restriction, tensors
from duckkeops.config import Settings, current
from duckkeops.errors import CompilerNotFoundError
from duckkeops.expr import Concat, Joint, Node, Reduce, Vjp, walk
from duckkeops.launch import Launch
from duckkeops.operands import leading_input, namespace_of

MOST_OUTPUTS = 512  # of a row: more accumulators would leave the second cache
MOST_ON_DEVICE = 32  # of a row there: accumulators are registers
MOST_ADDED = 16 << 20  # bytes that a kernel writes for a sum, to be added up


@dataclass(frozen=True)
class Pass:
    """What one kernel computes: the places of the sums among those given, and for each of them the
    reduction in the kernel, which may keep more axes than the sum.
    """

    members: tuple[int, ...]
    parts: tuple[Reduce, ...]

    @property
    def outputs(self) -> int:
        """How many results a row has."""
        return sum(map(_width, self.parts))


def evaluate_jointly(nodes: Sequence[Reduce]) -> list[Any]:
    """The values of reductions, those that `passes` puts together each by one kernel.

    Each as `evaluate.evaluate` gives it, in the order of `nodes`. Other libraries' arrays, which
    may be differentiated, are reduced one by one; see `arrays`.
    """
    if all(reductions.is_numpy(namespace_of(n)) for n in nodes):
        return arrays(nodes)
    return [evaluate.evaluate(n) for n in nodes]


def arrays(nodes: Sequence[Reduce]) -> list[Any]:
    """The same as NumPy arrays, of NumPy arrays or of the entries of tensors on the CPU: no
    gradient passes through.
    """
    order, found = planned(nodes)
    threads = current().threads
    out: dict[int, Any] = {}
    for one in found:
        for k, axes, state in zip(one.members, one.added, one.launch(order, threads), strict=True):
            out[k] = finished(nodes[k], state, axes)
    return [out[k] if k in out else _alone(n) for k, n in enumerate(nodes)]


def _alone(node: Reduce) -> Any:
    if tensors.is_torch(node):
        xp = tensors.computing(node)
        return reductions.result(xp, node, evaluate.state(node, xp))
    return evaluate.evaluate(node)


@dataclass(frozen=True)
class Ready:
    """A pass that can be launched. What it gives for each of its members is to be added up along
    some axes. It holds no arrays.
    """

    launch: Launch
    members: tuple[int, ...]
    added: tuple[tuple[int, ...], ...]


_plans: dict[tuple, tuple[Ready, ...]] = {}


def planned(nodes: Sequence[Reduce]) -> tuple[list[Node], tuple[Ready, ...]]:
    """The passes of more than one of these reductions, and the nodes that their launches take."""
    settings = current()
    if len(nodes) < 2 or settings.engine == "blocks" or _differ(nodes):
        return [], ()
    key, order = evaluate.listed(Joint(tuple(nodes)))
    full = (settings.kernels, key)
    found = _plans.get(full)
    if found is None:
        try:
            found = _prepared(nodes, order, settings)
        except CompilerNotFoundError:
            return order, ()
        if len(_plans) >= evaluate.LAUNCHES:
            _plans.clear()
        _plans[full] = found
    return order, found


def _differ(nodes: Sequence[Reduce]) -> bool:
    """Are they restricted to different pairs? A key does not tell."""
    kept = [restriction.of(n) for n in nodes]
    return len({None if p is None else id(p.kept) for p in kept}) > 1


def _prepared(
    nodes: Sequence[Reduce], order: Sequence[Node], settings: Settings
) -> tuple[Ready, ...]:
    out = []
    on_host = launch_cuda.device_of(leading_input(nodes[0]).source) is None
    if on_host and offload.is_wanted(nodes[0], walk(nodes[0]), settings):
        return ()  # each is computed there by itself
    for one in passes(nodes):
        if len(one.members) > 1:
            root = Joint(one.parts)
            launch = evaluate.prepared(root, [*order, root, *one.parts], settings)
            pairs = zip(one.members, one.parts, strict=True)
            out.append(Ready(launch, one.members, tuple(_left(nodes[k], p) for k, p in pairs)))
    return tuple(out)


def _left(node: Reduce, part: Reduce) -> tuple[int, ...]:
    """The axes of the part's result that the node has not."""
    kept = [a for a in range(len(part.whole)) if a not in part.axes]
    return tuple(k for k, a in enumerate(kept) if a in node.axes)


def finished(node: Reduce, state: Any, axes: tuple[int, ...]) -> Any:
    """The value of a sum, from what its pass gives and the axes along which that is added up."""
    if type(state) is np.ndarray and state.dtype is node.dtype and not (axes or node.params):
        return state
    if not isinstance(state, np.ndarray | np.generic):
        xp = namespace_of(state)
        return reductions.result(xp, node, (xp.sum(state, axis=axes) if axes else state,))
    if axes:  # they become the last one, along which NumPy adds pairwise
        rows: Any = state
        if rows.ndim > 1:
            rest = [a for a in range(state.ndim) if a not in axes]
            shape = tuple(state.shape[a] for a in rest)
            rows = np.ascontiguousarray(rows.transpose(*rest, *axes)).reshape(*shape, -1)
        with np.errstate(all="ignore"):
            state = np.asarray(np.add.reduce(rows, -1, rows.dtype))
    return reductions.result(np, node, (state,))


# -- which sums go together ------------------------------------------------------------------------


def passes(nodes: Sequence[Reduce]) -> list[Pass]:
    """The passes over pairs that compute these reductions, each of which is in one of them.

    Sums share a pass if they have the same loop axes and compute in the same dtype. One that keeps
    fewer axes joins the narrowest pass whose axes it can keep.
    """
    loops = [_loops_of(n) if _may_share(n) else None for n in nodes]
    groups: dict[Any, list[Pass]] = {}
    alone = []
    for k in sorted(range(len(nodes)), key=lambda k: -_kept(nodes[k])):  # hosts first
        node, own = nodes[k], loops[k]
        single = Pass((k,), (node,))
        if own is None:
            alone.append(single)
            continue
        hosts = [
            (p.outputs, n, group, part)
            for n, (group, those) in enumerate(groups.items())
            for p in those[-1:]
            if (part := _part(node, p.parts[0], group)) is not None
            and p.outputs + _width(node) <= _most_outputs(node)
        ]
        if not hosts:
            groups.setdefault(own, []).append(single)
            continue
        _, _, group, part = min(hosts, key=lambda h: h[:2])
        last = groups[group][-1]
        groups[group][-1] = Pass((*last.members, k), (*last.parts, part))
    out = [p for those in groups.values() for p in those] + alone
    return sorted(out, key=lambda p: min(p.members))


def _may_share(node: Reduce) -> bool:
    """Is it a sum that a kernel computes as it is?"""
    nodes = walk(node)
    kinds = set(map(type, nodes))
    return (
        node.row.name == "sum"
        and not (0 in node.whole or Concat in kinds)
        and current().engine != "blocks"
        and (tensors.is_torch(node) or reductions.is_numpy(namespace_of(node)))
        and _loop(node).kind != "b"
        and _width(node) <= _most_outputs(node)
        and (Vjp in kinds or not evaluate.is_plain(node, nodes))
    )


def _most_outputs(node: Reduce) -> int:
    """How many results a row of one kernel may have: none where there is no kernel."""
    if launch_cuda.device_of(leading_input(node).source) is None:
        return MOST_OUTPUTS
    return MOST_ON_DEVICE if launch_cuda.has_kernel(node) else 0


def _loop(node: Reduce) -> np.dtype:
    """The dtype that the sum is taken in."""
    return node.row.types(tuple(a.dtype for a in node.args), node.params)[0][0]


def _width(node: Reduce) -> int:
    return math.prod(node.whole[a] for a in plan.loop_axes(node).features)


def _kept(node: Reduce) -> int:
    """How many loop axes are not reduced."""
    axes = plan.loop_axes(node)
    return len(axes.outer) + (axes.lane is not None and not axes.merged)


def _loops_of(node: Reduce) -> tuple:
    """What sums of one pass agree in."""
    axes = replace(plan.loop_axes(node), features=())
    all_axes = sorted({*axes.outer, *axes.columns, *(() if axes.lane is None else (axes.lane,))})
    lengths = tuple((a, node.whole[a], node.whole_roles[a]) for a in all_axes)
    return axes, lengths, reductions.computed(_loop(node)), node.row


def _part(node: Reduce, host: Reduce, group: tuple) -> Reduce | None:
    """The sum over the axes only that the host reduces; None if it cannot go along."""
    if _loops_of(node) == group:
        return node
    reduced = {a for a in host.axes if host.whole[a] != 1}
    axes = tuple(a for a in node.axes if a in reduced or node.whole[a] == 1)
    if not reduced <= set(axes):
        return None
    part = Reduce(node.row, node.args, axes, node.dtype, node.params)
    small = math.prod(part.shape) * part.dtype.itemsize <= MOST_ADDED
    return part if small and _loops_of(part) == group else None
