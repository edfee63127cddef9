"""The skeleton is a real C file: with the example prelude it compiles and runs alone."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from duckkeops import evaluate, generate, ops, plan, reductions, source
from duckkeops.config import Settings
from duckkeops.engines import cpu, cuda
from duckkeops.expr import Input, Reduce, walk
from duckkeops.launch import Arguments

HEAD = (
    "// The prelude of exp(-|x_i - y_j|^2).sum(axis=1) in float32 and 3 dimensions, "
    "as printer.py writes it (compare\n"
    "// tests/test_kernels.py), for {} on its own.\n"
)
EXAMPLES = {"pairs.c": "example_prelude.h", "pairs.cu": "example_prelude.cuh"}


def gaussian(x: np.ndarray, y: np.ndarray) -> Reduce:
    xi, yj = (Input(a, a.dtype, "ppf") for a in (x[:, None], y[None]))
    d = reductions.reduce(
        reductions.BY_NAME["sum"], [ops.call("square", ops.call("subtract", xi, yj))], (2,)
    )
    return reductions.reduce(
        reductions.BY_NAME["sum"], [ops.call("exp", ops.call("negative", d))], (1,)
    )


def example(node: Reduce, name: str) -> tuple[str, tuple]:
    axes = plan.loop_axes(node)
    _, numbers = evaluate.key_of(node, axes, walk(node))
    target = cuda.TARGET if name == "pairs.cu" else cpu.Target("example", (), 16, 16)
    out, _, _ = generate.prelude(node, axes, numbers, Settings(), False, target)
    return HEAD.format(name) + source.standalone(out.prelude, name), out.layout.entries


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_what_is_generated_today(name: str) -> None:
    x = np.zeros((37, 3), np.float32)
    text = (source.kernels_folder() / EXAMPLES[name]).read_text()
    assert text == example(gaussian(x, x), name)[0], (
        "run python tests/test_kernels.py, which writes kernels/example_prelude.h and .cuh"
    )


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_pairs_compiles_and_runs_alone(tmp_path: Path) -> None:
    """With kernels/example_prelude.h it gives the sums."""
    rng = np.random.default_rng(0)
    x, y = rng.random((37, 3)).astype(np.float32), rng.random((41, 3)).astype(np.float32)
    node = gaussian(x, y)
    entries = example(node, "pairs.c")[1]
    folder = source.kernels_folder()
    library = tmp_path / "pairs.so"
    command = [
        *cpu.compiler()[0],
        *cpu.SAFE_FLAGS,
        "-ffp-contract=off",
        "-o",
        str(library),
        str(folder / "pairs.c"),
        "-lm",
    ]
    subprocess.run(command, check=True)
    pairs = ctypes.CDLL(str(library))
    out = np.zeros(37, np.float32)
    nodes = walk(node)
    a = Arguments(entries, node, nodes, range(len(nodes)), 1).filled(nodes, [out.ctypes.data], [])
    pairs.record_bytes.restype = pairs.work_bytes.restype = ctypes.c_int64
    records, work = (
        np.empty(pairs.record_bytes(a), np.uint8),
        np.empty(pairs.work_bytes(), np.uint8),
    )
    r, w = ctypes.c_void_p(records.ctypes.data), ctypes.c_void_p(work.ctypes.data)
    pairs.pack(a, r)
    pairs.reduce(a, r, w, ctypes.c_int64(1), ctypes.c_int64(0), ctypes.c_int64(-(-37 // 8)))
    np.testing.assert_allclose(out, np.exp(-((x[:, None] - y) ** 2).sum(-1)).sum(1), rtol=1e-5)


if __name__ == "__main__":
    x = np.zeros((37, 3), np.float32)
    for name, prelude in EXAMPLES.items():
        (source.kernels_folder() / prelude).write_text(example(gaussian(x, x), name)[0])
