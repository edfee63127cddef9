"""A reduction's kernel, from its nodes.

They become a symbolic program, which is lowered, printed and put above the skeleton. Imports SymPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from duckkeops import plan, restriction
from duckkeops.config import Settings
from duckkeops.expr import Input, Node, Reduce, Table, together, walk
from duckkeops.lower import LANE, Root
from duckkeops.prelude import Axes, Kernel, Prelude
from duckkeops.printer import formula, lane_bytes, suffix
from duckkeops.symbolic import COLUMN_LETTERS, Translator, compute_dtype

INT32, INT64, BOOL = np.dtype(np.int32), np.dtype(np.int64), np.dtype(bool)


def kernel(
    node: Reduce,
    axes: plan.LoopAxes,
    numbers: dict[int, int],
    settings: Settings,
    wide: bool,
    target: Any,
) -> dict[str, Any]:
    """The generated part of the kernel's text and how to call it, as JSON takes it."""
    out, title, types = prelude(node, axes, numbers, settings, wide, target)
    return {
        "prelude": out.prelude,
        "formula": title.splitlines()[0],
        "entries": out.layout.entries,
        "rows": out.rows,
        "lane_bytes": out.lanes_bytes,
        "fixed_columns": out.fixed_columns,
        "components": [(t.name, extra) for t, extra in types.components],
        "block": out.block,
        "ordered": out.ordered,
        "limit": out.limit,
    }


def prelude(
    node: Reduce,
    axes: plan.LoopAxes,
    numbers: dict[int, int],
    settings: Settings,
    wide: bool,
    target: Any,
) -> tuple[Kernel, str, _types]:
    """The generated part alone.

    It is the prelude with its layout, the formula in words, and the scalar types.
    """
    translator = Translator(walk(node))
    program = translator.program
    names, named = _names(node, axes, program)
    every = together(node)
    on_device = target.name == "cuda"
    types = _types(every[0], settings, wide, on_device)
    roots: list[Root] = []
    values: list[Any] = []
    for one in every:
        own = _roots(one, names, translator, types)
        roots += own[0]
        values += own[1]
    loop_axes = Axes(
        {names[a]: a for a in axes.outer}, (LANE, -1 if axes.lane is None else axes.lane), named
    )
    macros = _macros(every[0], types, walk(node)) | _binning(node, axes)
    narrow = plan.few_rows(node, axes) or dict(node.params).get("k", 0) > plan.LARGE_K
    if restriction.of(every[0]) is not None:
        macros["RESTRICTED"] = "1"
    if settings.precision != "exact":
        macros["FLUSH_SUBNORMALS"] = "1"
    title = _title(node, program, values, named)
    if on_device:
        few = plan.rows_at_once(node, axes)
        tile = plan.cuda_tile(node, walk(node), few)
    else:
        few, tile = None, plan.tile_shape(target.registers, narrow, plan.is_dear(walk(node)))
    out = Prelude(
        program,
        loop_axes,
        roots,
        SECTION.get(node.row.name) or node.row.name,
        macros,
        [
            types.value,
            types.sum,
            *([types.index] if types.uses_index else []),
            *(r.dtype for r in roots),
        ],
        tile,
        title,
        settings.precision != "exact",
        _parameters(program, node, numbers),
        _storage(node, numbers),
        0 if on_device else target.vector_bytes,
        next((numbers[id(a)] for a in node.args if isinstance(a, Table)), None),
        few,
        restriction.of(every[0]) is not None,
    ).text()
    widths = [math.prod(one.whole[a] for a in plan.loop_axes(one).features) for one in every]
    assert out.outputs == sum(widths)
    return out, title, types


SECTION = {"std": "var"}


def _roots(
    node: Reduce, names: dict[int, str], translator: Translator, types: _types
) -> tuple[list[Root], list[Any]]:
    """What the kernel reduces, the weights first, and the arguments' values.

    `names` are those of the loop axes.
    """
    names, features = dict(names), plan.loop_axes(node).features
    for a in features:
        names[a] = translator.program.feature(node.whole[a], names.values())
    whole = tuple(names.get(a) for a in range(len(node.whole)))
    args = [
        (a, t) for a, t in zip(node.args, _loops(node), strict=True) if not isinstance(a, Table)
    ]
    values = [translator.argument(a, whole[len(whole) - a.ndim :], t) for a, t in args]
    if node.row.name == "histogram":
        kinds = [compute_dtype(t) for _, t in reversed(args)]
        return [Root(v, t, ()) for v, t in zip(reversed(values), kinds, strict=True)], values
    last = Root(values[-1], types.value, tuple(names[a] for a in features))
    return [*(Root(v, types.value, ()) for v in values[:-1]), last], values


def _loops(node: Reduce) -> tuple[np.dtype, ...]:
    """The dtypes that the reduction takes its arguments in."""
    return node.row.types(tuple(a.dtype for a in node.args), node.params)[0]


def _names(
    node: Reduce, axes: plan.LoopAxes, program: Any
) -> tuple[dict[int, str], dict[str, int]]:
    """Index names of the loop axes, and the columns' names and positions.

    If there is no column, a dummy one of one entry stands in for it.
    """
    names: dict[int, str] = {}
    for n, a in enumerate(axes.outer):
        names[a] = f"o{n}"
        program.sizes[f"o{n}"] = None
    program.sizes[LANE] = None
    if axes.lane is not None:
        names[axes.lane] = LANE
    columns: dict[str, int] = {}
    for n, a in enumerate(axes.columns or (-1,)):
        name = COLUMN_LETTERS[n] if n < len(COLUMN_LETTERS) else f"j{n}"
        program.sizes[name] = None
        columns[name] = a
        if a >= 0 and node.whole[a] != 1:
            names[a] = name
    return names, columns


