"""NVRTC compiles what is generated: formulas, reductions, functions, architectures. No card."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gallery import FORMULAS, sample

from duckkeops import (
    LazyArray,
    evaluate,
    expr,
    generate,
    launch_cuda,
    ops,
    plan,
    reductions,
    source,
)
from duckkeops.config import Settings
from duckkeops.engines import cuda


def has_nvrtc() -> bool:
    if importlib.util.find_spec("cupy") is None:
        return False
    try:
        cuda._compiler()
    except Exception:  # whatever a missing library makes of it
        return False
    return True


pytestmark = pytest.mark.skipif(not has_nvrtc(), reason="no CuPy with NVRTC: the extra 'cuda'")
FLOATS = [op for op in ops.TABLE if op.nargs <= 2]


def prelude(node: expr.Reduce, settings: Settings) -> tuple[Any, str]:
    """The generated part of a kernel, and what it computes."""
    node = evaluate.for_kernels(node)
    nodes, axes = expr.walk(node), plan.loop_axes(node)
    _, numbers = evaluate.key_of(node, axes, nodes)
    return generate.prelude(node, axes, numbers, settings, False, cuda.TARGET)[:2]


def limit(node: expr.Reduce) -> tuple[float, float] | None:
    return prelude(node, Settings())[0].limit


def generated(node: expr.Reduce, settings: Settings) -> tuple[str, str, int]:
    """A kernel's source, what it computes, and the threads of a block."""
    out, title = prelude(node, settings)
    assert out.block is not None
    return source.assemble(out.prelude, "pairs.cu"), title, out.block[0]


def compiled(node: expr.Reduce, architecture: int = 90, settings: Settings | None = None) -> int:
    """Bytes of the machine code of a reduction's kernel."""
    settings = settings or Settings()
    text, title, _ = generated(node, settings)
    exact = settings.precision == "exact"
    return len(cuda.compiled(text, title, cuda.options(exact, architecture)))


def resources(node: expr.Reduce, architecture: int) -> tuple[int, int, int]:
    """Registers of a thread, bytes that it spills to memory, and the threads of a block."""
    from cupy.cuda import nvrtc

    text, _, threads = generated(node, Settings())
    program = nvrtc.createProgram(text, "kernel.cu", [], [])
    nvrtc.compileProgram(program, [*cuda.options(False, architecture), "--ptxas-options=-v"])
    said = nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)
    registers = max(map(int, re.findall(r"Used (\d+) registers", said)))
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", said)))
    return registers, spilled, threads


def reduction(name: str, value: Any, **params: Any) -> expr.Reduce:
    return reductions.reduce(reductions.BY_NAME[name], [value], [value.ndim - 1], **params)


def gaussian(dtype: str, rows: int = 5000) -> Any:
    x, y = np.zeros((rows, 3), dtype), np.zeros((40, 3), dtype)
    d = ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)
    return (d if np.dtype(dtype).kind in "iu" else np.exp(-d))._node


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    formula = FORMULAS[name]
    leaves = sample(formula.leaves, rows=9, columns=7, dtype=np.float32)
    value = formula.function(
        *(LazyArray(a, feature_ndim=a.ndim - 2) if a.ndim > 1 and n != "A" else a
          for n, a in leaves.items())
    )  # fmt: skip
    node = reductions.reduce(reductions.BY_NAME["sum"], [value._node], [1])
    assert launch_cuda.has_kernel(node)
    assert compiled(node) > 1000


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "int64"])
@pytest.mark.parametrize(
    "name", ["sum", "prod", "mean", "var", "min", "argmax", "logsumexp", "topk", "count_nonzero"]
)
def test_reductions(name: str, dtype: str) -> None:
    if name in ("logsumexp", "var", "mean") and np.dtype(dtype).kind in "iu":
        pytest.skip("they compute in floats")
    params = {"k": 7} if name == "topk" else {}
    assert compiled(reduction(name, gaussian(dtype), **params)) > 1000


@pytest.mark.parametrize("architecture", [75, 80, 100])
@pytest.mark.parametrize("rows", [1, 100, 5000])
def test_architectures_and_blocks(architecture: int, rows: int) -> None:
    assert compiled(reduction("sum", gaussian("float32", rows)), architecture) > 1000


