"""What a reduction would do: its source, its loops, its cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from duckkeops import (
    concatenation,
    evaluate,
    expr,
    gradients,
    joint,
    launch_cuda,
    plan,
    reductions,
    restriction,
    source,
    views,
)
from duckkeops.config import config, current
from duckkeops.engines import cpu, cuda, threads
from duckkeops.expr import FEATURE, NEUTRAL, Input, Node, Reduce
from duckkeops.operands import leading_input, namespace_of, units
from duckkeops.progress import duration
from duckkeops.tensors import hosted


def _example(node: Node) -> Reduce:
    """A reduction to describe.

    It is the node itself if that removes a point axis, else the sum over its last point axis.
    """
    if isinstance(node, Reduce) and not {node.whole_roles[a] for a in node.axes} <= {
        FEATURE,
        NEUTRAL,
    }:
        return restriction.bound(node)
    points = [a for a, r in enumerate(node.roles) if r == expr.POINT]
    axis = points[-1] if points else node.ndim - 1
    return restriction.bound(reductions.reduce(reductions.BY_NAME["sum"], (node,), (axis,)))


def _device(node: Node) -> int | None:
    """The number of the CUDA device that the inputs lie on."""
    return launch_cuda.device_of(leading_input(node).source)


def _local(node: Node) -> Node:
    """The expression of arrays that can be described: those of a device stay there."""
    return node if _device(node) is not None else hosted(node)


def source_of(node: Node, generated: bool = False) -> str:
    """The C of a reduction, of a block array that of each of its kernels; `generated`: only what is
    not in the files of kernels/.
    """
    target = cpu.target() if _device(node) is None else cuda.TARGET
    blocks = map(evaluate.for_kernels, concatenation.blocks_of(_example(_local(node))))
    texts = (
        evaluate.built(b, plan.loop_axes(b), expr.walk(b), current(), target=target).text
        for b in blocks
        if 0 not in b.whole
    )
    return "\n".join(source.generated(t) if generated else t for t in dict.fromkeys(texts))


def explain(node: Node) -> str:
    """Axes, loops, tile shape: how a reduction would be computed, and the gradients of a sum."""
    wanted = [getattr(i.source, "requires_grad", False) for i in expr.inputs(node)]
    whole = _example(_local(node))
    blocks = concatenation.blocks_of(whole)
    if len(blocks) > 1:
        lengths = [concatenation.lengths_along(whole, a) for a in range(len(whole.whole))]
        sums = (" + ".join(map(str, n)) for n in lengths if sum(n) != 1)
        cut = " x ".join(f"({s})" if "+" in s else s for s in sums)
        largest = max(blocks, key=lambda b: math.prod(b.whole))
        return f"blocks     {cut}: {len(blocks)} reductions, of which the largest is\n" + explain(
            largest
        )
    root = evaluate.for_kernels(blocks[0])
    axes = plan.loop_axes(root)
    number = _device(root)
    if number is not None:
        return _explain_on_device(root, axes, number)
    kernel = evaluate.built(root, axes, expr.walk(root), current())
    target = cpu.target()
    vectors = f"{kernel.rows} vectors of {target.vector_bytes // kernel.lane_bytes} rows"
    count = threads.thread_count(current().threads, namespace_of(root))
    lines = [f"{kernel.formula}", f"axes       {_axes(root)}"]
    if evaluate.is_plain(root, expr.walk(root)):
        lines.append("strategy   the array library itself: nothing pairwise in it")
    elif not evaluate.is_compiled(root):
        why = "engine='blocks'" if current().engine == "blocks" else "there is no C compiler"
        lines.append(f"strategy   tiles of the array library: {why}")
    else:
        lines += [
            f"loops      {_loops(root, axes)}",
            "strategy   pairs, on the CPU",
            f"tile       {vectors}, {target.name}, {_counted(count, 'thread')}",
        ]
    lines.append(f"work       {_work(root)}; estimate() tells the time")
    differentiable = root.row.name == "sum" and len(expr.inputs(root)) == len(wanted)
    if any(wanted) and differentiable and evaluate.is_compiled(root):
        lines += ["gradients", _gradients(root, wanted)]
    return "\n".join(lines)


def _explain_on_device(root: Reduce, axes: plan.LoopAxes, number: int) -> str:
    nodes, where = expr.walk(root), cuda.device(number)
    kernel = evaluate.built(root, axes, nodes, current(), target=cuda.TARGET)
    lines = [f"{kernel.formula}", f"axes       {_axes(root)}"]
    if evaluate.is_plain(root, nodes):
        lines.append("strategy   the array library itself: nothing pairwise in it")
    elif current().engine == "blocks":
        lines.append("strategy   tiles of the array library: engine='blocks'")
    else:
        assert kernel.block is not None
        lines += [
            f"loops      {_loops(root, axes)}",
            f"strategy   pairs, on device {number}, a {where.name}",
            f"tile       blocks of {kernel.block[0]} threads and {kernel.rows} rows, "
            f"sm_{where.architecture}",
        ]
        if kernel.limit is not None and restriction.of(root) is None:
            most = plan.most_pairs(kernel.limit, where.processors, where.clock)
            plain, special = kernel.limit
            lines.append(
                f"limit      {plain:.3g} instructions and {special:.3g} special functions a pair: "
                f"{most / 1e9:.0f} Gpairs/s"
            )
    seconds = plan.cuda_seconds(root, nodes, where.processors, where.clock)
    seconds *= restriction.unrestricted(root)[1]
    return "\n".join([*lines, f"work       {_work(root)}, about {duration(seconds)}"])


def _work(root: Reduce) -> str:
    pairs, (_, share) = plan.pairs(root), restriction.unrestricted(root)
    if restriction.of(root) is None:
        return f"{pairs:.3g} pairs"
    return f"{pairs * share:.3g} pairs, {share:.3g} of {pairs:.3g}, in blocks"


def _gradients(root: Reduce, wanted: Sequence[bool]) -> str:
    """The passes of the backward pass of a sum, with respect to these of its inputs."""
    roles = "".join(r for a, r in enumerate(root.whole_roles) if a not in root.axes)
    zeros = np.broadcast_to(np.zeros((), root.dtype), root.shape)
    each = views.expand(Input(zeros, root.dtype, roles), root.axes)
    names, nodes = [], []
    for number, leaf in enumerate(expr.inputs(root)):
        for term in gradients.gradient(root.args[0], each, leaf) if wanted[number] else ():
            names.append(f"x{number}")
            nodes.append(term.node)
    return explain_passes(nodes, names)


def explain_passes(nodes: Sequence[Reduce], names: Sequence[str]) -> str:
    """Which reductions, by their names, are computed in one pass over the pairs: a line a pass."""
    lines = []
    for number, one in enumerate(joint.passes(nodes), 1):
        loops = _loops(one.parts[0], replace(plan.loop_axes(one.parts[0]), features=()))
        results = f", with {_counted(one.outputs, 'result')} a row"
        text = f"pass {number}     {', '.join(names[k] for k in one.members)}: {loops}{results}"
        pairs = zip(one.members, one.parts, strict=True)
        if added := [names[k] for k, part in pairs if part is not nodes[k]]:
            text += f"; those of {' and '.join(added)} are merged at the end"
        lines.append(text)
    return "\n".join(lines)


def _axes(root: Reduce) -> str:
    """What each axis is, and whether it is reduced: "1000 points, 2000 points (reduced)"."""
    names = (
        f"{_counted(n, expr.ROLE_NAMES[role] if role != NEUTRAL else 'entry')}"
        f"{' (reduced)' if a in root.axes else ''}"
        for a, (n, role) in enumerate(zip(root.whole, root.whole_roles, strict=True))
    )
    return ", ".join(names)


def _loops(root: Reduce, axes: plan.LoopAxes) -> str:
    """How often what is done, from the outermost loop to the innermost."""

    def size(part: tuple[int, ...]) -> str:
        return " x ".join(str(root.whole[a]) for a in part)

    text = _counted(1 if axes.lane is None else root.whole[axes.lane], "row")
    if axes.outer:
        text = f"{size(axes.outer)} times {text}"
    if axes.columns:
        text += f", each over {size(axes.columns)} columns"
    if axes.features:
        text += f", with {size(axes.features)} results a row"
    return f"{text}; the rows are merged at the end" if axes.merged else text


def _counted(count: int, one: str) -> str:
    many = {"entry": "entries", "batch": "batches"}.get(one, f"{one}s")
    return f"{count} {one if count == 1 else many}"


@dataclass(frozen=True)
class Estimate:
    """What a reduction would cost: pairs visited, seconds, and bytes of inputs and result."""

    pairs: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.pairs:.3g} pairs, about {duration(self.seconds)}, "
            f"{units(self.bytes)} of inputs and result"
        )


def estimate(node: Node) -> Estimate:
    """Pairs, seconds and bytes of a reduction. The seconds are of this machine: a part of the
    reduction is computed for a few milliseconds, after it was compiled.
    """
    root = _example(_local(node))
    size = (
        sum(math.prod(n.shape) * n.dtype.itemsize for n in expr.inputs(root))
        + math.prod(root.shape) * root.dtype.itemsize
    )
    root, share = restriction.unrestricted(root)
    return Estimate(round(plan.pairs(root) * share), _seconds(root) * share, size)


PROBE_SECONDS = 4e-3
PROBE = (2, 256, 2048)  # the first part: entries of outer axes, rows, columns


def _seconds(root: Reduce) -> float:
    """Wall time on an idle machine, from that of a part with more and more columns, then rows.

    On a device it is that of the cost model, which asks nothing of it.
    """
    if (number := _device(root)) is not None:
        where = cuda.device(number)
        return plan.cuda_seconds(root, expr.walk(root), where.processors, where.clock)
    axes = plan.loop_axes(evaluate.for_kernels(root))
    groups = [axes.outer, () if axes.lane is None else (axes.lane,), axes.columns]
    limits = dict.fromkeys(groups[0], PROBE[0]) | dict.fromkeys(groups[1], PROBE[1])
    limits |= dict.fromkeys(groups[2], PROBE[2])
    in_c = evaluate.is_compiled(root)
    clock = time.thread_time if in_c else time.perf_counter
    while True:
        part = root
        for axis, limit in limits.items():
            if limit < root.whole[axis]:
                part = concatenation.slice_of(part, axis, 0, limit)
        with config(threads=1, progress=False):
            spent = min(_time(part, clock) for _ in range(3))  # the first one compiles
        left = [[a for a in group if part.whole[a] < root.whole[a]] for group in groups]
        growing = left[2] or left[1] or left[0]
        if spent >= PROBE_SECONDS or not growing:
            break
        for axis in growing:
            limits[axis] *= 4
    alone = spent * plan.pairs(root) / plan.pairs(part)
    if not in_c:
        return alone
    count = threads.thread_count(current().threads)
    return alone / max(1, min(count, alone / plan.INLINE_SECONDS))


def _time(node: Reduce, clock: Callable[[], float]) -> float:
    start = clock()
    evaluate.state(node, namespace_of(node))
    return clock() - start
