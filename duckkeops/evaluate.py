"""One reduction, from expression to numbers: axes, key, source, launch, finish.

An expression that was met before is launched at once: `listed` walks it, once, and what it finds is
the key of the launch. Another one may still share a kernel, whose key knows no lengths, and a
kernel that was built before needs no SymPy. What the library itself computes better is left to it:
expressions that no pair of rows enters, and empty ones.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duckkeops import (
    cache,
    concatenation,
    expr,
    launch,
    launch_cuda,
    offload,
    ops,
    plan,
    reductions,
    restriction,
    source,
    tensors,
)
from duckkeops.config import Settings, current
from duckkeops.engines import blocks, cpu, cuda
from duckkeops.errors import CompilerNotFoundError, UnsupportedError
from duckkeops.expr import (
    FEATURE,
    NEUTRAL,
    POINT,
    Apply,
    Broadcast,
    Concat,
    Input,
    Joint,
    Node,
    Reduce,
    Scalar,
    Vjp,
    is_constant,
    outlines,
    walk,
)
from duckkeops.importing import import_whole, undisturbed
from duckkeops.launch import Launch
from duckkeops.operands import leading_input, library, namespace_of

log = logging.getLogger("duckkeops")


HOOKS: dict[
    str, Callable[[Reduce, Sequence[int] | None], Any]
] = {}  # libraries that evaluate reductions in their own way


def evaluate(node: Reduce, order: Sequence[int] | None = None) -> Any:
    """The value of a reduction, an array of the inputs' library, its axes in this order; of a
    top-k, values and indices.
    """
    array = leading_input(node).source
    if type(array) is not np.ndarray:
        hook = HOOKS.get(library(array))
        if hook is not None:
            return hook(node, order)
    settings = current()
    key, nodes = listed(node)
    found = known(key, settings)
    xp = np if type(array) is np.ndarray else namespace_of(node)
    found_state = state(node, xp) if found is None else found(nodes, settings.threads)
    value = reductions.result(xp, node, found_state)
    if order is None:
        return value
    return value.transpose(order) if xp is np else xp.permute_dims(value, order)


def state(node: Reduce, xp: Any) -> tuple[Any, ...]:
    """The reduction's state, not finished: what partial results are merged from."""
    settings = current()
    node = tensors.on_one_device(node)  # type: ignore[assignment]
    nodes = walk(node)
    kinds = set(map(type, nodes))
    plain = 0 in (*node.whole, *node.shape) if Vjp in kinds else is_plain(node, nodes)
    device = launch_cuda.device_of(leading_input(node).source)
    compiled = launch_cuda.has_kernel(node) if device is not None else reductions.is_numpy(xp)
    if settings.engine == "blocks" or not compiled or plain:
        return _in_tiles(node)
    if device is None and offload.is_wanted(node, nodes, settings):
        return offload.state(node, state)
    if device is not None and settings.engine == "cpu":
        raise UnsupportedError(
            f"config(engine='cpu') computes on the CPU, and the inputs are on CUDA device {device}."
            "\n  Move them first, x.cpu() or cupy.asnumpy(x), or leave engine= away."
        )
    if Concat in kinds:
        return _cut_state(node, xp)
    node = for_kernels(node)
    if node.row.name in ("var", "std") and node.args[0].dtype.kind == "c":
        return _complex_var(node, xp)
    try:
        return _in_slabs(node, settings)
    except CompilerNotFoundError as error:
        if settings.engine == "cpu":
            raise
        _warn_no_compiler(error)
        return _in_tiles(node)


def _in_tiles(node: Reduce) -> tuple[Any, ...]:
    array = leading_input(node).source
    if tensors.is_tensor(array) and launch_cuda.device_of(array) is None:
        node = tensors.hosted(node)  # type: ignore[assignment]
    return blocks.reduce(node)


def is_compiled(node: Reduce) -> bool:
    """Would compiled C compute it, rather than the array library?"""
    return (
        current().engine != "blocks"
        and reductions.is_numpy(namespace_of(node))
        and not is_plain(node, walk(node))
        and cpu.is_available()
    )


def dense(node: Node) -> Any:
    """All entries of a node that is not virtual, computed by the array library itself."""
    return blocks.dense(node)


def to_dense(node: Node) -> Any:
    """All entries of any node, in tiles."""
    return blocks.to_dense(node)


PLAIN_ENTRIES = 1 << 16


def is_plain(node: Reduce, nodes: Sequence[Node]) -> bool:
    """Is there nothing pairwise in it: no step larger than the largest input? Or nothing at all?"""
    if 0 in node.whole or dict(node.params).get("k") == 0:
        return True
    largest, step, inputs = 1, math.prod(node.whole), 0
    for n in nodes:
        if n is node:
            continue
        if 0 in n.shape:
            return True
        if isinstance(n, Input):
            largest = max(largest, math.prod(n.shape))
            inputs += 1
        else:
            step = max(step, math.prod(n.whole if isinstance(n, Reduce) else n.shape))
    if step > PLAIN_ENTRIES and inputs > 1 and node.whole_roles.count(POINT) > 1:
        return False  # one row and many columns: a kernel stores no entries
    return step <= largest