class _types:
    """The scalar types of a reduction in C."""

    def __init__(self, node: Reduce, settings: Settings, wide: bool, on_device: bool):
        self.value = compute_dtype(_loops(node)[-1])  # of a histogram, the dtype of its table
        self.index = INT64 if wide else INT32
        self.stored = INT64 if on_device else self.index  # positions in memory
        name = node.row.name
        self.uses_index = name in ("argmin", "argmax", "topk", "count_nonzero")
        self.sum = self.value
        self.compensated = False
        if name in ("sum", "mean", "prod", "var", "std"):
            if settings.accumulate == "float64" and self.value.kind in "fc":
                self.sum = np.dtype(np.complex128 if self.value.kind == "c" else np.float64)
            self.compensated = (
                settings.accumulate == "compensated"
                and name in ("sum", "mean")
                and self.value.kind == "f"
            )
        elif name == "count_nonzero":
            self.sum = self.stored
        self.count = np.dtype(np.float64) if len(node.args) == 3 else INT64  # of a histogram
        k = dict(node.params).get("k")
        if k and on_device:
            k = min(k, plan.LONGEST_LIST)
        self.components = self._components(name, k)

    def _components(self, name: str, k: int | None) -> list[tuple[np.dtype, tuple[int, ...]]]:
        v, s, j = (self.value, ()), (self.sum, ()), (self.stored, ())
        return {
            "argmin": [v, j],
            "argmax": [v, j],
            "any": [(BOOL, ())],
            "all": [(BOOL, ())],
            "min": [v],
            "max": [v],
            "logsumexp": [v, v],
            "softmax_sum": [v, v, v],
            "var": [s, s, s],
            "std": [s, s, s],
            "topk": [(self.value, (k or 0,)), (self.stored, (k or 0,))],
            "histogram": [(self.count, ())],
        }.get(name, [s])


def _macros(node: Reduce, types: _types, nodes: list[Node]) -> dict[str, str]:
    v, s = suffix(types.value), suffix(types.sum)
    out = {
        "VAL": v,
        "ACC": s,
        "IDX": suffix(types.index),
        "VAL_BYTES": str(lane_bytes(types.value)),
        "COMPONENTS": str(len(types.components)),
    }
    for n, (t, extra) in enumerate(types.components):
        out[f"OUT{n}_BYTES"] = str(t.itemsize * math.prod(extra))
    out["TO_ACC(v)"] = "(v)" if v == s else f"{s}_from_{v}(v)"
    for name, on in (
        ("VAL_BOOL", types.value.kind == "b"),
        ("ACC_BOOL", types.sum.kind == "b"),
        ("VAL_IS_FLOAT", types.value.kind == "f"),
        ("ACC_COMPLEX", types.sum.kind == "c"),
        ("COMPENSATED", types.compensated),
        (
            "USE_COMPLEX",
            any(
                n.dtype is not None
                and getattr(n.dtype, "kind", "c" if n.dtype is complex else "") == "c"
                for n in nodes
            ),
        ),
    ):
        if on:
            out[name] = "1"
    if node.row.name == "topk":
        params = dict(node.params)
        (k,) = types.components[0][1]
        out["TOPK"], out["LARGEST"] = str(k), str(int(params.get("largest", False)))
        if k < params["k"]:
            out["AFTER"] = "1"
    return out


def _binning(node: Reduce, axes: plan.LoopAxes) -> dict[str, str]:
    """What the kernel of a histogram is told besides."""
    if node.row.name != "histogram":
        return {}
    out = {f"BIN_BY_{dict(node.params)['how']}": "1", "COUNT": "i64"}
    if len(node.args) == 3:
        out["COUNT"] = "f64"
        small = node.args[1].dtype.name == "float32"
        out["WEIGHT"] = "f32" if small else "f64"
    if plan.rows_apart(axes):
        out["ROWS_APART"] = "1"
    return out


def _parameters(program: Any, node: Reduce, numbers: dict[int, int]) -> dict[str, np.dtype]:
    """Python numbers that are parameters of the kernel."""
    return {base: program.types[base] for base in program.inputs if base.startswith("p")}


def _storage(node: Reduce, numbers: dict[int, int]) -> dict[int, np.dtype]:
    """How each input lies in memory."""
    return {numbers[id(n)]: n.dtype for n in walk(node) if isinstance(n, Input)}


def _title(node: Reduce, program: Any, values: list[Any], columns: dict[str, int]) -> str:
    """What is computed, for the first lines of the source."""
    over = ", ".join(columns)
    value = ", ".join(formula(program, v) for v in values)
    lines = [f"{node.row.name} over {over} of {value}"]
    kinds = {number: n for number, n in enumerate(walk(node)) if isinstance(n, Input)}
    for base, (number, _) in sorted(program.inputs.items(), key=lambda item: item[1][0]):
        n = kinds.get(number)
        lines.append(
            f"  {base}: {program.types[base].name} number"
            if n is None
            else f"  {base}: {n.dtype.name}, {n.ndim} axes"
        )
    return "\n".join(lines)
