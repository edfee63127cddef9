"""A lowered program -> the prelude of a kernel: types, sizes, small inline functions, in C that CUDA reads too.

`KernelPrinter` is SymPy's C99 printer with one method for each thing that it prints otherwise: float literals with the
right suffix, products for powers, function names that carry the dtype, complex arithmetic as calls. `Prelude` puts the
scheduled statements of each scope into functions that the skeleton calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from sympy.printing.c import C99CodePrinter
from sympy.printing.precedence import PRECEDENCE, precedence

from duckkeops import functions as fn
from duckkeops.lower import LANE, Lower, Nest, Root, Scheduler, Straight, Temp
from duckkeops.symbolic import Elem, Fold, Let, Program, elems

SUFFIX = {
    "bool": "b1",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    "complex128": "c128",
}
UNROLL_UP_TO = 4  # features; beyond it full unrolling makes gcc spill
INLINE_DEPTH = 3
FORMULA_DEPTH = 30  # operations in each other that the title of a kernel writes out
STACK_BYTES = 65536  # of one array of a kernel


def suffix(dtype: np.dtype) -> str:
    return SUFFIX[dtype.name]


def lane_bytes(dtype: np.dtype) -> int:
    """Bytes of one lane of this dtype's vectors; a complex number is two vectors, a boolean takes any width."""
    return {"c": dtype.itemsize // 2, "b": 1}.get(dtype.kind, dtype.itemsize)


class KernelPrinter(C99CodePrinter):
    """Prints expressions over operands; `operand` gives the C text of a symbol and says if it is an atom."""

    def __init__(self, lower: Lower, operand: Any, across: Iterable[str] = ()):
        super().__init__()
        self.lower, self.operand, self.across = lower, operand, frozenset(across)
        self.t = "f32"  # the dtype that numbers are printed in

    def text(self, e: Any, dtype: np.dtype) -> str:
        before, self.t = self.t, suffix(dtype)
        out = self._print(e)
        self.t = before
        return out

    # -- numbers -------------------------------------------------------------------------------------------------------

    def literal(self, v: Any) -> str:
        """A scalar literal of the current dtype."""
        t = self.t
        if t[0] in "iu":
            return str(int(v))
        if t[0] == "b":
            return "1" if v != 0 else "0"
        if t[0] == "c":
            self.t = "f32" if t == "c64" else "f64"
            re, im = v.as_real_imag()
            out = f"({t}){{{self.literal(re)}, {self.literal(im)}}}"
            self.t = t
            return out
        exact = sympy.N(v, 25)
        if t == "f32":
            short = np.float32(float(exact))
            text = repr(float(short)) if float(short) == float(exact) else f"{float(exact):.9g}"
        else:
            text = repr(float(exact))
        return text + ("" if any(c in text for c in ".en") else ".0") + ("f" if t == "f32" else "")

    def number(self, e: Any) -> str:
        """A number as a factor or term: a bare literal where C mixes it with vectors."""
        return self.literal(e) if self.t[0] == "f" else self.splat(e)

    def splat(self, e: Any) -> str:
        return f"splat_{self.t}({self.literal(e)})"

    def _print_Integer(self, e: Any) -> str:
        return self.number(e)

    _print_Rational = _print_Float = _print_NumberSymbol = _print_One = _print_Zero = _print_NegativeOne = _print_Half = _print_Integer

    def _print_ImaginaryUnit(self, e: Any) -> str:
        return self.number(e)

    def _print_Symbol(self, e: Any) -> str:
        return self.operand(e)[0]

    _print_Elem = _print_Symbol

    def emptyPrinter(self, expr: Any) -> str:  # noqa: N802
        raise TypeError(f"no C for {type(expr).__name__}: {expr}")

    # -- arithmetic: in the order of the operands, with parentheses wherever C would associate otherwise ---------------

    def parenthesize(self, item: Any, level: int, strict: bool = False) -> str:
        if isinstance(item, sympy.Symbol):
            text, prec = self.operand(item)
        elif item.is_number:
            text, prec = self.number(item), PRECEDENCE["Atom"] if not sympy.N(item).is_negative else PRECEDENCE["Add"]
        else:
            text, prec = self._print(item), PRECEDENCE["Func"] if item.is_Function else precedence(item)
        return f"({text})" if prec < level or (strict and prec == level) else text

    def _argument(self, e: Any, t: np.dtype | None = None) -> str:
        """An argument of a function: always a vector."""
        before = self.t
        if t is not None:
            self.t = suffix(t)
        out = self.splat(e) if e.is_number else self._print(e)
        self.t = before
        return out

    def _print_Add(self, e: Any, order: Any = None) -> str:
        terms = sorted(e.args, key=lambda a: a.could_extract_minus_sign())
        if self.t[0] == "c":
            out = self._argument(terms[0])
            for a in terms[1:]:
                minus = a.could_extract_minus_sign()
                out = f"{'sub' if minus else 'add'}_{self.t}({out}, {self._argument(-a if minus else a)})"
            return out
        out = self.parenthesize(terms[0], PRECEDENCE["Add"])
        for a in terms[1:]:
            minus = a.could_extract_minus_sign()
            out += (" - " if minus else " + ") + self.parenthesize(_negated(a) if minus else a, PRECEDENCE["Add"], strict=True)
        return out

    def _print_Mul(self, e: Any) -> str:
        factors = [a for a in e.args if not (a.is_Pow and a.exp == -1 and a.free_symbols)]
        under = [a.base for a in e.args if a.is_Pow and a.exp == -1 and a.free_symbols]
        if self.t[0] == "c":
            return self._complex_product(factors, under)
        sign = ""
        if factors and factors[0].is_number and sympy.N(factors[0]).is_negative and self.t[0] != "u":
            sign, factors = "-", [-factors[0], *factors[1:]]
        factors = [a for a in factors if a != 1]
        if not factors:
            text = self.number(sympy.S.One)
        elif len(factors) == 1 and not under:
            return sign + self.parenthesize(factors[0], PRECEDENCE["Mul"], strict=bool(sign))
        else:
            text = "*".join(self.parenthesize(a, PRECEDENCE["Mul"], strict=n > 0) for n, a in enumerate(factors))
        if under and not any(a.free_symbols for a in factors):
            text = self.splat(sympy.Mul(*factors))
        for b in under:
            text += "/" + self.parenthesize(b, PRECEDENCE["Mul"], strict=True)
        return sign + text

    def _complex_product(self, factors: list[Any], under: list[Any]) -> str:
        if len(factors) == 2 and factors[0] == -1:
            out = f"neg_{self.t}({self._argument(factors[1])})"
        else:
            out = self._argument(factors[0]) if factors else self.splat(sympy.S.One)
            for a in factors[1:]:
                out = f"mul_{self.t}({out}, {self._argument(a)})"
        for b in under:
            out = f"div_{self.t}({out}, {self._argument(b)})"
        return out

    def _print_Pow(self, e: Any) -> str:
        b, q = e.args
        if q == -1:
            return f"div_{self.t}({self.splat(sympy.S.One)}, {self._argument(b)})" if self.t[0] == "c" else (
                f"{self.splat(sympy.S.One)}/{self.parenthesize(b, PRECEDENCE['Mul'], strict=True)}"
            )
        if q == sympy.Rational(1, 2):
            return f"sqrt_{self.t}({self._argument(b)})"
        text = self.parenthesize(b, PRECEDENCE["Mul"])
        if self.t[0] == "c":
            out = text
            for _ in range(int(q) - 1):
                out = f"mul_{self.t}({out}, {text})"
            return out
        return "*".join([text] * int(q))

    # -- functions: name_dtype(arguments) ------------------------------------------------------------------------------

    def _call(self, e: Any) -> str:
        kinds = [self.lower.dtype(a) if not a.is_number else None for a in e.args]
        default = np.dtype(next(n for n, s in SUFFIX.items() if s == self.t))
        if isinstance(e, fn.Elementwise):
            types = e.argument_dtypes(kinds, default)
        else:
            types = [default] * len(e.args)
        name = type(e).__name__
        args = ", ".join(self._argument(a, t) for a, t in zip(e.args, types, strict=True))
        return f"{name}_{suffix(types[-1])}({args})"

    def _print_Function(self, e: Any) -> str:
        return self._call(e)

    def _print_cast(self, e: Any) -> str:
        x, to = e.args
        source = self.lower.dtype(x)
        assert source is not None
        return f"{SUFFIX[to.name]}_from_{suffix(source)}({self._argument(x, source)})"

    def _print_delta(self, e: Any) -> str:
        across = [x for x in e.args if x.name in self.across]  # lanes count up along this index
        a, b = (self.operand(x)[0] for x in (e.args if not across else (across[0], *(set(e.args) - set(across)))))
        t = {"c64": "f32", "c128": "f64"}.get(self.t, self.t)
        out = f"unit_{t}({b} - {a})" if across else f"splat_{t}({a} == {b})"
        return out if t == self.t else f"{self.t}_from_{t}({out})"


def _known(name: str) -> Any:
    return lambda self, e: self._call(e)


for _name in ("exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"):
    setattr(KernelPrinter, f"_print_{_name}", _known(_name))
for _name in fn.OURS:
    if _name not in ("cast", "delta"):
        setattr(KernelPrinter, f"_print_{_name}", _known(_name))


def _negated(e: Any) -> Any:
    """-e of a product or number with a minus sign, unevaluated."""
    if e.is_Mul and not e.is_number:
        c, *rest = e.args
        if c == -1 and len(rest) == 1:
            return rest[0]
        return sympy.Mul(-c, *rest, evaluate=False) if c != -1 else sympy.Mul(*rest, evaluate=False)
    return -e


# -- the prelude -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """What the engine writes into the kernel's argument array, entry by entry.

    ("size", axis) of the whole; ("length", node, axis) of an inner fold; ("pointer", node); ("stride", node, axis) in
    bytes; ("value", node, dtype) of a parameter, in two entries; ("out", component); ("out stride", component, axis).
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
    features: tuple[int, ...]
    fixed_columns: bool


class Prelude:
    """Writes the prelude of one reduction over one program."""

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
    ):
        self.p, self.axes, self.roots, self.row, self.macros, self.title = program, axes, roots, row, macros, title
        self.scalars, self.storage, self.vector_bytes = scalars, storage, vector_bytes
        self.lower = Lower(program, LANE, tuple(axes.columns), axes.outer, fast)
        self.plan = Scheduler(self.lower, roots)
        self.entries: list[tuple] = []
        self.names: list[str] = []
        self.columns = list(axes.columns)
        self.inner = self.columns[-1]
        self.lines: list[str] = []
        kinds = [*types, *(t.dtype for t in self._used()), *(self.p.types[a.base] for a in self._inputs())]
        self.lane = max([4, *(lane_bytes(t) for t in kinds)])
        outputs = int(np.prod([self.p.sizes[c] for c in self._features()], dtype=np.int64))
        arrays = sum(self._size(self.plan.features(t.idx)) for t in self.plan.scopes["pair"].arrays)
        self.rows, self.cols = tile(self._deepest(), outputs, arrays)
        self.outputs = outputs

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _used(self) -> list[Temp]:
        need = {a for n in self.plan.needed.values() for a in n}
        return [t for t in self.lower.temps if t.sym in need]

    def _inputs(self) -> list[Elem]:
        found = {a for scope in self.plan.scopes.values() for a, _, _ in scope.fields if a not in self.lower.by_sym}
        return sorted(found | set(self.plan.direct), key=lambda a: a.name)

    def _features(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c for r in self.roots for c in r.features))

    def _size(self, features: Iterable[str]) -> int:
        out = 1
        for c in features:
            out *= self.p.sizes[c] or 1
        return out

    def _deepest(self) -> int:
        return max((self._size(c for c in t.over if self.p.sizes[c]) for t in self._used() if t.fold), default=1)

    # -- the argument array --------------------------------------------------------------------------------------------

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
            text += f" + {at.get(c, c)}*{self.slot(f'{a.base.upper()}_{axis}', ('stride', number, axis))}"
        return text

    def anchor(self, a: Elem) -> str:
        """The name of the address that the outer indices of an input's element give: one for each way they enter."""
        here, *others = dict.fromkeys(self._entry(b) for b in (a, *self._inputs()) if b.base == a.base)
        return a.base + ("".join(f"_{axis}{c}" for c, axis in here) if others else "")

    def _entry(self, a: Elem) -> tuple[tuple[str, int], ...]:
        where = self.p.inputs[a.base][1]
        return tuple((c, axis) for c, axis in zip(a.idx, where, strict=True) if c in self.axes.outer)

    # -- operands ------------------------------------------------------------------------------------------------------

    def field(self, a: Any) -> str:
        features = self.plan.features(self.lower.idx(a))
        return self.name(a) + "".join(f"[{c}]" for c in features)

    def name(self, a: Any) -> str:
        """The C name of a value."""
        base = a.base if a.base[0] != "v" else "t" + a.base[1:]
        return base if a in self.lower.by_sym or not self._ambiguous(a) else base + "_" + "".join(a.idx)

    def _ambiguous(self, a: Any) -> bool:
        return any(b != a and b.base == a.base for b in self._inputs())

    def read(self, a: Elem, scope: str) -> str:
        """An operand of another scope, or an input, as a vector."""
        own = self.lower.scope(self.lower.idx(a))
        dtype = self.plan._dtype(a)
        t = suffix(dtype)
        if a in self.plan._fields[own] and not any(self.plan.is_dynamic(c) for c in self.lower.idx(a)):
            if own == "par":
                return f"splat_{t}(p->{self.field(a)})"
            if own == "row":
                return f"r{'[k].' if scope == 'pair' else '->'}{self.field(a)}"
            if scope == own:
                return self.name(a) if a not in self.lower.by_sym and not self.plan.features(self.lower.idx(a)) else self.load(a, scope)
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
        return f"load_{stored}({address})" if stored in ("f16", "bf16") else f"*(const {stored} *)({address})"

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
        return f"({t}){{({part})*(const f64 *)&{slot}, ({part})*(const f64 *)&{imag}}}"

    # -- statements ----------------------------------------------------------------------------------------------------

    def text(self) -> Kernel:
        body: list[str] = []
        for name in ("par", *self.columns, "row"):
            body += self._fill(name)
        body += self._pairs()
        structs = [self._struct(n) for n in ("par", "row", *self.columns)]
        columns = self._column_table()
        locate = self._locate()
        outputs = self._outputs()
        head = [
            "// " + line for line in self.title.splitlines()
        ] + [
            "",
            "#define DUCKKEOPS_PRELUDE 1",
            f"#define REDUCE_{self.row} 1",
            *(f"#define {k} {v}" for k, v in self.macros.items()),
            f"#define LANE_BYTES {self.lane}",
            f"#define VB {self.vector_bytes}",
            "#define V (VB / LANE_BYTES)",
            "#if defined __clang__",
            '#define UNROLL _Pragma("clang loop unroll(full)")',
            "#else",
            '#define UNROLL _Pragma("GCC unroll 32")',
            "#endif",
            f"enum {{ NI = {self.rows}, NJ = {self.cols}, COLUMN_AXES = {len(self.columns)}, OUTPUTS = {self.outputs} }};",
            "enum { " + ", ".join([*self.names, "ARGUMENTS"]) + " };",
            "//---- vector ----",
            *structs,
            *columns,
            *locate,
            "//---- reduction ----",
            *outputs,
            *body,
            *self._fill_column(),
        ]
        return Kernel(
            "\n".join(head) + "\n",
            Layout(tuple(self.entries)),
            self.lane,
            self.rows,
            tuple(self.p.sizes[c] or 0 for c in self._features()),
            self._fixed(),
        )

    def _fixed(self) -> bool:
        """Do the columns' records depend on no outer axis?"""
        todo = [a for c in self.columns for a in self.plan.needed[c]] + [a for a in self.plan.needed["par"]]
        for c in (*self.columns, "par"):
            for a in self.plan.needed[c]:
                if a in self.lower.by_sym:
                    todo += list(self.lower.by_sym[a].expr.free_symbols)
        return not any(set(getattr(a, "idx", ())) & set(self.axes.outer) for a in todo)

    def _struct(self, scope: str) -> str:
        fields = []
        vector = "v" if scope == "row" else ""
        for a, dtype, features in self.plan.scopes[scope].fields:
            t = "vb" if vector and dtype.kind == "b" else vector + suffix(dtype)
            fields.append(f"{t} {self.name(a)}{''.join(f'[{self.p.sizes[c]}]' for c in features)};")
        kind = {"par": "Par", "row": "Row"}.get(scope, f"Col_{scope}")
        note = {"par": "the same for all pairs", "row": "V rows i, lane by lane"}.get(scope, f"one column {scope}")
        return f"struct {kind} {{ {' '.join(fields)} }};  // {note}"

    def _column_table(self) -> list[str]:
        members = " ".join(f"struct Col_{c} *{c};" for c in self.columns)
        sizes = ", ".join(self.length(c) for c in self.columns)
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
        return [*out, "    return used;", "}", f"INL i64 row_count(const i64 *a) {{ return {self.length(LANE)}; }}"]

    def _fill_column(self) -> list[str]:
        """One door to the records of all column axes, for the skeleton's loop."""
        out = [
            "INL void fill_column(int axis, const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Cols *cols) {"
        ]
        out += [f"    if (axis == {m}) fill_col_{c}(a, at, p, first, n, cols->{c} + first);" for m, c in enumerate(self.columns)]
        return [*out, "}", ""]

    def _locate(self) -> list[str]:
        """The inputs' addresses at one index of the outer axes."""
        arrays = sorted((a for a in self._inputs() if not self.is_parameter(a.base)), key=lambda a: (int(a.base[1:]), a.name))
        anchors = {self.anchor(a): a for a in arrays}
        out = [f"struct At {{ {' '.join(f'const char *{name};' for name in anchors)} }};"]
        outer = list(self.axes.outer)
        out += ["INL void locate(const i64 *a, i64 outer, struct At *at) {"]
        for c in reversed(outer):
            out += [f"    const i64 {c} = outer % {self.length(c)};", f"    outer /= {self.length(c)};"]
        for name, a in anchors.items():
            number, base = self.p.inputs[a.base][0], a.base.upper()
            text = f"(const char *){self.slot(base, ('pointer', number))}"
            for c, axis in self._entry(a):
                text += f" + {c}*{self.slot(f'{base}_{axis}', ('stride', number, axis))}"
            out.append(f"    at->{name} = {text};")
        out += [f"    {' '.join(f'(void){c};' for c in outer)}" if outer else "    (void)outer;", "}"]
        return out

    def _outputs(self) -> list[str]:
        """Where the state of (outer, row, output) goes, one address a component."""
        n = int(self.macros["COMPONENTS"])
        out = ["INL void output_at(const i64 *a, i64 row, i64 output, char **out) {"]
        for m in range(n):
            pointer = self.slot(f"OUT{m}", ("out", m))
            out.append(f"    out[{m}] = (char *){pointer} + (row*OUTPUTS + output)*OUT{m}_BYTES;")
        return [*out, "}"]

    def _printer(self, scope: str, inlined: dict[Any, Temp], tiles: set[Any]) -> KernelPrinter:
        def operand(a: Any) -> tuple[str, int]:
            if isinstance(a, fn.IndexSymbol):
                return self._index(a.name, scope), PRECEDENCE["Atom"]
            temp = self.lower.by_sym.get(a)
            if a in inlined and temp is not None:
                if temp.expr.is_Symbol:
                    return operand(temp.expr)
                prec = PRECEDENCE["Func"] if temp.expr.is_Function else precedence(temp.expr)
                if temp.dtype.kind == "c":
                    prec = PRECEDENCE["Func"]
                return printer.text(temp.expr, self._loop(temp)), prec
            dynamic = any(self.plan.is_dynamic(c) for c in self.lower.idx(a))
            own = scope if dynamic else self.lower.scope(self.lower.idx(a))
            if temp is None or own != scope:
                return self.read(a, scope), PRECEDENCE["Atom"]
            features = self.plan.features(temp.idx)
            if a in self.plan.stored and features:
                at = "".join(f"[{c}]" for c in features)
                return f"{self.name(a)}{at}{'[q][k]' if scope == 'pair' else ''}", PRECEDENCE["Atom"]
            return f"{self.name(a)}{'[q][k]' if a in tiles else ''}", PRECEDENCE["Atom"]

        printer = KernelPrinter(self.lower, operand, {LANE, scope})
        return printer

    def _index(self, c: str, scope: str) -> str:
        """The value of a loop index; of one along the lanes, that of the first lane."""
        if c == LANE or c == scope:
            return "i[k]" if scope == "pair" else "first"
        if c in self.columns and scope == "pair":
            n = self.columns.index(c)
            return f"(c[{n}] + q)" if c == self.inner else f"c[{n}]"
        return c

    def _loop(self, t: Temp) -> np.dtype:
        """The dtype that the operation of `t` computes in."""
        return t.dtype if not t.expr.is_Function else (self.lower.dtype(t.expr.args[-1]) or t.dtype)

    def _fill(self, scope: str) -> list[str]:
        """The function that computes the fields of one scope: of the launch, of V rows, or of V columns."""
        kind = {"par": "par", "row": "row"}.get(scope, f"col_{scope}")
        args = {
            "par": "const i64 *a, const struct At *at, struct Par *p",
            "row": "const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Row *r",
        }.get(scope, f"const i64 *a, const struct At *at, const struct Par *p, i64 first, int n, struct Col_{scope} *c_{scope}")
        out = [f"static void fill_{kind}({args}) {{"]
        table = self.plan.scopes[scope]
        loads = [f for f in table.fields if f[0] not in self.lower.by_sym]
        store = self._storer(scope)
        local: list[str] = []
        for a, dtype, features in loads:
            pad = "    "
            if scope != "row" and not features:  # the statements below may read it too
                local.append(f"{pad}const v{_v(dtype)} {self.name(a)} = {self.load(a, scope)};")
                local.append(f"{pad}{store(self.field(a), self.name(a), dtype)}")
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
                pad = "    "
                for c in features:
                    out.append(f"{pad}for (int {c} = 0; {c} < {self.p.sizes[c]}; ++{c})")
                    pad += "    "
                out.append(f"{pad}{store(self.field(a), self.field(a), dtype)}")
        return [*out, *(freed for _, freed in arrays if freed), "}", ""]

    def _array(self, t: Temp, tile: str = "", copies: int = 1) -> tuple[str, str]:
        """The declaration of a temporary with features, and how to free it: a large one does not fit on a thread's stack."""
        features = self.plan.features(t.idx)
        vector, name = f"v{_v(t.dtype)}", self.name(t.sym)
        dims = [f"[{self.p.sizes[c]}]" for c in features]
        if self._size(features) * copies * self.vector_bytes <= STACK_BYTES:
            return f"    {vector} {name}{''.join(dims)}{tile};", ""
        entry = "".join(dims[1:]) + tile
        room = f"char *{name}_room = __builtin_malloc(sizeof({vector}{''.join(dims)}{tile}) + 64)"
        return f"    {room}; {vector} (*{name}){entry} = (void *)({name}_room + (-(i64){name}_room & 63));", f"    __builtin_free({name}_room);"

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
        """The inner loop: the values of a tile of nj columns and NI vectors of rows, and their reduction."""
        out = [
            "INL void pairs(const int nj, const i64 *a, const struct At *at, const struct Par *p, const struct Row *r, const i64 *i,",
            "               const int *n, const struct Cols *cols, const i64 *c, i64 index, Head *head, Acc *acc) {",
        ]
        for m, name in enumerate(self.columns):
            out.append(f"    const struct Col_{name} *c_{name} = cols->{name} + c[{m}];")
        writer = Writer(self, "pair", roots=self.plan.values)
        table = self.plan.scopes["pair"]
        arrays = [self._array(t, "[NJ][NI]", self.rows * self.cols) for t in table.arrays]
        out += [declared for declared, _ in arrays]
        together = list(table.steps) if len(self.roots) == 1 and not self._features() else []
        if not together:
            out += writer.steps(table.steps, "    ")
        out += self._take(writer, together)
        return [*out, *(freed for _, freed in arrays if freed), "}", ""]

    def _take(self, writer: Writer, together: list[Any]) -> list[str]:
        """Hand the values of the tile to the reduction; `together`: the steps that end in the value itself."""
        out: list[str] = []
        values = list(zip(self.roots, self.plan.values, strict=True))
        if len(values) == 2:  # softmax_sum: the weights first
            root, value = values.pop(0)
            out += ["    vval w[NJ][NI], scale[NI];", "    {", *writer.tile("s", value, root.dtype, [], "        ")]
            out += ["        take_head(nj, head, s, w, scale);", "    }"]
            call = "take(nj, acc + {at}, v, w, scale, index);"
        else:
            call = "take(nj, head, acc + {at}, v, index);"
        ((root, value),) = values
        pad, opened = "    ", []
        for c in root.features:
            size = self.p.sizes[c] or 0
            if self.outputs <= UNROLL_UP_TO:
                out.append(f"{pad}UNROLL")
            out.append(f"{pad}for (int {c} = 0; {c} < {size}; ++{c}) {{")
            opened.append(c)
            pad += "    "
        if not opened and len(self.roots) == 2:
            out.append(f"{pad}{{")
            pad += "    "
        out += writer.tile("v", value, root.dtype, together or writer.last_steps(value), pad)
        at = "0"
        for c in opened:
            at = c if at == "0" else f"({at})*{self.p.sizes[c]} + {c}"
        out.append(pad + call.format(at=at))
        for m in reversed(range(len(pad) // 4 - 1)):
            out.append("    " * (m + 1) + "}")
        return out


def _v(dtype: np.dtype) -> str:
    """Vector type names are v + suffix, masks are vb."""
    return "b" if dtype.kind == "b" else suffix(dtype)


class Writer:
    """Writes the steps of one scope. In the pair scope every value is a tile of NJ x NI vectors."""

    def __init__(self, prelude: Prelude, scope: str, roots: Iterable[Any] = ()):
        self.o, self.scope, self.pair = prelude, scope, scope == "pair"
        self.lower, self.plan = prelude.lower, prelude.plan
        self.roots = list(roots)
        self.tiles: set[Any] = set()
        self.inlined: dict[Any, Temp] = {}
        self._count_uses()
        self.printer = prelude._printer(scope, self.inlined, self.tiles)

    def last_steps(self, value: Any) -> list[Any]:
        """What the reduction's value needs inside the loops over the features of the result."""
        loops = tuple(self.o._features()) if value is self.roots[-1] else ()
        return self.plan.inside([value], loops, "pair") if loops else []

    # -- which values need a name --------------------------------------------------------------------------------------

    def _count_uses(self) -> None:
        """A value used once, next to where it is made, is printed in place; one used in another run of the tile is kept."""
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
            count[0] += n > 0 or bool(self.o._features())
            visit(self.last_steps(value))
            note(value, "root")
        fields = {a for a, _, _ in self.plan.scopes[self.scope].fields}
        for a, run in runs.items():
            where = uses.get(a, [])
            temp = self.lower.by_sym[a]
            if any(r != run for r, _ in where) and self.pair:
                self.tiles.add(a)
            elif len(where) == 1 and a not in fields and a not in self.plan.stored and self._may_inline(temp, where[0][1]):
                self.inlined[a] = temp

    def _may_inline(self, t: Temp, user: Any) -> bool:
        if t.expr.is_number:
            return False
        if isinstance(user, str):
            return True
        e = user.expr
        if e.is_Pow or any(a.is_Pow and t.sym in a.free_symbols and a.exp != -1 for a in sympy.preorder_traversal(e)):
            return False
        return self._depth(t) < INLINE_DEPTH

    def _depth(self, t: Temp) -> int:
        return 1 + max((self._depth(self.inlined[a]) for a in t.expr.free_symbols if a in self.inlined), default=0)

    # -- writing -------------------------------------------------------------------------------------------------------

    def steps(self, steps: list[Any], pad: str) -> list[str]:
        out: list[str] = []
        for step in steps:
            out += self._straight(step.temps, pad) if isinstance(step, Straight) else self._nest(step, pad)
        return out

    def _value(self, t: Temp) -> str:
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
        out: list[str] = []
        inner = pad + "    " if self.pair else pad
        for t in temps:
            name = self.o.name(t.sym)
            if t.sym in self.tiles:
                out.append(f"{inner}{name}[q][k] = {self._value(t)};")
            else:
                out.append(f"{inner}const v{_v(t.dtype)} {name} = {self._value(t)};")
        out += [inner + line for line in close or []]
        declared = [f"{pad}v{_v(t.dtype)} {self.o.name(t.sym)}[NJ][NI];" for t in temps if t.sym in self.tiles]
        if not self.pair or not out:
            return out
        return [*declared, f"{pad}TILE {{", *out, f"{pad}}}"]

    def _nest(self, nest: Nest, pad: str) -> list[str]:
        out: list[str] = []
        at = "[q][k]" if self.pair else ""
        sweep = "TILE " if self.pair else ""
        if nest.kind == "fold":
            for t in nest.temps:
                dims = "[NJ][NI]" if self.pair else ""
                for name, vector, start in self._accumulators(t):
                    out.append(f"{pad}{vector} {name}{dims};")
                    out.append(f"{pad}{sweep}{name}{at} = {start};")
        inner = pad
        positions = self._positions(nest)
        for c in nest.loops:
            size = self.o.p.sizes[c]
            if size is not None and size <= UNROLL_UP_TO:
                out.append(f"{inner}UNROLL")
            kind = "int" if size is not None else "i64"
            out.append(f"{inner}for ({kind} {c} = 0; {c} < {self.o.length(c)}; ++{c}) {{")
            inner += "    "
        steps = list(nest.steps)
        last = steps.pop() if steps and isinstance(steps[-1], Straight) else Straight([])
        out += self.steps(steps, inner)
        close: list[str] = []
        for t in nest.temps:
            close += self._accumulate(t, at, positions) if nest.kind == "fold" else [self._store(t, at)]
        out += self._straight(last.temps, inner, close)
        for m in reversed(range(len(nest.loops))):
            out.append(pad + "    " * m + "}")
        return out

    def _positions(self, nest: Nest) -> str:
        at = nest.loops[0] if nest.loops else "0"
        for c in nest.loops[1:]:
            at = f"({at})*{self.o.length(c)} + {c}"
        return at

    def _store(self, t: Temp, at: str) -> str:
        features = self.plan.features(t.idx)
        value = self.o.name(t.sym) + (at if t.sym in self.tiles else "") if t.fold else self._value(t)
        target = self.o.name(t.sym) + "".join(f"[{c}]" for c in features)
        if t.fold:
            value = f"{self.o.name(t.sym)}_{at}" if self.pair else f"{self.o.name(t.sym)}_"
        return f"{target}{at} = {value};"

    def _accumulator_name(self, t: Temp) -> str:
        """A fold that is kept in an array is accumulated under a name of its own."""
        return self.o.name(t.sym) + ("_" if t.sym in self.plan.stored and self.plan.features(t.idx) else "")

    def _accumulators(self, t: Temp) -> list[tuple[str, str, str]]:
        """(name, vector type, start) of what the fold keeps."""
        name, v, s = self._accumulator_name(t), f"v{_v(t.dtype)}", suffix(t.dtype)
        if t.fold in ("argmin", "argmax"):
            body = t.body_dtype
            assert body is not None
            best = f"{'largest' if t.fold == 'argmin' else 'smallest'}_{suffix(body)}()"
            return [(f"{name}_best", f"v{_v(body)}", best), (name, v, f"splat_{s}(0)")]
        start = {"min": f"largest_{s}()", "max": f"smallest_{s}()"}.get(t.fold)
        if start is None:
            one = t.fold in ("prod", "all")
            scalar = f"({s}){{{int(one)}, 0}}" if s[0] == "c" else str(int(one))
            start = f"splat_{s}({scalar})"
        return [(name, v, start)]

    def _accumulate(self, t: Temp, at: str, position: str) -> list[str]:
        name, s = self._accumulator_name(t) + at, suffix(t.dtype)
        dtype = t.body_dtype or t.dtype
        value = self.printer.text(t.expr, dtype)
        if t.expr.is_number:
            value = self.printer.text(t.expr, dtype)
        vector = f"splat_{suffix(dtype)}({value})" if t.expr.is_number and "splat" not in value else value
        if t.fold in ("argmin", "argmax"):
            own = self._accumulator_name(t)
            body, best = suffix(dtype), f"{own}_best{at}"
            return [
                f"const v{_v(dtype)} {own}_value = {vector};",
                f"const vb {own}_wins = {'first_less' if t.fold == 'argmin' else 'first_greater'}_{body}({own}_value, {best});",
                f"{best} = where_{body}({own}_wins, {own}_value, {best});",
                f"{name} = where_{s}({own}_wins, splat_{s}({position}), {name});",
            ]
        if t.fold in ("min", "max"):
            return [f"{name} = {t.fold}imum_{s}({name}, {vector});"]
        if t.fold in ("any", "all"):
            return [f"{name} = logical_{'or' if t.fold == 'any' else 'and'}_b1({name}, {vector});"]
        if s[0] == "c":
            return [f"{name} = {'add' if t.fold == 'sum' else 'mul'}_{s}({name}, {vector});"]
        return [f"{name} {'+' if t.fold == 'sum' else '*'}= {vector};"]

    def tile(self, name: str, value: Any, dtype: np.dtype, steps: list[Any], pad: str) -> list[str]:
        """`steps`, and in the sweep of the last of them `name`[q][k] = value."""
        steps = list(steps)
        last = steps.pop() if steps and isinstance(steps[-1], Straight) else Straight([])
        before, self.printer.t = self.printer.t, suffix(dtype)
        text = self.printer.splat(value) if value.is_number else self.printer.text(value, dtype)
        self.printer.t = before
        close = [f"{name}[q][k] = {text};"]
        return [*self.steps(steps, pad), f"{pad}vval {name}[NJ][NI];", *self._straight(last.temps, pad, close)]


def formula(program: Program, value: Any, limit: int = 400) -> str:
    """The formula as text: folds written out, `sum_d(...)`; the beginning of a long one, whose rest stays `t7[i,j]`."""

    def text(e: Any) -> str:
        for _ in range(FORMULA_DEPTH):  # shared values written out grow exponentially
            new = {a: what.expr for a in elems(e) if isinstance(what := program.definition(a), Let)}
            if not new or e.count_ops() > limit:
                break
            e = e.xreplace(new)
        named: dict[Any, Any] = {}
        for a in e.free_symbols:
            what = program.definition(a) if isinstance(a, Elem) else None
            if isinstance(what, Fold):
                body = text(what.body)
                named[a] = sympy.Symbol(f"{what.op}_{','.join(what.over)}({body})" if what.over else f"({body})")
        named |= {a: sympy.Symbol(a.base) for a in elems(e) if not a.idx and a not in named}
        return str(e.xreplace(named))

    out = text(value)
    return out if len(out) <= limit else out[: limit - 3] + "..."
