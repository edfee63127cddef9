"""Does every NumPy function that can be overridden do on lazy arrays what it does on arrays?

    python conformance/numpy_functions.py [--engine cpu] [-v]

Reads the calls of numpy_functions.txt, adds each row of the table of operations in every order of
its operands, and compares value, dtype, shape and type. Prints a table; ends with 1 if a function
has no class or no example, or if anything differs that DIFFERENCES does not list.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.testing import overrides

from duckkeops import LazyArray, UnsupportedError, config, ops
from duckkeops.numpy_table import class_of

sys.path.insert(0, str(Path(__file__).parent))
from report import table, verdict

# what differs from NumPy, by call, with the reason
DIFFERENCES = {
    'np.einsum("i,ij,j->", v, d, V, optimize=True)': "ours is the scalar that einsum returns "
    "without optimize=; NumPy's last step, a tensordot, leaves an array of no axes",
    "np.arctan2.reduce(u, axis=2, keepdims=True)": "ours is arctan2(arctan2(a, b), c); "
    "NumPy 2.4's is no fold of the three",
    "np.poly(d)": "NumPy walks the array before it asks us, and hides our refusal of that",
    "np.roots(d)": "NumPy walks the array before it asks us, and hides our refusal of that",
}

M, N, D = 7, 5, 3


class Call(NamedTuple):
    outcome: str  # lazy, genuine or refused
    text: str

    @property
    def function(self) -> Callable:
        """The NumPy function that it is an example of: the first in the text."""
        found = re.search(r"np\.((?:[a-z_]\w*\.)*[a-z_]\w*)\(", self.text)
        assert found, self.text
        name, _, _method = found[1].rpartition(".")
        return reach(name) if name and isinstance(reach(name), np.ufunc) else reach(found[1])


def reach(name: str) -> Callable:
    value: Any = np
    for part in name.split("."):
        value = getattr(value, part)
    return value


def overridable() -> dict[Callable, str]:
    """Every public NumPy function that can be overridden, and the name to call it by."""
    known = overrides.get_overridable_numpy_array_functions()
    known |= overrides.get_overridable_numpy_ufuncs()
    like = {f.__name__ for f in known}  # zeros(like=) and its kin are known by an inner function
    out: dict[Callable, str] = {}
    modules = {"": np, "linalg.": np.linalg, "fft.": np.fft}
    for prefix, module in modules.items():
        for name in dir(module):
            f = getattr(module, name)
            if name.startswith("_") or not callable(f) or isinstance(f, type):
                continue
            if f in known or (not prefix and name in like and name == f.__name__):
                out.setdefault(f, prefix + name)
    window = np.lib.stride_tricks.sliding_window_view
    return {**out, window: "lib.stride_tricks.sliding_window_view"}


# -- the calls -------------------------------------------------------------------------------------


def calls() -> list[Call]:
    lines = Path(__file__).with_suffix(".txt").read_text().splitlines()
    written = [Call(*line.split(" ", 1)) for line in lines if line and not line.startswith("#")]
    return [*written, *rows(), *transforms()]


def rows() -> Iterable[Call]:
    """Each row of the table with lazy arrays, arrays and numbers, in each order."""
    for f, name in overridable().items():
        op = ops.BY_FUNCTION.get(f)
        if op is None or f in (np.where, np.real, np.imag, np.angle):
            continue
        for operands in orders(op.nargs):
            yield Call("lazy", f"np.{name}({', '.join(operands)})")


def orders(n: int) -> list[list[str]]:
    """Operands a, b, c: lazy arrays; capital letters: arrays; and a number."""
    lazy, plain = list("abc"[:n]), list("ABC"[:n])
    if n == 1:
        return [lazy]
    mixed = [[*plain[:k], lazy[k], *plain[k + 1 :]] for k in range(n)]
    return [lazy, *mixed, ["1", *lazy[1:]], [*lazy[:-1], "1"]]


def transforms() -> Iterable[Call]:
    for name in overridable().values():
        if name.startswith("fft."):
            yield Call("refused", f"np.{name}(d)")


# -- what they are called with ---------------------------------------------------------------------


def namespace(wrap: Callable, m: int = M, n: int = N) -> dict[str, Any]:
    """The names of the calls: built alike from arrays and from lazy arrays."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(m, D)), rng.normal(size=(n, D))
    v, w = rng.normal(size=m), rng.normal(size=n)
    i, j = rng.integers(0, 2, m), rng.integers(0, 2, n)
    V = rng.normal(size=n)
    V[np.abs(V) < 0.1] = 0.5
    w[0], v[2] = 0.25, -0.25

    def scalars(r: np.ndarray) -> Any:
        return wrap(r)

    x, y = wrap(X), wrap(Y)
    u = x[:, None, :] - y[None, :, :]
    d = (u**2).sum(-1)
    a, b = scalars(v)[:, None], scalars(w)
    return {
        "np": np,
        "d": d,
        "e": np.where(a * b > 0.8, np.nan, a - b),
        "s": ((wrap(Y)[:, None] - wrap(Y[::-1].copy())[None]) ** 2).sum(-1),
        "k": scalars(i)[:, None] + scalars(j),
        "t": a < b,
        "z": a + 1j * b,
        "f": scalars(v.astype("f4"))[:, None] * scalars(w.astype("f4")),
        "u": u,
        "x": x,
        "v": scalars(v),
        "V": V,
        "P": rng.normal(size=D),
        "Q": rng.normal(size=(D, 2)),
        "W": rng.normal(size=(n, 2)),
        "TABLE": np.array([0.1, 0.5, 0.9, 2.0, 3.5]),
        "COLUMNS": np.array([0, 2]),
        **(wide(rng, m, n) if m * n < 1000 else large(m)),
    }