_warned = False


def _warn_no_compiler(error: CompilerNotFoundError) -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning(
            "computing in tiles of the array library, often 100 times slower than compiled C: %s",
            error,
        )


# -- what kernels do not take as it is -------------------------------------------------------------


def for_kernels(node: Reduce) -> Reduce:
    """The reduction without an order of booleans, which C has not.

    Their min and max are all and any, and positions are found among 0 and 1.
    """
    row, loop = node.row, node.row.types(tuple(a.dtype for a in node.args), node.params)[0]
    if loop[0].kind != "b":
        return node
    other = {"min": "all", "max": "any", "sum": "any", "prod": "all"}.get(row.name)
    if other is not None:
        made = Reduce(reductions.BY_NAME[other], node.args, node.axes, node.dtype, ())
        return restriction.with_pairs(made, restriction.of(node))
    if row.name in ("argmin", "argmax", "topk"):
        args = tuple(expr.cast_to(a, np.dtype(np.uint8)) for a in node.args)
        return Reduce(row, args, node.axes, node.dtype, node.params)
    return node


def _complex_var(node: Reduce, xp: Any) -> tuple[Any, ...]:
    """The state of var and std of complex numbers, from two real ones.

    Real and imaginary parts deviate independently: the means are a complex number, the squares add
    up.
    """
    (z,) = node.args
    parts = []
    for part in ("real", "imag"):
        arg = ops.call(part, z)
        parts.append(
            state(Reduce(node.row, (arg,), node.axes, arg.dtype, _without_dtype(node.params)), xp)
        )
    (n, mean, m2), (_, mean_imag, m2_imag) = parts
    return n, mean + 1j * mean_imag, m2 + m2_imag


def _without_dtype(params: tuple) -> tuple:
    return tuple(p for p in params if p[0] != "dtype")


# -- concatenated parts ----------------------------------------------------------------------------


def _cut_state(node: Reduce, xp: Any) -> tuple[Any, ...]:
    """The state of a reduction over concatenated arrays.

    Kernels know no concatenation: each part is a reduction of its own, and states are joined or
    merged.
    """
    node = concatenation.without_cut_folds(node)  # type: ignore[assignment]
    cut = concatenation.cut(node)
    if cut is None:
        return state(node, xp)
    states = [state(part, xp) for part in cut.parts]
    if cut.axis in node.axes:
        return _merge_parts(node, cut.axis, cut.bounds, states, xp)
    place = [a for a in range(len(node.whole)) if a not in node.axes].index(cut.axis)
    return tuple(xp.concat(list(parts), axis=place) for parts in zip(*states, strict=True))


def _merge_parts(
    node: Reduce, axis: int, bounds: Sequence[int], states: list, xp: Any
) -> tuple[Any, ...]:
    """Merge along a reduced axis.

    Positions count within their part, and are moved to where the part lies.
    """
    names = [c[0] for c in reductions.components(node)]
    sizes = [node.whole[a] for a in node.axes]
    place = node.axes.index(axis)
    inner = math.prod(sizes[place + 1 :])
    out: Any = None
    for start, stop, part in zip(bounds, bounds[1:], states, strict=False):
        if "index" in names:
            k = names.index("index")
            flat = part[k]
            before, rest = flat // ((stop - start) * inner), flat % ((stop - start) * inner)
            moved = before * (sizes[place] * inner) + rest + start * inner
            part = (*part[:k], moved, *part[k + 1 :])
        if out is None:
            out = part
        elif "index" in names and place > 0:
            out = _merge_by_position(node, out, part, names.index("index"), xp)
        else:
            out = node.row.merge(xp, out, part, node.params)
    return out


def _merge_by_position(node: Reduce, a: tuple, b: tuple, k: int, xp: Any) -> tuple:
    """Merge where the parts' columns interleave.

    On ties the lower position wins, whichever part it is in.
    """
    if node.row.name == "topk":
        values, index = (xp.concat(pair, axis=-1) for pair in zip(a, b, strict=True))
        order = xp.argsort(index, axis=-1)
        both = tuple(reductions.along(xp, c, order) for c in (values, index))
        return node.row.merge(xp, both, tuple(c[..., :0] for c in both), node.params)
    ab, ba = node.row.merge(xp, a, b, node.params), node.row.merge(xp, b, a, node.params)
    return tuple(xp.where(ab[k] <= ba[k], x, y) for x, y in zip(ab, ba, strict=True))


