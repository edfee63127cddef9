"""Scalar programs evaluated by an array library: how expressions with derivatives are computed
where there is no compiler.

An expression becomes a symbolic program, and that temporaries of one operation each, as for a
kernel. Here each is an array operation. All arrays have one axis for each index of the program, of
length 1 where they do not depend on it, so that every operation broadcasts. Imports SymPy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy

from duckkeops import functions as fn
from duckkeops import ops, reductions
from duckkeops.engines import tiles
from duckkeops.engines.tiles import Box, Library
from duckkeops.errors import UnsupportedError
from duckkeops.expr import Input, Node, Reduce, Scalar, Table, Vjp, is_constant, walk
from duckkeops.lower import Lower, Temp
from duckkeops.reductions import State, astype, native
from duckkeops.symbolic import Elem, Translator, elems, indices

HALF = sympy.Rational(1, 2)


class Values:
    """The values of expressions over boxes of their common shape `whole`.

    `limit`: bytes that the intermediate arrays of a box may take.
    """

    def __init__(self, library: Library, args: Sequence[Node], whole: Sequence[int], limit: float):
        self.library, self.limit = library, limit
        self.nodes = walk(*args)
        self.tables = [a.array if isinstance(a, Table) else None for a in args]
        self.plan = _plan(self.nodes, [a for a in args if not isinstance(a, Table)], tuple(whole))

    def cost(self, box: Box) -> float:
        """Bytes of all intermediate arrays of a box."""
        return self.plan.cost(self.plan.roots, self.plan.slices(box), self.limit)

    def __call__(self, box: Box) -> list[Any]:
        """Arrays, perhaps of length 1 where they would only be repeated; tables as they are."""
        plan = self.plan
        run = _Run(self.library, self.nodes, plan, plan.slices(box), self.limit, {})
        values = iter(run.values(plan.roots))
        out = []
        for table in self.tables:
            v = next(values) if table is None else table
            if table is None:
                v = self.library.xp.reshape(v, tuple(v.shape[: plan.ndim]))
            out.append(v)
        return out


# -- plans: what is computed, without arrays -------------------------------------------------------


@dataclass(eq=False)
class Step:
    """One array: an input, or a temporary.

    `idx` are its axes. Of a fold, `over` are the axes that it reduces, `inside` the steps of its
    body that have one of them, and `outside` what those read besides.
    """

    number: int
    dtype: np.dtype
    idx: tuple[int, ...]
    reads: tuple[Step, ...]
    compute: Callable[[_Run], Any]
    stored: bool = False  # its entries lie in memory already
    row: reductions.Reduction | None = None
    over: tuple[int, ...] = ()
    inside: tuple[Step, ...] = ()
    outside: tuple[Step, ...] = ()

    def bytes(self, lengths: Sequence[int]) -> float:
        return 0 if self.stored else self.dtype.itemsize * math.prod(lengths[a] for a in self.idx)


@dataclass(eq=False)
class Plan:
    """Steps that give the roots, and the length of each axis: first those of the whole."""

    ndim: int
    lengths: tuple[int, ...]
    roots: tuple[Step, ...] = ()
    steps: list[Step] = field(default_factory=list)

    def slices(self, box: Box) -> Box:
        """A box of the whole, with all of the inner axes."""
        return (*box, *(slice(0, n) for n in self.lengths[self.ndim :]))

    def rebound(self, fold: Step, box: Box) -> Box:
        """The box with all of the axes that a fold reduces.

        They may be cut where the fold is inside another one's tile, and then mean that one's.
        """
        return tuple(slice(0, n) if a in fold.over else box[a] for a, n in enumerate(self.lengths))

    def is_tiled(self, fold: Step, box: Box, limit: float) -> bool:
        """Is the fold computed by tiles of its own, not with the rest of the box?"""
        whole = self.rebound(fold, box)
        return whole != box or _inner(fold, _lengths(whole)) > limit / 2

    def order(
        self, roots: Iterable[Step], box: Box, limit: float, given: Collection[int]
    ) -> tuple[list[Step], set[int]]:
        """The steps below the roots, arguments first, but for those `given` and what is inside
        folds that are computed by tiles; and the numbers of those folds.
        """
        found: dict[int, Step] = {}
        tiled: set[int] = set()
        todo = list(roots)
        while todo:
            step = todo.pop()
            if step.number in found or step.number in given:
                continue
            found[step.number] = step
            if step.row is not None and self.is_tiled(step, box, limit):
                tiled.add(step.number)
                todo += step.outside
            else:
                todo += step.reads
        return [found[n] for n in sorted(found)], tiled

    def cost(
        self, roots: Iterable[Step], box: Box, limit: float, given: Collection[int] = ()
    ) -> float:
        """Bytes of all arrays. What is inside a fold computed by tiles counts as half the limit."""
        lengths = _lengths(box)
        order, tiled = self.order(roots, box, limit, given)
        total = limit / 2 * bool(tiled)
        for step in order:
            total += step.bytes(lengths)
            if step.row is not None and step.number not in tiled:
                total += _columns(step, lengths)
        return total


def _lengths(box: Box) -> list[int]:
    return [s.stop - s.start for s in box]


def _inner(fold: Step, lengths: Sequence[int]) -> float:
    """Bytes of what a fold's body takes."""
    return sum(s.bytes(lengths) for s in fold.inside) + _columns(fold, lengths)