def wide(rng: np.random.Generator, m: int, n: int) -> dict[str, Any]:
    mask = rng.random((m, n)) < 0.6
    mask[:, 0] = mask[0] = True
    return {"A": rng.random((m, n)), "MASK": mask, "ROWS": mask[:, :2].astype(int)}


def large(m: int) -> dict[str, Any]:
    """The same without arrays of all pairs: these broadcast."""
    return {"A": np.ones((m, 1)), "MASK": np.ones((m, 1), bool), "ROWS": np.zeros((m, 2), int)}


def operands(op: ops.Op, wrap: Callable) -> dict[str, Any]:
    """a, b, c over pairs and A, B, C as arrays, within the domain of a row."""
    domain = op.domain if isinstance(op.domain[0], tuple) else (op.domain,) * op.nargs
    integer = op.name.startswith("bitwise") or op.name in ("gcd", "lcm")
    out: dict[str, Any] = {}
    for k, (low, high) in enumerate(domain):
        rng = np.random.default_rng(k)
        parts = [rng.uniform(low / 2, high / 2, size) for size in ((M, 1), (1, N))]
        whole = rng.uniform(low, high, (M, N))
        if integer:
            parts, whole = [np.floor(p).astype(int) for p in parts], np.floor(whole).astype(int)
            parts = [p.clip(0, 4) if low == 0 else p for p in parts]
        one, other = (wrap(p, 0) for p in parts)
        out["abc"[k]], out["ABC"[k]] = one + other, whole
    return out


# -- comparing -------------------------------------------------------------------------------------


def plain(x: np.ndarray, feature_ndim: int | None = None) -> np.ndarray:
    return x


def outcome(call: Call) -> str:
    """How the call differs from NumPy; empty if it does not."""
    op = ops.BY_FUNCTION.get(call.function)
    ours, theirs = namespace(LazyArray), namespace(plain)
    if op is not None and re.search(r"[(, ][abc][,)]", call.text):
        ours |= operands(op, LazyArray)
        theirs |= operands(op, plain)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            got = eval(call.text, ours)
        except UnsupportedError as error:
            return "" if call.outcome == "refused" else f"refused: {str(error).splitlines()[0]}"
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        if call.outcome == "refused":
            return "not refused"
        try:
            want = eval(call.text, theirs)
        except Exception as error:
            return f"NumPy raises {type(error).__name__}: {error}".splitlines()[0]
        return difference(got, want, call.outcome == "lazy")


def difference(got: Any, want: Any, lazy: bool) -> str:
    """How a result differs, in words; empty if it does not."""
    if isinstance(want, tuple | list) and type(got) in (tuple, list):
        if type(got) is not type(want) or len(got) != len(want):
            return f"{type(got).__name__} of {len(got)}, not {type(want).__name__} of {len(want)}"
        return next(
            (w for g, q in zip(got, want, strict=True) if (w := difference(g, q, lazy))), ""
        )
    if lazy != isinstance(got, LazyArray):
        return f"it is a {type(got).__name__}"
    if not lazy and type(got) is not type(want):
        return f"it is a {type(got).__name__}, not a {type(want).__name__}"
    if not isinstance(want, np.ndarray | np.generic):
        return "" if got == want else f"{got!r}, not {want!r}"
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.shape} {got.dtype}, not {want.shape} {want.dtype}"
    got = got.to_dense() if lazy else got
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"dense: {got.shape} {got.dtype}"
    return distance(np.asarray(got), np.asarray(want))


def distance(got: np.ndarray, want: np.ndarray) -> str:
    exact = want.dtype.kind in "biu"
    rtol = 0 if exact else {2: 2e-3, 4: 2e-5}.get(np.real(want).dtype.itemsize, 1e-10)
    if np.allclose(got, want, rtol=rtol, atol=rtol, equal_nan=not exact):
        return ""
    return f"values differ: {got.reshape(-1)[:3]}, not {want.reshape(-1)[:3]}"


# -- the report ------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("blocks", "cpu"), default="blocks")
    parser.add_argument("-v", action="store_true", help="print every call")
    options = parser.parse_args()
    functions, counts, seen = overridable(), Counter[tuple[str, str]](), set()
    found: list[str] = []
    with config(engine=options.engine):
        for call in calls():
            how = outcome(call)
            seen.add(call.function)
            known = class_of(call.function) or "unclassified"
            counts[known, "differ" if how else "agree"] += 1
            if options.v or how:
                print(f"{call.outcome:8} {call.text}{': ' if how else ''}{how}")
            if how:
                found.append(call.text)
    found += [f"{name} has no class" for f, name in functions.items() if class_of(f) is None]
    found += [f"{name} has no example" for f, name in functions.items() if f not in seen]
    print()
    names = sorted({class_of(f) or "unclassified" for f in functions})
    lines = [
        (
            name,
            sum(1 for f in functions if class_of(f) == name),
            counts[name, "agree"],
            counts[name, "differ"],
        )
        for name in names
    ]
    whole = ["all", *(sum(int(line[k]) for line in lines) for k in (1, 2, 3))]
    print(table(("class", "functions", "calls that agree", "that differ"), [*lines, whole]))
    return verdict(found, DIFFERENCES)


if __name__ == "__main__":
    sys.exit(main())