def clouds(features: int, rows: int = 5000) -> tuple[LazyArray, LazyArray, LazyArray]:
    x, y = (LazyArray(np.zeros((k, features), "f")) for k in (rows, 4000))
    return x[:, None], y[None], LazyArray(np.zeros(4000, "f"))[None]


def squares(features: int) -> Any:
    x, y, _ = clouds(features)
    return ((x - y) ** 2).sum(-1)


def times_b(value: Any) -> Any:
    return (value * clouds(1)[2])._node


SWEPT: dict[str, Callable[[], expr.Reduce]] = {  # whose tiles were measured: see plan.py
    **{
        f"Gaussian D={d}": lambda d=d: reduction("sum", times_b(np.exp(-squares(d))))
        for d in (1, 2, 3, 10, 24)
    },
    **{f"argmin D={d}": lambda d=d: reduction("argmin", squares(d)._node) for d in (2, 3, 10)},
    "logsumexp": lambda: reduction("logsumexp", (-squares(3))._node),
    "top-10": lambda: reduction("topk", squares(3)._node, k=10),
    "Laplacian": lambda: reduction("sum", times_b(np.exp(-np.sqrt(squares(3))))),
    "Cauchy": lambda: reduction("sum", times_b(1 / (1 + squares(3)))),
    "cosine of a logarithm": lambda: reduction("sum", times_b(np.cos(np.log(1 + squares(3))))),
    "L1": lambda: reduction("sum", times_b(np.exp(-abs(clouds(3)[0] - clouds(3)[1]).sum(-1)))),
}


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", SWEPT)
def test_registers_suffice(name: str, architecture: int) -> None:
    """Next to nothing is spilled to memory, and a processor has the registers of a block."""
    registers, spilled, threads = resources(SWEPT[name](), architecture)
    assert spilled <= (0 if architecture == 90 and name != "top-10" else 32)
    assert registers * threads <= 65536


def test_exact_arithmetic() -> None:
    exact = Settings(precision="exact")
    assert compiled(reduction("logsumexp", gaussian("float32")), settings=exact) > 1000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("part", range(8))
def test_functions(part: int, dtype: str) -> None:
    """Every elementwise function of floats, some of them in each kernel."""
    x, y = (LazyArray(np.ones(k, dtype), feature_ndim=0) for k in (30, 40))
    a, b = x[:, None]._node, y[None]._node
    total: Any = None
    for op in FLOATS[part::8]:
        try:
            args = [ops.call("add", a, b), b][: op.nargs]
            value = ops.call(op.name, *args)
        except (TypeError, ValueError):  # of integers or truth values only; or it takes numbers
            continue
        if value.dtype.kind == "c":
            continue
        value = expr.cast_to(value, np.dtype(dtype))
        total = value if total is None else ops.call("add", total, value)
    assert compiled(reduction("sum", total)) > 1000


COUNTED = {  # as in the machine code: float32 instructions (one to compare), special functions
    "Gaussian D=1": (4 + 12 / 8, 1 - 1 / 8),
    "Gaussian D=2": (5, 1),
    "Gaussian D=3": (7, 1),
    "Gaussian D=10": (12, 1),
    "argmin D=3": (7, 0),
    "L1": (6, 1),
    "Cauchy": (8, 1),
}


@pytest.mark.parametrize("name", COUNTED)
def test_instructions_of_a_pair(name: str) -> None:
    assert limit(SWEPT[name]()) == pytest.approx(COUNTED[name], abs=1e-9)


def test_no_limit_is_known_of_what_is_not_counted() -> None:
    assert limit(reduction("sum", gaussian("float64"))) is None
    d = squares(3)
    assert limit(reduction("sum", np.sinh(d)._node)) is None
    longer = limit(reduction("sum", np.exp(-np.sqrt(d))._node))
    shorter = limit(reduction("sum", np.exp(-d)._node))
    assert longer is not None and shorter is not None
    rates = [plan.most_pairs(a, 132, 1.98e9) for a in (longer, shorter)]
    assert 0 < rates[0] < rates[1] < 132 * 16 * 1.99e9