def _columns(fold: Step, lengths: Sequence[int]) -> float:
    """Bytes of the values that a fold reduces, which are copied."""
    return fold.dtype.itemsize * math.prod(lengths[a] for a in (*fold.idx, *fold.over))


_plans: dict[tuple, Plan] = {}
KEPT = 512  # at most; then all are forgotten


def _plan(nodes: Sequence[Node], args: Sequence[Node], whole: tuple[int, ...]) -> Plan:
    key = _key(nodes, args, whole)
    if key not in _plans:
        if len(_plans) >= KEPT:
            _plans.clear()
        _plans[key] = _Planner(nodes, args, whole).plan
    return _plans[key]


def _key(nodes: Sequence[Node], args: Sequence[Node], whole: tuple[int, ...]) -> tuple:
    """All that a plan depends on: the nodes less their arrays, and less numbers that are
    parameters.
    """
    numbers = {id(n): k for k, n in enumerate(nodes)}
    parts: list[Any] = [whole, tuple(numbers[id(a)] for a in args)]
    for n in nodes:
        own: Any = None
        if isinstance(n, Scalar):
            own = n.value if is_constant(n.value) else None
        elif isinstance(n, Reduce):
            own = n.params
        elif isinstance(n, Vjp):
            own = numbers[id(n.wrt)], n.place, n.summed
        parts.append((n.outline, tuple(numbers[id(a)] for a in n.args), own))
    return tuple(parts)


