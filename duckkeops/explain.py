"""What a reduction would do: its source, its loops, its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from duckkeops import evaluate, expr, plan, reductions
from duckkeops.config import current
from duckkeops.engines import cpu, threads
from duckkeops.expr import FEATURE, NEUTRAL, Node, Reduce


def _example(node: Node) -> Reduce:
    """A reduction to describe.

    It is the node itself if that removes a point axis, else the sum over its last point axis.
    """
    if isinstance(node, Reduce) and not {node.whole_roles[a] for a in node.axes} <= {
        FEATURE,
        NEUTRAL,
    }:
        return node
    points = [a for a, r in enumerate(node.roles) if r == expr.POINT]
    axis = points[-1] if points else node.ndim - 1
    return reductions.reduce(reductions.BY_NAME["sum"], (node,), (axis,))


def source_of(node: Node) -> str:
    """The generated C of a reduction, with its skeleton."""
    reduce_node = evaluate.for_kernels(_example(node))
    return evaluate.built(
        reduce_node, plan.loop_axes(reduce_node), expr.walk(reduce_node), current()
    ).text


def explain(node: Node) -> str:
    """Roles, loops, tile shape: how a reduction would be computed."""
    root = evaluate.for_kernels(_example(node))
    axes = plan.loop_axes(root)
    kernel = evaluate.built(root, axes, expr.walk(root), current())
    target = cpu.target()
    lanes = target.vector_bytes // kernel.lane_bytes
    names = ", ".join(
        f"{n}: {expr.ROLE_NAMES[r]}" for n, r in zip(root.whole, root.whole_roles, strict=True)
    )
    outer, columns, features = (
        [root.whole[a] for a in part] for part in (axes.outer, axes.columns, axes.features)
    )
    rows = 1 if axes.lane is None else root.whole[axes.lane]
    lines = [
        f"{kernel.formula}",
        f"axes       {names}",
        f"loops      outer {outer}, rows {rows}, columns {columns}, features {features}",
        "strategy   pairs, on the CPU"
        if not evaluate.is_plain(root, expr.walk(root))
        else "strategy   the array library itself: nothing pairwise in it",
        f"tile       {kernel.rows} vectors of {lanes} rows, {target.name}",
        f"work       {_estimate_text(root, lanes)}",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Estimate:
    """What a reduction would cost: pairs visited, seconds, and bytes of inputs and result."""

    pairs: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.pairs:.3g} pairs, about {self.seconds:.2g} s, "
            f"{self.bytes:.3g} bytes of inputs and result"
        )


def estimate(node: Node) -> Estimate:
    """Pairs, seconds (a rough guess) and bytes of a reduction."""
    root = _example(node)
    lanes = max(cpu.target().vector_bytes // max(root.args[0].dtype.itemsize, 4), 1)
    size = (
        sum(math.prod(n.shape) * n.dtype.itemsize for n in expr.inputs(root))
        + math.prod(root.shape) * root.dtype.itemsize
    )
    return Estimate(
        plan.pairs(root),
        plan.seconds(root, expr.walk(root), lanes, threads.thread_count(current().threads)),
        size,
    )


def _estimate_text(root: Reduce, lanes: int) -> str:
    count = threads.thread_count(current().threads)
    seconds = plan.seconds(root, expr.walk(root), lanes, count)
    return f"{plan.pairs(root):.3g} pairs, about {seconds:.2g} s on {count} threads"
