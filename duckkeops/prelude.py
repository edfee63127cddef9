"""The prelude of a kernel: what the skeleton below it calls.

It consists of types, sizes and small inline functions. One function fills each record of one-sided
values (`Par`, `Row`, `Col_j`), and `pairs` computes a tile of values and hands it to the reduction.
Every address, length and parameter is an entry of the argument array `a`; `Layout` says which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sympy.printing.precedence import PRECEDENCE

from duckkeops import functions as fn
from duckkeops import limits, scaling
from duckkeops.lower import LANE, Lower, Root, Scheduler, Temp
from duckkeops.printer import KernelPrinter, binding, lane_bytes, suffix, vector_suffix
from duckkeops.symbolic import Elem, Program
from duckkeops.writer import UNROLL_UP_TO, Writer

STACK_BYTES = 65536  # of one array of a kernel
SAMPLES, DEVICE_SAMPLES = 32, 8  # columns that a centre is the mean of
UNROLL_ROWS = 64  # features of rows that stay in a CUDA thread's registers
WEIGHTED = ("histogram", "softmax_sum")  # reductions whose first root may be a weight


@dataclass(frozen=True)
class Layout:
    """What the engine writes into the kernel's argument array, entry by entry.

    ("splits",) of the first column axis; ("size", axis) of the whole; ("length", node, axis) of an
    inner fold; ("pointer", node); ("stride", node, axis) in bytes; ("value", node, dtype) of a
    parameter, in two entries; ("out", component); ("param", name) of the reduction; ("copies",) of
    each bin of a histogram; ("items",), twice, and ("intervals",): the number of row blocks of a
    restriction, their addresses, and that of their intervals.
    """

    entries: tuple[tuple, ...]


@dataclass
class Axes:
    """The loop axes by name: position in the whole shape."""

    outer: dict[str, int]
    lane: tuple[str, int]
    columns: dict[str, int]


@dataclass
class Kernel:
    """The generated part of one kernel."""

    prelude: str
    layout: Layout
    lanes_bytes: int
    rows: int
    outputs: int
    fixed_columns: bool
    block: tuple[int, int] | None
    ordered: bool  # no product and sum may be fused into one rounding
    limit: tuple[float, float] | None  # of a CUDA kernel: limits.of


class Prelude:
    """Writes the prelude of one reduction over one program.

    `few`: of a CUDA kernel, whose vectors have one lane: how many threads of a block have rows of
    their own, 0 for all. None for C.
    """

    def __init__(
        self,
        program: Program,
        axes: Axes,
        roots: list[Root],
        row: str,
        macros: dict[str, str],
        types: Iterable[np.dtype],
        tile: Any,
        title: str,
        fast: bool,
        scalars: dict[str, np.dtype],
        storage: dict[int, np.dtype],
        vector_bytes: int,
        table: int | None = None,
        few: int | None = None,
        restricted: bool = False,
    ):
        self.p, self.axes, self.roots, self.row, self.macros, self.title = (
            program,
            axes,
            roots,
            row,
            macros,
            title,
        )
        self.scalars, self.storage, self.vector_bytes = scalars, storage, vector_bytes
        self.few, self.on_device = few, few is not None
        self.unroll_up_to = UNROLL_ROWS if self.on_device else UNROLL_UP_TO
        converted = [
            base
            for base, (number, _) in program.inputs.items()
            if storage.get(number) != program.types[base]
        ]
        self.lower = Lower(
            program,
            LANE,
            tuple(axes.columns),
            axes.outer,
            fast,
            converted,
            on_device=self.on_device,
        )
        if self.on_device and fast:
            scaling.scale(self.lower, [self.lower(r.value, r.dtype) for r in roots])
        self.plan = Scheduler(self.lower, roots)
        self.entries: list[tuple] = [("splits",)]
        self.names = ["SPLITS"]
        self.columns = list(axes.columns)
        if restricted:
            self.slot("ITEM_COUNT", ("items",))
            self.slot("ITEMS", ("items",))
            self.slot("INTERVALS", ("intervals",))
        if table is not None:
            self.slot("BINS", ("param", "bins"))
            self.slot("COPIES", ("copies",))
            self.slot("EDGES", ("pointer", table))
        self.inner = self.columns[-1]
        self.lines: list[str] = []
        kinds = [
            *types,
            *(t.dtype for t in self._used()),
            *(self.p.types[a.base] for a in self._inputs()),
        ]
        self.lane = max([4, *(lane_bytes(t) for t in kinds)])
        outputs = sum(self._size(r.features) for r in self._results())
        arrays = sum(self._size(self.plan.features(t.idx)) for t in self.plan.scopes["pair"].arrays)
        if self.on_device:
            self.tile = tile(self._deepest(), outputs, arrays, self.lane)
            self.block = (self.tile.threads, self.few or self.tile.threads)
            self.rows, self.cols = self.tile[:2]
            self.own_rows = self.rows * self.tile.runs * self.block[1]
        else:
            self.block = None
            self.rows, self.cols = tile(self._deepest(), outputs, arrays)
            self.own_rows = self.rows
        self.outputs = outputs

    # -- facts -------------------------------------------------------------------------------------

    def _used(self) -> list[Temp]:
        need = {a for n in self.plan.needed.values() for a in n}
        return [t for t in self.lower.temps if t.sym in need]

    def _inputs(self) -> list[Elem]:
        found = {
            a
            for scope in self.plan.scopes.values()
            for a, _, _ in scope.fields
            if a not in self.lower.by_sym
        }
        return sorted(found | set(self.plan.direct), key=lambda a: a.name)

    def _results(self) -> list[Root]:
        """The roots that are reduced; the others are weights."""
        return self.roots[-1:] if self.row in WEIGHTED else self.roots

    def _size(self, features: Iterable[str]) -> int:
        out = 1
        for c in features:
            out *= self.p.sizes[c] or 1
        return out

    def _deepest(self) -> int:
        return max(
            (self._size(c for c in t.over if self.p.sizes[c]) for t in self._used() if t.fold),
            default=1,
        )

    # -- the argument array ------------------------------------------------------------------------

    def slot(self, name: str, entry: tuple) -> str:
        if name not in self.names:
            self.names.append(name)
            self.entries.append(entry)
            if entry[0] == "value":
                self.names.append(name + "_imag")
                self.entries.append(("imag", *entry[1:]))
        return f"a[{name}]"

    def length(self, c: str) -> str:
        size = self.p.sizes[c]
        if size is not None:
            return str(size)
        if c in self.p.sources:
            return self.slot(f"LENGTH_{c}", ("length", *self.p.sources[c]))
        return self.slot(f"SIZE_{c}", ("size", self._position(c)))

    def _position(self, c: str) -> int:
        if c in self.axes.outer:
            return self.axes.outer[c]
        return self.axes.lane[1] if c == LANE else self.axes.columns[c]

    def is_parameter(self, base: str) -> bool:
        return base in self.scalars

    def address(self, a: Elem, at: dict[str, str]) -> str:
        """The C address of an input's element; `at` gives the text of an index."""
        number, where = self.p.inputs[a.base]
        text = f"at->{self.anchor(a)}"
        for c, axis in zip(a.idx, where, strict=True):
            if c in self.axes.outer or at.get(c) == "":
                continue
            stride = self.slot(f"{a.base.upper()}_{axis}", ("stride", number, axis))
            text += f" + {at.get(c, c)}*{stride}"
        return text

    def anchor(self, a: Elem) -> str:
        """The name of the address that the outer indices of an input's element give.

        There is one for each way they enter.
        """
        here, *others = dict.fromkeys(
            self._entry(b) for b in (a, *self._inputs()) if b.base == a.base
        )
        return a.base + ("".join(f"_{axis}{c}" for c, axis in here) if others else "")

    def _entry(self, a: Elem) -> tuple[tuple[str, int], ...]:
        where = self.p.inputs[a.base][1]
        return tuple(
            (c, axis) for c, axis in zip(a.idx, where, strict=True) if c in self.axes.outer
        )

    # -- operands ----------------------------------------------------------------------------------

    def field(self, a: Any) -> str:
        features = self.plan.features(self.lower.idx(a))
        return self.name(a) + "".join(f"[{c}]" for c in features)

    def name(self, a: Any) -> str:
        """The C name of a value."""
        base = a.base if a.base[0] != "v" else "t" + a.base[1:]
        return (
            base
            if a in self.lower.by_sym or not self._ambiguous(a)
            else base + "_" + "".join(a.idx)
        )

    def _ambiguous(self, a: Any) -> bool:
        return any(b != a and b.base == a.base for b in self._inputs())

    def read(self, a: Elem, scope: str) -> str:
        """An operand of another scope, or an input, as a vector."""
        own = self.lower.scope(self.lower.idx(a))
        dtype = self.plan._dtype(a)
        t = suffix(dtype)
        if a in self.plan._fields[own] and not any(
            self.plan.is_dynamic(c) for c in self.lower.idx(a)
        ):
            if own == "par":
                return f"splat_{t}(p->{self.field(a)})"
            if own == "row":
                return f"r{'[k].' if scope == 'pair' else '->'}{self.field(a)}"
            if scope == own == "row" and a not in self.lower.by_sym:
                return f"r->{self.field(a)}"  # filled before the statements
            if scope == own:
                return (
                    self.name(a)
                    if a not in self.lower.by_sym and not self.plan.features(self.lower.idx(a))
                    else self.load(a, scope)
                )
            at = "[q]." if own == self.inner else "->"
            return f"splat_{t}(c_{own}{at}{self.field(a)})"
        return self.load(a, scope)

    def load(self, a: Elem, scope: str) -> str:
        """Read an input where it is needed."""
        t = suffix(self.p.types[a.base])
        if self.is_parameter(a.base):
            return f"splat_{t}({self.parameter(a)})"
        number, where = self.p.inputs[a.base]
        stored = suffix(self.storage[number])
        lane = LANE if scope in ("pair", "row") else scope if scope in self.columns else ""
        at = {c: f"c[{n}]" for n, c in enumerate(self.columns)}
        if scope == "pair":
            at[self.inner] = f"(c[{len(self.columns) - 1}] + q)"
            at[LANE] = "i[k]"
        elif lane:
            at[lane] = "first"
        address = self.address(a, at)
        if lane and lane in a.idx:
            axis = where[a.idx.index(lane)]
            stride = self.slot(f"{a.base.upper()}_{axis}", ("stride", number, axis))
            return f"load_lanes_{stored}({address}, {stride}, {'n[k]' if scope == 'pair' else 'n'})"
        return f"splat_{t}({self._scalar(stored, address)})"

    def _scalar(self, stored: str, address: str) -> str:
        return f"load_{stored}({address})"

    def parameter(self, a: Elem) -> str:
        number, _ = self.p.inputs[a.base]
        dtype = self.scalars[a.base]
        slot = self.slot(f"{a.base.upper()}", ("value", number, dtype.name))
        t = suffix(dtype)
        if dtype.kind in "iub":
            return f"({t})({slot})"
        if dtype.kind == "f":
            return f"({t})*(const f64 *)&{slot}"
        part = "f32" if t == "c64" else "f64"
        imag = f"a[{a.base.upper()}_imag]"
        return f"make_{t}(({part})*(const f64 *)&{slot}, ({part})*(const f64 *)&{imag})"

    # -- statements --------------------------------------------------------------------------------

    def text(self) -> Kernel:
        body = [line for t in self._used() if t.sampled for line in self._centre(t)]
        for name in ("par", *self.columns, "row"):
            body += self._fill(name)
        body += self._pairs()
        structs = [self._struct(n) for n in ("par", "row", *self.columns)]
        columns = self._column_table()
        locate = self._locate()
        outputs = self._outputs()
        head = ["// " + line for line in self.title.splitlines()] + [
            "",
            "#define DUCKKEOPS_PRELUDE 1",
            f"#define REDUCE_{self.row} 1",
            *(f"#define {k} {v}" for k, v in self.macros.items()),
            *self._machine(),
            f"COLUMN_AXES = {len(self.columns)}, OUTPUTS = {self.outputs} }};",
            "enum { " + ", ".join([*self.names, "ARGUMENTS"]) + " };",
            "//---- vector ----",
            *structs,
            *columns,
            *locate,
            "//---- reduction ----",
            *outputs,
            *body,
            *(self._fill_columns() if self.block else self._fill_column()),
        ]
        return Kernel(
            "\n".join(head) + "\n",
            Layout(tuple(self.entries)),
            self.lane,
            self.own_rows,
            self.outputs,
            self._fixed(),
            self.block,
            self.p.ordered,
            self._limit(),
        )

    def _limit(self) -> tuple[float, float] | None:
        if not self.on_device or not self.lower.fast:
            return None
        turns = self.tile.turns_of_exp2
        return limits.of(self.lower, self.plan, self.roots, self.row, turns)

    def _machine(self) -> list[str]:
        """Lanes, rows and columns of a tile."""
        tile = f"NI = {self.rows}, NJ = {self.cols}, "
        if self.block:
            threads, rows = self.block
            tile += f"RUNS = {self.tile.runs}, "
            return [
                f"#define VB {self.lane}",
                '#define UNROLL _Pragma("unroll")',
                f"#define RESIDENT {self.tile.resident}",
                f"#define UNROLLED {self.tile.turns}",
                f"enum {{ THREADS = {threads}, ROWS_AT_ONCE = {rows}, {tile}",
            ]
        return [
            f"#define LANE_BYTES {self.lane}",
            f"#define VB {self.vector_bytes}",
            "#define V (VB / LANE_BYTES)",
            "#if defined __clang__",
            '#define UNROLL _Pragma("clang loop unroll(full)")',
            "#else",
            '#define UNROLL _Pragma("GCC unroll 32")',
            "#endif",
            f"enum {{ {tile}",
        ]

    def _fixed(self) -> bool:
        """Do the columns' records depend on no outer axis?"""
        todo = [a for c in self.columns for a in self.plan.needed[c]] + list(
            self.plan.needed["par"]
        )
        for c in (*self.columns, "par"):
            for a in self.plan.needed[c]:
                if a in self.lower.by_sym:
                    todo += list(self.lower.by_sym[a].expr.free_symbols)
        outer = set(self.axes.outer)
        return not (self._named() & outer or any(set(getattr(a, "idx", ())) & outer for a in todo))

    def _struct(self, scope: str) -> str:
        fields = []
        vector = "v" if scope == "row" else ""
        spare = {t.scaled.y for t in self._used() if t.scaled}  # seldom read: last
        for a, dtype, features in sorted(
            self.plan.scopes[scope].fields, key=lambda f: f[0] in spare
        ):
            t = "vb" if vector and dtype.kind == "b" else vector + suffix(dtype)
            fields.append(f"{t} {self.name(a)}{''.join(f'[{self.p.sizes[c]}]' for c in features)};")
        kind = {"par": "Par", "row": "Row"}.get(scope, f"Col_{scope}")
        note = {"par": "the same for all pairs", "row": "V rows i, lane by lane"}.get(
            scope, f"one column {scope}"
        )
        align = f" __align__({self._alignment(scope)})" if self.block and fields else ""
        return f"struct{align} {kind} {{ {' '.join(fields)} }};  // {note}"

    def _alignment(self, scope: str) -> int:
        """Of a record: reads of 16 bytes are the fewest."""
        fields = self.plan.scopes[scope].fields
        size = sum(dtype.itemsize * self._size(features) for _, dtype, features in fields)
        least = max(dtype.itemsize for _, dtype, _ in fields)
        return max(least, 16 if size > 8 else 8 if size > 4 else least)

    def _column_table(self) -> list[str]:
        members = " ".join(f"struct Col_{c} *{c};" for c in self.columns)
        sizes = ", ".join(self.length(c) for c in self.columns)
        outer = "*".join(self.length(c) for c in self.axes.outer)
        record = " + ".join(f"(int)sizeof(struct Col_{c})" for c in self.columns)
        out = [
            f"struct Cols {{ {members} }};",
            f"INL void column_sizes(const i64 *a, i64 *sizes) {{ const i64 s[] = {{{sizes}}}; "
            "for (int m = 0; m < COLUMN_AXES; ++m) sizes[m] = s[m]; }",
            "INL i64 columns_at(const i64 *a, char *records, struct Cols *cols) {",
            "    i64 used = 0;",
        ]
        for c in self.columns:
            out += [
                f"    cols->{c} = (struct Col_{c} *)(records + used);",
                f"    used += ({self.length(c)}*(i64)sizeof(struct Col_{c}) + 63)/64*64;",
            ]
        return [
            *out,
            "    return used;",
            "}",
            f"INL i64 row_count(const i64 *a) {{ return {self.length(LANE)}; }}",
            f"INL i64 outer_count(const i64 *a) {{ return {outer or 1}; }}",
            f"enum {{ RECORD_BYTES = {record} }};",
        ]

    def _fill_column(self) -> list[str]:
        """One door to the records of all column axes, for the skeleton's loop."""
        out = [
            "INL void fill_column(int axis, const i64 *a, const struct At *at, "
            "const struct Par *p, i64 first, int n, struct Cols *cols) {"
        ]
        out += [
            f"    if (axis == {m}) fill_col_{c}(a, at, p, first, n, cols->{c} + first);"
            for m, c in enumerate(self.columns)
        ]
        return [*out, "}", ""]

    def _fill_columns(self) -> list[str]:
        """The same for a tile of the last axis in shared memory, and one index of each other."""
        *others, inner = self.columns
        args = "const i64 *a, const struct At *at, const struct Par *p"
        records = " ".join(f"struct Col_{c} {c};" for c in others)
        return [
            f"typedef struct Col_{inner} INNER;",
            f"typedef struct {{ {records or 'char unused;'} }} OTHERS;",
            f"INL void fill_inner({args}, i64 at_column, INNER *to) "
            f"{{ fill_col_{inner}(a, at, p, at_column, 1, to); }}",
            f"INL void fill_others({args}, const i64 *c, OTHERS *to) {{ "
            + " ".join(
                f"fill_col_{c}(a, at, p, c[{m}], 1, &to->{c});" for m, c in enumerate(others)
            )
            + " }",
            *self._far(),
            "INL void columns_of(const INNER *inner, const OTHERS *others, struct Cols *cols) {",
            f"    cols->{inner} = (INNER *)inner;",
            *(f"    cols->{c} = (struct Col_{c} *)&others->{c};" for c in others),
            "}",
            "",
        ]

    def _far(self) -> list[str]:
        """Are scaled coordinates of a row, or of a column, too large to be precise?"""
        every = [t.scaled for t in self._used() if t.scaled]
        if not every:
            return []
        out = ["#define SCALED 1"]
        for name, record, side in (
            ("row", "struct Row *r", 0),
            ("inner", "INNER *c", 1),
        ):
            out += [f"INL int far_{name}(const {record}) {{", "    int far = 0;"]
            for a, most in (one.sides[side] for one in every):
                value, pad = f"{record[-1]}->{self.field(a)}", "    "
                value = value if name == "row" else f"splat_f32({value})"
                for c in self.plan.features(self.lower.idx(a)):
                    size = self.p.sizes[c] or 0
                    unrolled = "UNROLL " if size <= self.unroll_up_to else ""
                    out.append(f"{pad}{unrolled}for (int {c} = 0; {c} < {size}; ++{c})")
                    pad += "    "
                out.append(f"{pad}far |= any_not_le_f32(abs_f32({value}), splat_f32({most}));")
            out += ["    return far;", "}"]
        return out

    def _locate(self) -> list[str]:
        """The inputs' addresses at one index of the outer axes."""
        arrays = sorted(
            (a for a in self._inputs() if not self.is_parameter(a.base)),
            key=lambda a: (int(a.base[1:]), a.name),
        )
        anchors = {self.anchor(a): a for a in arrays}
        outer = list(self.axes.outer)
        named = [c for c in outer if c in self._named()]
        fields = [f"const char *{name};" for name in anchors] + [f"i64 {c};" for c in named]
        out = [f"struct At {{ {' '.join(fields)} }};"]
        out += ["INL void locate(const i64 *a, i64 outer, struct At *at) {"]
        for c in reversed(outer):
            out += [
                f"    const i64 {c} = outer % {self.length(c)};",
                f"    outer /= {self.length(c)};",
            ]
        for name, a in anchors.items():
            number, base = self.p.inputs[a.base][0], a.base.upper()
            text = f"(const char *){self.slot(base, ('pointer', number))}"
            for c, axis in self._entry(a):
                text += f" + {c}*{self.slot(f'{base}_{axis}', ('stride', number, axis))}"
            out.append(f"    at->{name} = {text};")
        out += [f"    at->{c} = {c};" for c in named]
        out += [
            f"    {' '.join(f'(void){c};' for c in outer)}" if outer else "    (void)outer;",
            "}",
        ]
        return out

    def _named(self) -> set[str]:
        """The indices that some operation compares with others."""
        symbols = {a for t in self.lower.temps for a in t.expr.free_symbols}
        return {a.name for a in symbols if isinstance(a, fn.IndexSymbol)}

    def _outputs(self) -> list[str]:
        """Where the state of (outer, row, output) goes, one address a component."""
        n = int(self.macros["COMPONENTS"])
        out = ["INL void output_at(const i64 *a, i64 row, i64 output, char **out) {"]
        for m in range(n):
            pointer = self.slot(f"OUT{m}", ("out", m))
            out.append(f"    out[{m}] = (char *){pointer} + (row*OUTPUTS + output)*OUT{m}_BYTES;")
        if "AFTER" in self.macros:
            self.slot("AFTER_VALUE", ("out", n))
            self.slot("AFTER_AT", ("out", n + 1))
        return [*out, "}"]

    def _printer(self, scope: str, inlined: dict[Any, Temp], tiles: set[Any]) -> KernelPrinter:
        def operand(a: Any) -> tuple[str, int]:
            if isinstance(a, fn.IndexSymbol):
                return self._index(a.name, scope), PRECEDENCE["Atom"]
            temp = self.lower.by_sym.get(a)
            if a in inlined and temp is not None:
                if temp.expr.is_Symbol:
                    return operand(temp.expr)
                prec = PRECEDENCE["Func"] if temp.dtype.kind == "c" else binding(temp.expr)
                return printer.text(temp.expr, self._loop(temp)), prec
            dynamic = any(self.plan.is_dynamic(c) for c in self.lower.idx(a))
            own = scope if dynamic else self.lower.scope(self.lower.idx(a))
            if temp is None or own != scope:
                return self.read(a, scope), PRECEDENCE["Atom"]
            features = self.plan.features(temp.idx)
            if a in self.plan.stored and features:
                at = "".join(f"[{c}]" for c in features)
                return f"{self.name(a)}{at}{'[q][k]' if scope == 'pair' else ''}", PRECEDENCE[
                    "Atom"
                ]
            return f"{self.name(a)}{'[q][k]' if a in tiles else ''}", PRECEDENCE["Atom"]

        printer = KernelPrinter(self.lower, operand, {LANE, scope})
        if scope == "pair" and self.on_device and self.lower.fast:
            printer.turns = self.tile.turns_of_exp2
        return printer

    def _index(self, c: str, scope: str) -> str:
        """The value of a loop index; of one along the lanes, that of the first lane."""
        if c in self.axes.outer:
            return f"at->{c}"
        if c in (LANE, scope):
            return "i[k]" if scope == "pair" else "first"
        if c in self.columns and scope == "pair":
            n = self.columns.index(c)
            return f"(c[{n}] + q)" if c == self.inner else f"c[{n}]"
        return c

    def _loop(self, t: Temp) -> np.dtype:
        """The dtype that the operation of `t` computes in."""
        return t.dtype if not t.expr.is_Function else (self.lower.dtype(t.expr.args[-1]) or t.dtype)

    def _fill(self, scope: str) -> list[str]:
        """The function that computes the fields of one scope.

        The scope is that of the launch, of V rows, or of V columns.
        """
        kind = {"par": "par", "row": "row"}.get(scope, f"col_{scope}")
        shared = "const i64 *a, const struct At *at"
        run = "const struct Par *p, i64 first, int n"
        args = {
            "par": f"{shared}, struct Par *p",
            "row": f"{shared}, {run}, struct Row *r",
        }.get(scope, f"{shared}, {run}, struct Col_{scope} *c_{scope}")
        out = [f"FUNCTION void fill_{kind}({args}) {{"]
        table = self.plan.scopes[scope]
        loads = [f for f in table.fields if f[0] not in self.lower.by_sym]
        store = self._storer(scope)
        local: list[str] = []
        for a, dtype, features in loads:
            pad = "    "
            if scope != "row" and not features:  # the statements below may read it too
                local.append(
                    f"{pad}const v{vector_suffix(dtype)} {self.name(a)} = {self.load(a, scope)};"
                )
                local.append(f"{pad}{store(self.field(a), self.name(a), dtype)}")
                continue
            if len(features) == 1 and self._is_copied(a, dtype, scope):
                local.append(f"{pad}{self._copy(a, scope, features[0], self.name(a))}")
                continue
            for c in features:
                local.append(f"{pad}for (int {c} = 0; {c} < {self.p.sizes[c]}; ++{c})")
                pad += "    "
            local.append(f"{pad}{store(self.field(a), self.load(a, scope), dtype)}")
        writer = Writer(self, scope)
        steps = writer.steps(table.steps, "    ")
        arrays = [self._array(t) for t in table.arrays]
        out += [*local, *(declared for declared, _ in arrays), *steps]
        for a, dtype, features in table.fields:
            if a in self.lower.by_sym:
                y, centre = self.lower.centred.get(a, (None, None))
                if y is not None and self._is_copied(y, dtype, scope):
                    out.append(f"    {self._copy(y, scope, features[0], self.name(a))}")
                    out.append(
                        f"    off_centre_{suffix(dtype)}(c_{scope}->{self.name(a)}, "
                        f"sizeof(struct Col_{scope}), p->{self.name(centre)}, "
                        f"{self.p.sizes[features[0]]}, n);"
                    )
                    continue
                pad = "    "
                for c in features:
                    out.append(f"{pad}for (int {c} = 0; {c} < {self.p.sizes[c]}; ++{c})")
                    pad += "    "
                out.append(f"{pad}{store(self.field(a), self.field(a), dtype)}")
        return [*out, *(freed for _, freed in arrays if freed), "}", ""]

    def _is_copied(self, a: Elem, dtype: np.dtype, scope: str) -> bool:
        """Does a column's record hold the input's own bytes?"""
        if scope not in self.columns or self.is_parameter(a.base) or dtype.kind not in "fiu":
            return False
        stored = suffix(self.storage[self.p.inputs[a.base][0]])
        return stored == suffix(dtype) and scope in a.idx

    def _copy(self, a: Elem, scope: str, feature: str, field: str) -> str:
        """Copy the features of some columns, column by column as they lie in memory."""
        number, where = self.p.inputs[a.base]
        column, inner = (
            self.slot(f"{a.base.upper()}_{axis}", ("stride", number, axis))
            for axis in (where[a.idx.index(scope)], where[a.idx.index(feature)])
        )
        source = self.address(a, {scope: "first", feature: ""})
        return (
            f"copy_{suffix(self.p.types[a.base])}(c_{scope}->{field}, "
            f"sizeof(struct Col_{scope}), {source}, {column}, {inner}, "
            f"{self.p.sizes[feature]}, n);"
        )

    def _array(self, t: Temp, tile: str = "", copies: int = 1) -> tuple[str, str]:
        """The declaration of a temporary with features, and how to free it.

        A large one does not fit on a thread's stack.
        """
        features = self.plan.features(t.idx)
        vector, name = f"v{vector_suffix(t.dtype)}", self.name(t.sym)
        dims = [f"[{self.p.sizes[c]}]" for c in features]
        if self.block or self._size(features) * copies * self.vector_bytes <= STACK_BYTES:
            return f"    {vector} {name}{''.join(dims)}{tile};", ""
        entry = "".join(dims[1:]) + tile
        room = f"char *{name}_room = __builtin_malloc(sizeof({vector}{''.join(dims)}{tile}) + 64)"
        return (
            f"    {room}; {vector} (*{name}){entry} = "
            f"(void *)({name}_room + (-(i64){name}_room & 63));",
            f"    __builtin_free({name}_room);",
        )

    def _storer(self, scope: str) -> Any:
        def store(field: str, value: str, dtype: np.dtype) -> str:
            if scope == "row":
                return f"r->{field} = {value};"
            t = suffix(dtype)
            if scope == "par":
                return f"store_lanes_{t}(&p->{field}, 0, 1, {value});"
            return f"store_lanes_{t}(&c_{scope}->{field}, sizeof(struct Col_{scope}), n, {value});"

        return store

    def _pairs(self) -> list[str]:
        """The inner loop: the values of a tile, and their reduction.

        A tile has nj columns and NI vectors of rows.
        """
        out = [
            "INL void pairs(const int nj, const i64 *a, const struct At *at, const struct Par *p, "
            "const struct Row *r, const i64 *i,",
            "               const int *n, const int cancels, const struct Cols *cols, "
            "const i64 *c, i64 index, Head *head, Acc *acc) {",
        ]
        for m, name in enumerate(self.columns):
            at = "" if self.block else f" + c[{m}]"
            out.append(f"    const struct Col_{name} *c_{name} = cols->{name}{at};")
        writer = Writer(self, "pair", roots=self.plan.values)
        gaps = [line for nest in writer.gaps() for line in writer.differences(nest)]
        out = [*gaps, *self._cancels(writer), *out]
        table = self.plan.scopes["pair"]
        arrays = [self._array(t, "[NJ][NI]", self.rows * self.cols) for t in table.arrays]
        out += [declared for declared, _ in arrays]
        together = list(table.steps) if self.at_once() else []
        if not together:
            out += writer.steps(table.steps, "    ")
        out += self._take(writer, together)
        return [*out, *(freed for _, freed in arrays if freed), "}", ""]

    def at_once(self) -> bool:
        """Does one sweep over the tile end in the value that is reduced?"""
        return len(self.roots) == 1 and not self.roots[0].features

    def tile_function(self, name: str, result: str, body: list[str]) -> list[str]:
        """A function of one tile that is not inlined; `call_tile` calls it."""
        args = (
            "const i64 *a, const struct At *at, const struct Row *r, const struct Cols *cols, "
            "const i64 *c"
        )
        (m,) = [n for n, name in enumerate(self.columns) if name == self.inner]
        return [
            f"INL void {name}_of(const int nj, {args}, {result}) {{",
            f"    const struct Col_{self.inner} *c_{self.inner} = cols->{self.inner} + c[{m}];",
            *body,
            "}",
            f"static __attribute__((noinline)) void {name}(int nj, {args}, {result}) {{",
            f"    if (nj == NJ) {name}_of(NJ, a, at, r, cols, c, out);",
            f"    else {name}_of(1, a, at, r, cols, c, out);",
            "}",
            "",
        ]

    def call_tile(self, name: str, out: str) -> str:
        return f"{name}(nj, a, at, r, cols, c, {out});"

    def _cancels(self, writer: Writer) -> list[str]:
        """The function that says if a squared distance of one column cancels."""
        if not writer.gaps():
            return []
        out = [
            "#define CANCELS 1",
            "FUNCTION int cancels_at(const struct Row *r, const struct Cols *cols, i64 column) {",
            f"    const struct Col_{self.inner} *c_{self.inner} = cols->{self.inner} + column;",
            "    const int nj = 1;",
            "    int any = 0;",
        ]
        for nest in writer.gaps():
            (t,) = nest.temps
            out += [
                "    {",
                f"        v{vector_suffix(t.dtype)} {self.name(t.sym)}[1][NI];",
                *writer.products(nest, "        "),
                "        any |= near;",
                "    }",
            ]
        return [*out, "    return any;", "}", ""]

    def _centre(self, t: Temp) -> list[str]:
        """The function that looks at some columns of an input for the centre of one feature."""
        (c,), s = self.plan.features(t.idx), suffix(t.dtype)
        number, _ = self.p.inputs[t.expr.base]
        if self.on_device:  # all at once: one thread waits for them, and its block for that
            some, unrolled, at = str(DEVICE_SAMPLES), "UNROLL ", f"m*columns/{DEVICE_SAMPLES}"
        else:
            some, unrolled, at = f"columns < {SAMPLES} ? columns : {SAMPLES}", "", "m*columns/n"
        address = self.address(t.expr, {self.inner: at})
        return [
            f"FUNCTION {s} {self.name(t.sym)}_at(const i64 *a, const struct At *at, int {c}) {{",
            f"    const i64 columns = {self.length(self.inner)}, n = {some};",
            f"    {s} some[{DEVICE_SAMPLES if self.on_device else SAMPLES}];",
            "    if (columns == 0) return 0;",
            f"    {unrolled}for (i64 m = 0; m < n; ++m) "
            f"some[m] = ({s}){self._scalar(suffix(self.storage[number]), address)};",
            f"    return centre_{s}(some, (int)n);",
            "}",
            "",
        ]

    def _take(self, writer: Writer, together: list[Any]) -> list[str]:
        """Hand the values of the tile to the reduction.

        `together` are the steps that end in the value itself.
        """
        out, call = [], "take(nj, head, acc + {at}, v, index);"
        results = list(enumerate(zip(self.roots, self.plan.values, strict=True)))
        if len(results) == 2 and self.row == "histogram":  # the weights first
            _, (root, value) = results.pop(0)
            vector = f"v{vector_suffix(root.dtype)}"
            out += [
                f"    {vector} w[NJ][NI];",
                "    {",
                *writer.tile("s", value, root.dtype, [], "        ", vector),
                "        TILE w[q][k] = s[q][k];",
                "    }",
            ]
            call = "take(nj, head, acc + {at}, v, w, index);"
        elif len(results) == 2 and self.row == "softmax_sum":
            _, (root, value) = results.pop(0)
            out += [
                "    vval w[NJ][NI];",
                "    {",
                *writer.tile("s", value, root.dtype, [], "        "),
            ]
            out += ["        take_head(nj, head, acc, s, w);", "    }"]
            call = "take(nj, acc + {at}, v, w, index);"
        first = 0
        for n, (root, value) in results:
            steps = together or writer.last_steps(n)
            out += self._take_one(writer, root, value, steps, call, first)
            first += self._size(root.features)
        return out

    def _take_one(
        self, writer: Writer, root: Root, value: Any, steps: list[Any], call: str, first: int
    ) -> list[str]:
        """Hand the values of one root to the accumulators from `first` on."""
        out: list[str] = []
        pad = "    "
        at = ""
        for c in root.features:
            size = self.p.sizes[c] or 0
            if self._size(root.features) <= self.unroll_up_to:
                out.append(f"{pad}UNROLL")
            out.append(f"{pad}for (int {c} = 0; {c} < {size}; ++{c}) {{")
            at = f"({at})*{size} + {c}" if at else c
            pad += "    "
        if not root.features and len(self.roots) > 1:
            out.append(f"{pad}{{")
            pad += "    "
        out += writer.tile("v", value, root.dtype, steps, pad)
        at = " + ".join(filter(None, (str(first) if first or not at else "", at)))
        out.append(pad + call.format(at=at))
        for m in reversed(range(len(pad) // 4 - 1)):
            out.append("    " * (m + 1) + "}")
        return out