class _Planner:
    """Makes the plan of expressions."""

    def __init__(self, nodes: Sequence[Node], args: Sequence[Node], whole: tuple[int, ...]):
        translator = Translator(nodes)
        self.program = program = translator.program
        names = [f"o{a}" for a in range(len(whole))]
        program.sizes.update(dict.fromkeys(names))
        env = tuple(name if n != 1 else None for name, n in zip(names, whole, strict=True))
        values = [translator.argument(a, env[len(env) - a.ndim :], a.dtype) for a in args]
        dtypes = [reductions.computed(np.dtype(a.dtype)) for a in args]
        self.lower = Lower(program, "", (), (), fast=False)
        operands = [self.lower(v, t) for v, t in zip(values, dtypes, strict=True)]
        used = {c for t in self.lower.temps for c in t.loops}.union(*map(indices, operands))
        inner = [c for c in program.sizes if c in used and c not in names]
        self.at = {c: a for a, c in enumerate((*names, *inner))}
        self.plan = Plan(len(whole), (*whole, *(self._length(c, nodes) for c in inner)))
        self.nodes = nodes
        self.known: dict[Any, Step] = {}
        self.plan.roots = tuple(
            self._step(v) if isinstance(v, Elem) else self._number(v, t)
            for v, t in zip(operands, dtypes, strict=True)
        )

    def _length(self, name: str, nodes: Sequence[Node]) -> int:
        size = self.program.sizes[name]
        if size is not None:
            return size
        number, axis = self.program.sources[name]
        return nodes[number].shape[axis]

    def _new(self, dtype: np.dtype, idx: Iterable[str], *rest: Any, **more: Any) -> Step:
        axes = tuple(sorted({self.at[c] for c in idx}))
        step = Step(len(self.plan.steps), dtype, axes, *rest, **more)
        self.plan.steps.append(step)
        return step

    def _step(self, a: Elem) -> Step:
        """The step of an operand; those that it reads come before it."""
        todo: list[Any] = [a]
        while todo:
            sym = todo[-1]
            temp = self.lower.by_sym.get(sym)
            reads = [] if temp is None else elems(temp.expr)
            missing = [b for b in reads if b not in self.known]
            if sym in self.known or not missing:
                todo.pop()
                if sym not in self.known:
                    self.known[sym] = self._input(sym) if temp is None else self._temp(temp, reads)
            else:
                todo += missing
        return self.known[a]

    def _number(self, v: Any, dtype: np.dtype) -> Step:
        value = number(v, dtype)
        return self._new(dtype, (), (), lambda run: run.filled(value, dtype))

    # -- inputs ------------------------------------------------------------------------------------

    def _input(self, a: Elem) -> Step:
        where, axes = self.program.inputs[a.base]
        dtype = self.program.types[a.base]
        node = self.nodes[where]
        if isinstance(node, Scalar):
            return self._new(dtype, (), (), lambda run: run.filled(run.nodes[where].value, dtype))  # type: ignore[attr-defined]
        assert isinstance(node, Input)
        named = dict(zip(axes, (self.at[c] for c in a.idx), strict=True))
        stored = node.dtype == dtype
        return self._new(dtype, a.idx, (), lambda run: run.read(where, named, dtype), stored=stored)

    # -- temporaries -------------------------------------------------------------------------------

    def _temp(self, temp: Temp, reads: Sequence[Any]) -> Step:
        steps = tuple(self.known[b] for b in reads)
        if not temp.fold:
            value, dtype = self._function(temp.expr, temp.dtype), temp.dtype
            return self._new(
                dtype, temp.idx, steps, lambda run: astype(run.library.xp, value(run), dtype)
            )
        assert temp.body_dtype is not None
        body = steps[0] if steps else self._number(temp.expr, temp.body_dtype)
        over = tuple(self.at[c] for c in temp.over)
        inside, outside = _body(body, over)
        step = self._new(
            temp.dtype, temp.idx, (body,), lambda run: None,
            row=reductions.BY_NAME[temp.fold], over=over, inside=inside, outside=outside,
        )  # fmt: skip
        step.compute = lambda run: run.folded(step)
        return step

    def _function(self, e: Any, dtype: np.dtype) -> Callable[[_Run], Any]:
        """The array of an operation over operands; `dtype` is that of its numbers."""
        if isinstance(e, Elem):
            known = self.known[e].number
            return lambda run: run.done[known]
        if e.is_number:
            value = number(e, dtype)
            return lambda run: run.filled(value, dtype)
        if e.is_Add:
            return self._sum(e, dtype)
        if e.is_Mul:
            return self._product(e, dtype)
        if e.is_Pow:
            return self._power(e.base, e.exp, dtype)
        if isinstance(e, fn.delta):
            a, b = (self.at[c.name] for c in e.args)
            return lambda run: astype(run.library.xp, run.place(a) == run.place(b), dtype)
        if isinstance(e, fn.cast):
            source, to = self._function(e.args[0], dtype), np.dtype(e.args[1].name)
            return lambda run: astype(run.library.xp, source(run), to)
        return self._call(e, dtype)

    def _sum(self, e: Any, dtype: np.dtype) -> Callable[[_Run], Any]:
        def added(run: _Run) -> Any:
            total = first(run)
            for minus, term in rest:
                total = total - term(run) if minus else total + term(run)
            return total

        terms = sorted(e.args, key=lambda a: a.could_extract_minus_sign())
        first = self._function(terms[0], dtype)
        rest = [
            (m := a.could_extract_minus_sign(), self._function(-a if m else a, dtype))
            for a in terms[1:]
        ]
        return added

    def _product(self, e: Any, dtype: np.dtype) -> Callable[[_Run], Any]:
        under = [a.base for a in e.args if a.is_Pow and a.exp == -1 and a.free_symbols]
        over = [a for a in e.args if not (a.is_Pow and a.exp == -1 and a.free_symbols)]
        minus = over[:1] == [sympy.S.NegativeOne]
        factors = [self._function(a, dtype) for a in over[minus:]]
        divisors = [self._function(a, dtype) for a in under]
        one = number(sympy.S.One, dtype)

        def multiplied(run: _Run) -> Any:
            out = factors[0](run) if factors else run.filled(one, dtype)
            for f in factors[1:]:
                out = out * f(run)
            for f in divisors:
                out = out / f(run)
            return -out if minus else out

        return multiplied

    def _power(self, base: Any, q: Any, dtype: np.dtype) -> Callable[[_Run], Any]:
        b = self._function(base, dtype)
        if q == -1:
            one = number(sympy.S.One, dtype)
            return lambda run: run.filled(one, dtype) / b(run)
        if q == HALF:
            return lambda run: run.library.xp.sqrt(b(run))

        def raised(run: _Run) -> Any:
            out = x = b(run)
            for _ in range(int(q) - 1):
                out = out * x
            return out

        assert q.is_Integer and q > 0
        return raised

    def _call(self, e: Any, dtype: np.dtype) -> Callable[[_Run], Any]:
        name = type(e).__name__
        kinds = [None if a.is_number else self.lower.dtype(a) for a in e.args]
        if name == "polygamma":  # of a whole order, as torch's
            order, x = int(e.args[0]), self._function(e.args[1], dtype)
            return lambda run: _polygamma(order, x(run))
        if isinstance(e, fn.Elementwise):
            types = e.argument_dtypes(kinds, dtype)
        else:
            types = [dtype] * len(e.args)
        args = [self._function(a, t) for a, t in zip(e.args, types, strict=True)]
        own = OWN.get(name)
        dense = own or ops.ROWS[ROWS.get(name, name)].dense
        return lambda run: dense(run.library.xp, *[a(run) for a in args])