# -- the key ---------------------------------------------------------------------------------------


def key_of(
    node: Reduce, axes: plan.LoopAxes, nodes: Sequence[Node]
) -> tuple[tuple, dict[int, int]]:
    """All that the kernel's text depends on, and the number of each node.

    Lengths of point and batch axes do not enter.
    """
    numbers: dict[int, int] = {}
    parts: list[Any] = [axes]
    roots = set(map(id, expr.together(node)))
    for n in nodes:
        numbers[id(n)] = len(numbers)
        args = tuple([numbers[id(a)] for a in n.args])
        if isinstance(n, Apply):
            parts.append((n.op.name, args, n.loop, n.dtype))
        elif isinstance(n, Input):
            parts.append((n.dtype, tuple([s == 1 for s in n.shape])))
        elif isinstance(n, Scalar):
            parts.append((type(n.value), n.value if is_constant(n.value) else None))
        elif type(n) is Joint:
            parts.append(args)
        elif isinstance(n, Reduce):
            static = _static(n, id(n) in roots)
            params = tuple([p for p in n.params if p[0] not in n.row.sizes])
            parts.append((n.row.name, args, n.axes, n.dtype, params, n.whole_roles, static))
        elif isinstance(n, Broadcast):
            parts.append((args, tuple([s == 1 for s in n.shape])))
        elif isinstance(n, Vjp):
            parts.append(_vjp_key(n, args, numbers))
        else:
            raise AssertionError(f"no kernel takes a {type(n).__name__}")
    return tuple(parts), numbers


def _vjp_key(n: Vjp, args: tuple, numbers: dict[int, int]) -> tuple:
    lengths = (n.whole[len(n.whole) - n.summed :], tuple(n.wrt.shape[a] for a in n.new))
    roles = (n.whole_roles[len(n.whole) - n.summed :], n.roles[n.ndim - len(n.new) :])
    static = tuple(
        s if r in (FEATURE, NEUTRAL) else s == 1
        for s, r in zip(sum(lengths, ()), "".join(roles), strict=True)
    )
    return args, numbers[id(n.wrt)], n.place, n.summed, roles, static, n.dtype


def _static(n: Reduce, root: bool) -> tuple:
    """The lengths that are constants of the kernel: folded features, and features of the result."""
    kept = (a for a in range(len(n.whole)) if a not in n.axes) if root else n.axes
    out = tuple(n.whole[a] for a in kept if n.whole_roles[a] in (FEATURE, NEUTRAL))
    return (*out, tuple(s == 1 for s in n.whole))


# -- kernels ---------------------------------------------------------------------------------------


@dataclass
class Built:
    """A kernel as it is kept: text, and how to fill its argument array.

    It is compiled when first launched.
    """

    text: str
    formula: str
    entries: tuple[tuple, ...]
    rows: int
    lane_bytes: int
    fixed_columns: bool
    components: tuple[
        tuple[np.dtype, tuple[int, ...]], ...
    ]  # dtype and trailing shape of each output array
    block: tuple[int, int] | None = None  # of CUDA's: threads, and rows of theirs
    ordered: bool = False  # no product and sum are fused into one rounding, whatever the precision
    limit: tuple[float, float] | None = None  # of CUDA's: limits.of
    compiled: cpu.Compiled | None = None


_kernels: dict[tuple, Built] = {}


def built(
    node: Reduce,
    axes: plan.LoopAxes,
    nodes: Sequence[Node],
    settings: Settings,
    before: Callable[[], object] = lambda: None,
    target: Any = None,
) -> Built:
    """The kernel of this reduction: from memory, from disk, or made now.

    `before` is called before it is made, which imports SymPy. `target`: the CPU's, unless given.
    """
    key, numbers = key_of(node, axes, nodes)
    wide = math.prod(node.whole[a] for a in axes.columns) >= 2**31
    target = target or cpu.target()
    on_device = target is cuda.TARGET
    few = plan.rows_at_once(node, axes) if on_device else plan.few_rows(node, axes)
    full = (key, settings.precision, settings.accumulate, wide, few, target.name)
    found = _kernels.get(full)
    if found is None:

        def make(part: Path) -> None:
            before()
            import_whole("duckkeops.generate")  # which imports SymPy
            from duckkeops import generate

            part.write_text(
                json.dumps(generate.kernel(node, axes, numbers, settings, wide, target))
            )

        name = f"{cache.digest(_version(), repr(full))}.json"
        found = _kernels[full] = _read(cache.text(name, make))
    return found


@functools.cache
def _version() -> str:
    """Everything that generates text, so that a new release or an edit never meets an old
    source.
    """
    files = sorted(source.HERE.glob("*.py")) + sorted(source.kernels_folder().glob("*.[ch]*"))
    return cache.digest(_sympy_version(), *(f.read_text() for f in files))


