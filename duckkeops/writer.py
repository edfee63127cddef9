"""The statements of one scope as C: values one after the other, loops, accumulators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import sympy

from duckkeops import functions as fn
from duckkeops.lower import Gap, Nest, Straight, Temp
from duckkeops.printer import suffix, vector_suffix

UNROLL_UP_TO = 4  # features; beyond it full unrolling makes gcc spill
BLOCK = 64  # features that are summed on their own, where there are many
INLINE_DEPTH = 3  # operations in each other that are printed in place


class Writer:
    """Writes the steps of one scope. In the pair scope every value is a tile of NJ x NI vectors."""

    def __init__(self, prelude: Any, scope: str, roots: Iterable[Any] = ()):
        self.o, self.scope, self.pair = prelude, scope, scope == "pair"
        self.lower, self.plan = prelude.lower, prelude.plan
        self.roots = list(roots)
        self.tiles: set[Any] = set()
        self.inlined: dict[Any, Temp] = {}
        self._count_uses()
        self.printer = prelude._printer(scope, self.inlined, self.tiles)

    def last_steps(self, root: int) -> list[Any]:
        """What a root's value needs inside the loops over its features."""
        loops = self.o.roots[root].features
        return self.plan.inside([self.roots[root]], loops, "pair") if loops else []

    # -- which values need a name ------------------------------------------------------------------

    def _count_uses(self) -> None:
        """A value used once, next to where it is made, is printed in place.

        One used in another run of the tile is kept.
        """
        runs: dict[Any, int] = {}
        uses: dict[Any, list[tuple[int, Any]]] = {}
        count = [0]

        def visit(steps: list[Any]) -> None:
            for step in steps:
                if isinstance(step, Straight):
                    for t in step.temps:
                        runs[t.sym] = count[0]
                        note(t.expr, t)
                else:
                    for t in step.temps:
                        if step.kind == "fold" and self.pair:
                            self.tiles.add(t.sym)
                    count[0] += 1
                    visit(step.steps)
                    for t in step.temps:
                        note(t.expr if step.kind == "fold" or not t.fold else t.sym, t)
                    count[0] += 1

        def note(e: Any, user: Any) -> None:
            for a in e.free_symbols:
                uses.setdefault(a, []).append((count[0], user))

        visit(self.plan.scopes[self.scope].steps)
        for n, value in enumerate(self.roots):
            count[0] += n > 0 or not self.o.at_once()
            visit(self.last_steps(n))
            note(value, "root")
        fields = {a for a, _, _ in self.plan.scopes[self.scope].fields}
        for a, run in runs.items():
            where = uses.get(a, [])
            temp = self.lower.by_sym[a]
            if any(r != run for r, _ in where) and self.pair:
                self.tiles.add(a)
            elif (
                len(where) == 1
                and a not in fields
                and a not in self.plan.stored
                and self._may_inline(temp, where[0][1])
            ):
                self.inlined[a] = temp

    def _may_inline(self, t: Temp, user: Any) -> bool:
        if t.expr.is_number:
            return False
        if isinstance(user, str):
            return True
        e = user.expr
        if e.is_Pow or any(
            a.is_Pow and t.sym in a.free_symbols and a.exp != -1
            for a in sympy.preorder_traversal(e)
        ):
            return False
        return self._depth(t) < INLINE_DEPTH

    def _depth(self, t: Temp) -> int:
        return 1 + max(
            (self._depth(self.inlined[a]) for a in t.expr.free_symbols if a in self.inlined),
            default=0,
        )

    # -- writing -----------------------------------------------------------------------------------

    def steps(self, steps: list[Any], pad: str) -> list[str]:
        out: list[str] = []
        for step in steps:
            out += (
                self._straight(step.temps, pad)
                if isinstance(step, Straight)
                else self._nest(step, pad)
            )
        return out

    def _value(self, t: Temp) -> str:
        if t.sampled:
            (c,) = self.plan.features(t.idx)
            return f"splat_{suffix(t.dtype)}({self.o.name(t.sym)}_at(a, at, {c}))"
        loop = self.o._loop(t)
        text = self.printer.text(t.expr, loop)
        if t.expr.is_number:
            text = f"splat_{suffix(t.dtype)}({self._literal(t)})"
        return text

    def _literal(self, t: Temp) -> str:
        before, self.printer.t = self.printer.t, suffix(t.dtype)
        out = self.printer.literal(t.expr)
        self.printer.t = before
        return out

    def _straight(self, temps: list[Temp], pad: str, close: list[str] | None = None) -> list[str]:
        """Values one after the other; in the pair scope inside one sweep over the tile."""
        temps = [t for t in temps if t.sym not in self.inlined]
        inner = pad + "    " if self.pair else pad
        out = [inner + line for line in [*self._plain(temps), *(close or [])]]
        declared = [
            f"{pad}v{vector_suffix(t.dtype)} {self.o.name(t.sym)}[NJ][NI];"
            for t in temps
            if t.sym in self.tiles
        ]
        if not self.pair or not out:
            return out
        return [*declared, f"{pad}TILE {{", *out, f"{pad}}}"]

    def _plain(self, temps: list[Temp]) -> list[str]:
        """One statement for each value that has a name."""
        return [
            f"{self.o.name(t.sym)}[q][k] = {self._value(t)};"
            if t.sym in self.tiles
            else f"const v{vector_suffix(t.dtype)} {self.o.name(t.sym)} = {self._value(t)};"
            for t in temps
            if t.sym not in self.inlined
        ]

    def _nest(self, nest: Nest, pad: str) -> list[str]:
        if self.pair and nest.temps[0].gap:
            return self._squared_distance(nest, nest.temps[0].gap, pad)
        if self.pair and nest.temps[0].scaled:
            return self._scaled_distance(nest, pad)
        return self._loops(nest, pad)

    def gaps(self) -> list[Nest]:
        """The squared distances that are products where nothing cancels."""
        steps = [s for s in self.plan.scopes["pair"].steps if isinstance(s, Nest)]
        return [nest for nest in steps if nest.temps[0].gap]

    def products(self, nest: Nest, pad: str) -> list[str]:
        """A squared distance as products; `near`: do too many digits of any of them cancel, or do
        the squares leave the range of the dtype?
        """
        (t,), (d,) = nest.temps, nest.loops
        assert t.gap is not None
        name, s = self.o.name(t.sym), suffix(t.dtype)
        fields = (t.gap.left, t.gap.right, t.gap.start, t.gap.end, t.gap.least)
        left, right, start, end, least = (self.o.read(a, "pair") for a in fields)
        loop = f"for (int {d} = 0; {d} < {self.o.length(d)}; ++{d})"
        return [
            f"{pad}TILE {name}[q][k] = {start};",
            *self._in_blocks(nest, [f"{loop} TILE {name}[q][k] += {left}*{right};"], pad),
            f"{pad}far_{s} far[NI];",
            f"{pad}ROWS far[k] = all_far_{s}();",
            f"{pad}TILE {{",
            f"{pad}    {name}[q][k] += {end};",
            f"{pad}    far[k] = also_far_{s}(far[k], {name}[q][k], {least});",
            f"{pad}}}",
            f"{pad}const int near = !far_tile_{s}(far);",
        ]

    def differences(self, nest: Nest) -> list[str]:
        """The function of a tile that computes a squared distance as it is written.

        It is a call, as a second loop over the features costs the first one its registers.
        """
        (t,), (d,) = nest.temps, nest.loops
        assert t.gap is not None
        name, vector = self.o.name(t.sym), f"v{vector_suffix(t.dtype)}"
        x, y = (self.o.read(a, "pair") for a in (t.gap.x, t.gap.y))
        ((_, _, start),) = self._accumulators(t)
        lines = [
            f"for (int {d} = 0; {d} < {self.o.length(d)}; ++{d}) TILE {{",
            f"    const {vector} gap = {x} - {y};",
            f"    {name}[q][k] += gap*gap;",
            "}",
        ]
        body = [
            f"    {vector} {name}[NJ][NI];",
            f"    TILE {name}[q][k] = {start};",
            *self._in_blocks(nest, lines, "    "),
            f"    TILE out[q][k] = {name}[q][k];",
        ]
        return self.o.tile_function(f"{name}_differences", f"{vector} out[][NI]", body)

    def _squared_distance(self, nest: Nest, gap: Gap, pad: str) -> list[str]:
        """Products, and |x - y|^2 where they are near.

        So the value of a pair does not depend on its tile: equal columns are equally far. But a row
        block most of whose pairs are near takes the differences only.
        """
        (t,) = nest.temps
        s, name, least = suffix(t.dtype), self.o.name(t.sym), self.o.read(gap.least, "pair")
        vector = f"v{vector_suffix(t.dtype)}"
        call = self.o.call_tile(f"{name}_differences", "differences")
        where = f"where_{s}(greater_{s}({name}[q][k], {least}), {name}[q][k], differences[q][k])"
        return [
            f"{pad}{vector} {name}[NJ][NI];",
            f"{pad}if (__builtin_expect(cancels, 0)) {{",
            f"{pad}    {vector} differences[NJ][NI];",
            f"{pad}    {call}",
            f"{pad}    TILE {name}[q][k] = differences[q][k];",
            f"{pad}}} else {{",
            *self.products(nest, pad + "    "),
            f"{pad}    if (__builtin_expect(near, 0)) {{",
            f"{pad}        {vector} differences[NJ][NI];",
            f"{pad}        {call}",
            f"{pad}        TILE {name}[q][k] = {where};",
            f"{pad}    }}",
            f"{pad}}}",
        ]

    def _scaled_distance(self, nest: Nest, pad: str) -> list[str]:
        """The exponent that a squared distance is; of scaled coordinates, where these are small."""
        (t,), (d,) = nest.temps, nest.loops
        name, vector, s = self.o.name(t.sym), f"v{vector_suffix(t.dtype)}", suffix(t.dtype)
        one = t.scaled
        x, y, left, right = (self.o.read(a, "pair") for a in (one.x, one.y, one.left, one.right))

        def sums(*lines: str) -> list[str]:
            size = self.o.p.sizes[d]
            unrolled = ["UNROLL"] if size is not None and size <= self.o.unroll_up_to else []
            loop = f"for (int {d} = 0; {d} < {self.o.length(d)}; ++{d}) TILE {{"
            inner = [f"    {line}" for line in lines]
            return self._in_blocks(nest, [*unrolled, loop, *inner, "}"], pad + "    ")

        factor = (
            f"splat_{s}({self.printer.literal(one.factor)})"
            if one.factor.is_number
            else self.o.read(one.factor, "pair")
        )
        zero = f"TILE {name}[q][k] = splat_{s}(0);"
        term = "gap*gap" if one.squared else f"abs_{s}(gap)"
        far = [
            f"{pad}    {zero}",
            *sums(f"const {vector} gap = {x} - {y};", f"{name}[q][k] += {term};"),
            f"{pad}    TILE {name}[q][k] *= {factor};",
        ]
        if one.start is None:
            add = f"{name}[q][k] += {'-' if one.squared else ''}{term};"
            if not one.squared and self._is_unrolled(t):  # see _accumulate
                add = f"{name}[q][k] = {d} ? {name}[q][k] + {term} : {term};"
            near = [f"{pad}    {zero}", *sums(f"const {vector} gap = {left} - {right};", add)]
            if not one.squared:
                near.append(f"{pad}    TILE {name}[q][k] = minus_{s}({name}[q][k]);")
        else:
            start, end = (self.o.read(a, "pair") for a in (one.start, one.end))
            first = f"{pad}    TILE {name}[q][k] = {start} + {end};"
            near = [first, *sums(f"{name}[q][k] += {left}*{right};")]
        return [
            f"{pad}{vector} {name}[NJ][NI];",
            f"{pad}if (cancels) {{",
            *far,
            f"{pad}}} else {{",
            *near,
            f"{pad}}}",
        ]

    def _in_blocks(self, nest: Nest, lines: list[str], pad: str) -> list[str]:
        """The loop of a sum over many features, `lines`, as one over blocks of them.

        The rounding error of a sum then grows with the blocks, as in NumPy's pairwise sums.
        """
        (d, *others), (t, *more) = nest.loops, nest.temps
        size = self.o.p.sizes[d] or 0
        if others or more or t.fold != "sum" or t.dtype.kind != "f" or size < 2 * BLOCK:
            return [pad + line for line in lines]
        name, ((_, vector, start),) = self._accumulator_name(t), self._accumulators(t)
        dims, at, sweep = ("[NJ][NI]", "[q][k]", "TILE ") if self.pair else ("", "", "")
        part = f"{name}_block"
        found = f"for (int {d} = 0; {d} < {self.o.length(d)}; ++{d})"
        assert sum(found in line for line in lines) == 1
        lead = pad + lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        inside = f"for (int {d} = block; {d} < end; ++{d})"
        return [
            f"{lead}for (int block = 0; block < {size}; block += {BLOCK}) {{",
            f"{lead}    const int end = block + {BLOCK} < {size} ? block + {BLOCK} : {size};",
            f"{lead}    {vector} {part}{dims};",
            f"{lead}    {sweep}{part}{at} = {start};",
            *(
                f"{pad}    {line}".replace(found, inside).replace(
                    f"{name}{at} +=", f"{part}{at} +="
                )
                for line in lines
            ),
            f"{lead}    {sweep}{name}{at} += {part}{at};",
            f"{lead}}}",
        ]

    def _loops(self, nest: Nest, pad: str) -> list[str]:
        out: list[str] = []
        at = "[q][k]" if self.pair else ""
        sweep = "TILE " if self.pair else ""
        if nest.kind == "fold":
            for t in nest.temps:
                dims = "[NJ][NI]" if self.pair else ""
                for name, vector, start in self._accumulators(t):
                    out.append(f"{pad}{vector} {name}{dims};")
                    out.append(f"{pad}{sweep}{name}{at} = {start};")
        inner, head = pad, len(out)
        positions = self._positions(nest)
        for c in nest.loops:
            size = self.o.p.sizes[c]
            if size is not None and size <= self.o.unroll_up_to:
                out.append(f"{inner}UNROLL")
            kind = "int" if size is not None else "i64"
            out.append(f"{inner}for ({kind} {c} = 0; {c} < {self.o.length(c)}; ++{c}) {{")
            inner += "    "
        steps = list(nest.steps)
        last = steps.pop() if steps and isinstance(steps[-1], Straight) else Straight([])
        out += self.steps(steps, inner)
        close: list[str] = []
        for t in nest.temps:
            close += (
                self._accumulate(t, at, positions) if nest.kind == "fold" else [self._store(t, at)]
            )
        out += self._straight(last.temps, inner, close)
        for m in reversed(range(len(nest.loops))):
            out.append(pad + "    " * m + "}")
        if nest.kind == "fold":
            return out[:head] + self._in_blocks(
                nest, [line[len(pad) :] for line in out[head:]], pad
            )
        return out

    def _positions(self, nest: Nest) -> str:
        at = nest.loops[0] if nest.loops else "0"
        for c in nest.loops[1:]:
            at = f"({at})*{self.o.length(c)} + {c}"
        return at

    def _store(self, t: Temp, at: str) -> str:
        features = self.plan.features(t.idx)
        value = (
            self.o.name(t.sym) + (at if t.sym in self.tiles else "") if t.fold else self._value(t)
        )
        target = self.o.name(t.sym) + "".join(f"[{c}]" for c in features)
        if t.fold:
            value = f"{self.o.name(t.sym)}_{at}" if self.pair else f"{self.o.name(t.sym)}_"
        return f"{target}{at} = {value};"

    def _accumulator_name(self, t: Temp) -> str:
        """A fold that is kept in an array is accumulated under a name of its own."""
        return self.o.name(t.sym) + (
            "_" if t.sym in self.plan.stored and self.plan.features(t.idx) else ""
        )

    def _accumulators(self, t: Temp) -> list[tuple[str, str, str]]:
        """(name, vector type, start) of what the fold keeps."""
        name, v, s = self._accumulator_name(t), f"v{vector_suffix(t.dtype)}", suffix(t.dtype)
        if t.fold in ("argmin", "argmax"):
            body = t.body_dtype
            assert body is not None
            best = f"{'largest' if t.fold == 'argmin' else 'smallest'}_{suffix(body)}()"
            return [(f"{name}_best", f"v{vector_suffix(body)}", best), (name, v, f"splat_{s}(0)")]
        start = {"min": f"largest_{s}()", "max": f"smallest_{s}()"}.get(t.fold)
        if start is None:
            one = t.fold in ("prod", "all")
            scalar = f"make_{s}({int(one)}, 0)" if s[0] == "c" else str(int(one))
            start = f"splat_{s}({scalar})"
        return [(name, v, start)]

    def _accumulate(self, t: Temp, at: str, position: str) -> list[str]:
        name, s = self._accumulator_name(t) + at, suffix(t.dtype)
        dtype = t.body_dtype or t.dtype
        value = self.printer.text(t.expr, dtype)
        if t.expr.is_number:
            value = self.printer.text(t.expr, dtype)
        vector = (
            f"splat_{suffix(dtype)}({value})"
            if t.expr.is_number and "splat" not in value
            else value
        )
        if t.fold in ("argmin", "argmax"):
            own = self._accumulator_name(t)
            body, best = suffix(dtype), f"{own}_best{at}"
            first = "first_less" if t.fold == "argmin" else "first_greater"
            return [
                f"const v{vector_suffix(dtype)} {own}_value = {vector};",
                f"const vb {own}_wins = {first}_{body}({own}_value, {best});",
                f"{best} = where_{body}({own}_wins, {own}_value, {best});",
                f"{name} = where_{s}({own}_wins, splat_{s}({position}), {name});",
            ]
        if t.fold in ("min", "max"):
            return [f"{name} = {t.fold}imum_{s}({name}, {vector});"]
        if t.fold in ("any", "all"):
            return [f"{name} = logical_{'or' if t.fold == 'any' else 'and'}_b1({name}, {vector});"]
        if s[0] == "c":
            return [f"{name} = {'add' if t.fold == 'sum' else 'mul'}_{s}({name}, {vector});"]
        if t.fold == "sum" and self._is_modulus(t.expr) and self._is_unrolled(t):
            # 0 + |x|, which no compiler takes for |x|, as 0 + -0 is not -0
            return [f"{name} = {position} ? {name} + {vector} : {vector};"]
        return [f"{name} {'+' if t.fold == 'sum' else '*'}= {vector};"]

    def _is_modulus(self, e: Any) -> bool:
        made = self.o.lower.by_sym.get(e)
        return isinstance(e if made is None else made.expr, fn.abs)

    def _is_unrolled(self, t: Temp) -> bool:
        """Is it a CUDA kernel's loop over a few features?"""
        size = self.o.p.sizes[t.over[0]] if len(t.over) == 1 else None
        return self.o.on_device and size is not None and size <= self.o.unroll_up_to

    def tile(
        self,
        name: str,
        value: Any,
        dtype: np.dtype,
        steps: list[Any],
        pad: str,
        vector: str = "vval",
    ) -> list[str]:
        """`steps`, and in the sweep of the last of them `name`[q][k] = value."""
        steps = list(steps)
        last = steps.pop() if steps and isinstance(steps[-1], Straight) else Straight([])
        before, self.printer.t = self.printer.t, suffix(dtype)
        text = self.printer.splat(value) if value.is_number else self.printer.text(value, dtype)
        self.printer.t = before
        close = [f"{name}[q][k] = {text};"]
        return [
            *self.steps(steps, pad),
            f"{pad}{vector} {name}[NJ][NI];",
            *self._straight(last.temps, pad, close),
        ]