def _body(body: Step, over: tuple[int, ...]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """What is inside a fold over these axes, and what that reads from outside."""
    inside: dict[int, Step] = {}
    outside: dict[int, Step] = {}
    todo = [body]
    while todo:
        step = todo.pop()
        if not set(step.idx) & set(over):
            outside[step.number] = step
        elif step.number not in inside:
            inside[step.number] = step
            todo += step.reads
    return tuple(inside.values()), tuple(outside.values())


# -- numbers and functions -------------------------------------------------------------------------


def number(v: Any, dtype: np.dtype) -> Any:
    """A number of SymPy's as a Python number of this dtype."""
    if dtype.kind == "b":
        return bool(v != 0)
    if dtype.kind in "iu":
        return int(v) % (1 << 8 * dtype.itemsize) if dtype.kind == "u" else int(v)
    exact = sympy.N(v, 25)
    return complex(exact) if dtype.kind == "c" else float(exact)


def _ones_where(xp: Any, c: Any, x: Any, other: float = 0.0) -> Any:
    return xp.where(c, xp.ones_like(x), xp.full_like(x, other))


def _step(xp: Any, x: Any) -> Any:
    return _ones_where(xp, ~(x <= 0), x)


def _share(xp: Any, x: Any, y: Any) -> Any:
    x, y = xp.broadcast_arrays(x, y)
    return xp.where(x == y, xp.full_like(x, 0.5), _ones_where(xp, ~(x < y), x))


def _rsqrt0(xp: Any, x: Any) -> Any:
    return xp.where(x == 0, xp.zeros_like(x), 1 / xp.sqrt(x))


def _polygamma(n: int, x: Any) -> Any:
    """The n-th derivative of digamma."""
    if isinstance(x, (np.ndarray, np.generic)):
        import scipy.special

        return scipy.special.polygamma(n, x)
    if type(x).__module__.startswith("torch"):
        import torch

        return torch.special.polygamma(n, x)
    raise UnsupportedError(
        f"{type(x).__module__} has no polygamma, which the derivative of digamma needs.\n"
        "  Use NumPy arrays or tensors."
    )


# Functions of functions.py that a row of ops.py has under another name, and those that none has.
ROWS = {
    "clip": "clamp",
    "hardtanh": "hardtanh_range",
    "softshrink": "softshrink_width",
    "power": "pow",
}
OWN: dict[str, Callable] = {"step": _step, "share": _share, "rsqrt0": _rsqrt0}


# -- runs ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Run:
    """The arrays of one box, by the numbers of their steps."""

    library: Library
    nodes: Sequence[Node]
    plan: Plan
    box: Box
    limit: float
    given: dict[int, Any]
    done: dict[int, Any] = field(default_factory=dict)

    def values(self, roots: Sequence[Step]) -> list[Any]:
        """The values of steps. Each goes after its last use."""
        order, tiled = self.plan.order(roots, self.box, self.limit, self.given)
        uses = Counter(r.number for r in roots)
        reads = {s.number: s.outside if s.number in tiled else s.reads for s in order}
        for those in reads.values():
            uses.update(r.number for r in those)
        self.done = dict(self.given)
        for step in order:
            self.done[step.number] = (
                self._in_tiles(step) if step.number in tiled else step.compute(self)
            )
            for r in reads[step.number]:
                uses[r.number] -= 1
                if not uses[r.number]:
                    del self.done[r.number]
        return [self.done[r.number] for r in roots]

    # -- inputs and numbers ------------------------------------------------------------------------

    def filled(self, value: Any, dtype: np.dtype) -> Any:
        """A number, with all axes of length 1."""
        xp = self.library.xp
        shape = (1,) * len(self.box)
        return xp.full(shape, value, dtype=native(xp, dtype), **self.library.where)

    def place(self, axis: int) -> Any:
        """The positions along an axis."""
        s = self.box[axis]
        shape = [1] * len(self.box)
        shape[axis] = s.stop - s.start
        return self.library.xp.reshape(
            self.library.positions(s.start, s.stop - s.start), tuple(shape)
        )

    def read(self, number: int, named: dict[int, int], dtype: np.dtype) -> Any:
        """The part of an input, whose axes are those named; the others are 1 long."""
        xp, array = self.library.xp, self.nodes[number].array  # type: ignore[attr-defined]
        if len(set(named.values())) < len(named):  # a diagonal
            index = (self.place(named[a]) if a in named else 0 for a in range(array.ndim))
            return astype(xp, array[tuple(index)], dtype)
        index = (self.box[named[a]] if a in named else 0 for a in range(array.ndim))
        part = array[(*index, ...)]
        order = sorted(range(len(named)), key=list(named.values()).__getitem__)
        shape = [1] * len(self.box)
        for k, axis in enumerate(named.values()):
            shape[axis] = part.shape[k]
        part = xp.reshape(xp.permute_dims(part, tuple(order)), tuple(shape))
        return astype(xp, part, dtype)

    # -- folds -------------------------------------------------------------------------------------

    def folded(self, step: Step) -> Any:
        """A fold of values that are all there."""
        state = self._state(step, self.done[step.reads[0].number], 0)
        return self._finished(step, state, _lengths(self.box))

    def _state(self, step: Step, v: Any, first: int) -> State:
        """The state of a part of the columns."""
        assert step.row is not None
        columns = {a: self.box[a].stop - self.box[a].start for a in step.over}
        v = self.library.columns(v, len(self.box), columns)
        if not step.row.places and step.row.name not in ("any", "all"):
            v = astype(self.library.xp, v, step.dtype)
        index = self.library.positions(first, math.prod(columns.values()))
        return step.row.tile(self.library.xp, (v,), index, ())

    def _finished(self, step: Step, state: State, lengths: Sequence[int]) -> Any:
        """The value, with all axes."""
        assert step.row is not None
        xp = self.library.xp
        v = step.row.finish(xp, state, math.prod(lengths[a] for a in step.over), ())
        shape = tuple(n if a in step.idx else 1 for a, n in enumerate(lengths))
        return astype(xp, xp.reshape(v, shape), step.dtype)

    def _in_tiles(self, step: Step) -> Any:
        """A fold by tiles, of its rows too."""
        assert step.row is not None
        every = self.plan.rebound(step, self.box)
        axes, rows = (*step.idx, *step.over), len(step.idx)
        whole = [every[a].stop - every[a].start for a in axes]
        known = {s.number: self.done[s.number] for s in step.outside}
        body, limit = step.reads[0], self.limit / 2

        def within(box: Box) -> Box:
            here = list(every)
            for a, s in zip(axes, box, strict=True):
                here[a] = slice(every[a].start + s.start, every[a].start + s.stop)
            return tuple(here)

        def cost(box: Box) -> float:
            here = within(box)
            return self.plan.cost((body,), here, limit, known) + _columns(step, _lengths(here))

        def tile(box: Box, first: int) -> State:
            cut = dict(zip(axes, box, strict=True))
            given = {n: _cut(v, cut) for n, v in known.items()}
            run = _Run(self.library, self.nodes, self.plan, within(box), limit, given)
            state = run._state(step, run.values((body,))[0], first)
            shape = tuple(_lengths(box[:rows]))
            return tuple(self.library.xp.reshape(s, shape) for s in state)

        columns = range(rows, len(axes))
        state = tiles.reduced(self.library, step.row, (), whole, columns, cost, tile, limit)
        return self._finished(step, state, _lengths(every))


def _cut(v: Any, cut: dict[int, slice]) -> Any:
    """The part of an array with all axes."""
    index = (cut[a] if a in cut and n != 1 else slice(None) for a, n in enumerate(v.shape))
    return v[tuple(index)]