def _sympy_version() -> str:
    """Read from its file: to ask importlib.metadata takes 30 ms, SymPy itself ten times that."""
    spec = undisturbed(lambda: importlib.util.find_spec("sympy"))
    if spec is not None and spec.origin is not None:
        try:
            return Path(spec.origin).with_name("release.py").read_text()
        except OSError:
            pass
    from importlib import metadata

    return metadata.version("sympy")


def _read(text: str) -> Built:
    d = json.loads(text)
    entries = tuple(tuple(e) for e in d["entries"])
    components = tuple((expr.dtype_of(name), tuple(extra)) for name, extra in d["components"])
    return Built(
        source.assemble(d["prelude"], "pairs.cu" if d["block"] else "pairs.c"),
        d["formula"],
        entries,
        d["rows"],
        d["lane_bytes"],
        d["fixed_columns"],
        components,
        None if d["block"] is None else tuple(d["block"]),
        d["ordered"],
        None if d["limit"] is None else tuple(d["limit"]),
    )


# -- launches --------------------------------------------------------------------------------------

_launches: dict[tuple, Launch] = {}
LAUNCHES = 4096  # kept at most; then all are forgotten


def listed(root: Node) -> tuple[tuple, list[Node]]:
    """What tells an expression from all others, and its nodes, the root first.

    The former are the root's outline, which says those of all arguments of operations and
    reductions, the constants among the numbers, and where a node is met again: after how many
    others, and which it is.
    """
    parts: list[Any] = [root.outline]
    nodes, places, count = [root], {root: 0}, 1
    for node in nodes:  # which grows meanwhile
        kind, args = type(node), node._args
        if kind is Apply or kind is Input:
            pass
        elif kind is Reduce:
            parts.append(node.params)  # type: ignore[attr-defined]
        elif kind is Scalar:
            parts.append(node.value if is_constant(node.value) else None)  # type: ignore[attr-defined]
        elif kind is Vjp:
            args = (*args, node.wrt)  # type: ignore[attr-defined]
            parts.append((node.place, node.summed, *outlines(args)))  # type: ignore[attr-defined]
        else:
            parts.append(outlines(args))
        for a in args:
            if a in places:
                parts.append((count, places[a]))
            else:
                places[a] = count
                nodes.append(a)
                count += 1
    return tuple(parts), nodes


def known(key: tuple, settings: Settings) -> Launch | None:
    """The launch of an expression that was met before, where a kernel may compute it."""
    if settings.engine == "blocks":
        return None
    return _launches.get((settings.kernels, key))


def prepared(node: Reduce, nodes: Sequence[Node], settings: Settings) -> Any:
    """The launch of the node's kernel, which will be given `nodes`."""
    order = walk(node)
    number = launch_cuda.device_of(leading_input(node).source)
    if number is not None:
        return _prepared_on_device(node, order, nodes, settings, number)
    kernel = built(node, plan.loop_axes(node), order, settings, cpu.compiler)
    if kernel.compiled is None:
        exact = settings.precision == "exact" or kernel.ordered
        kernel.compiled = cpu.load(kernel.text, kernel.formula, exact)
    return launch.prepare(kernel, node, order, nodes)


def _prepared_on_device(
    node: Reduce, order: Sequence[Node], nodes: Sequence[Node], settings: Settings, number: int
) -> launch_cuda.Launch:
    kernel = built(
        node,
        plan.loop_axes(node),
        order,
        settings,
        lambda: cuda.device(number),
        cuda.TARGET,
    )
    exact = settings.precision == "exact" or kernel.ordered
    compiled = cuda.load(kernel.text, kernel.formula, exact, number)
    return launch_cuda.prepare(kernel, compiled, node, order, nodes)


def _prepared(key: tuple, node: Reduce, nodes: Sequence[Node], settings: Settings) -> Launch:
    found = prepared(node, nodes, settings)
    if len(_launches) >= LAUNCHES:
        _launches.clear()
    _launches[settings.kernels, key] = found
    return found


def _in_slabs(node: Reduce, settings: Settings) -> tuple[np.ndarray, ...]:
    """The state, of some rows after the other where the tables of a histogram are large."""
    rows, axis = plan.histogram_rows(node)
    if axis is None or rows >= node.whole[axis]:
        return _launched(node, settings)
    out: Any = None
    for start in range(0, node.whole[axis], rows):
        stop = min(start + rows, node.whole[axis])
        part = _launched(concatenation.slice_of(node, axis, start, stop), settings)
        out = part if out is None else node.row.merge(np, out, part, node.params)
    return out


def _launched(node: Reduce, settings: Settings) -> tuple[np.ndarray, ...]:
    """The state that a kernel computes."""
    key, nodes = listed(node)
    found = known(key, settings) or _prepared(key, node, nodes, settings)
    return found(nodes, settings.threads)
