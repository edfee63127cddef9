"""The libraries that are measured, one process each: their thread runtimes disturb one another.

    python benchmarks/peers.py NAME

is such a process. It reads requests from standard input and answers each with a line of JSON;
interleave.py starts it and asks.

Each library has a function here that takes a row, its arrays and the number of threads, and returns
a function of n that computes the first n rows; or None, where the library does not have the row.
What a user would keep between calls (arrays on the device, an index of y) is made before.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rows import INDICES, KINDS, NEIGHBOURS, SCORES, Row, bandwidth2, error

Call = Callable[[int], Any]


def pieces(n: int, size: int) -> list[slice]:
    """Slices of at most `size` rows."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def duckkeops(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call:
    from duckkeops import LazyArray

    formula = KINDS[row.kind]
    return lambda n: formula(LazyArray(x[:n, None]), LazyArray(y[None]), b)


# -- pykeops ---------------------------------------------------------------------------------------


def pykeops(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call:
    from pykeops.numpy import LazyTensor

    formula = KEOPS[row.kind]

    def call(n: int) -> Any:
        return formula(LazyTensor(x[:n, None]), LazyTensor(y[None]), b, row.dim)

    return call


def _keops_gradient(x: Any, y: Any, b: Any, dim: int) -> Any:
    k = (-x.sqdist(y) / (2 * bandwidth2(dim))).exp()
    return (k * _column(b) * (y - x)).sum(axis=1) / bandwidth2(dim)


def _keops_matern52(x: Any, y: Any, b: Any, dim: int) -> Any:
    r = math.sqrt(5) / 0.5 * x.sqdist(y).sqrt()
    return ((1 + r + r**2 / 3) * (-r).exp()) @ b


def _keops_arccosine(x: Any, y: Any, b: Any, dim: int) -> Any:
    norms = x.norm2() * y.norm2()
    angle = ((x | y) / norms).clamp(-1, 1).acos()
    return (norms * (angle.sin() + (math.pi - angle) * angle.cos()) / math.pi) @ b


def _column(b: Any) -> Any:
    from pykeops.numpy import LazyTensor

    return LazyTensor(b[None])


KEOPS: dict[str, Callable[[Any, Any, Any, int], Any]] = {
    "gaussian": lambda x, y, b, dim: (-x.sqdist(y) / (2 * bandwidth2(dim))).exp() @ b,
    "gradient": _keops_gradient,
    "argmin": lambda x, y, b, dim: x.sqdist(y).argmin(axis=1),
    "top10": lambda x, y, b, dim: x.sqdist(y).argKmin(NEIGHBOURS, dim=1),
    "logsumexp": lambda x, y, b, dim: (x | y).logsumexp(axis=1),
    "attention": lambda x, y, b, dim: (x | y).sumsoftmaxweight(_column(b), axis=1),
    "matern52": _keops_matern52,
    "laplacian": lambda x, y, b, dim: (-x.sqdist(y).sqrt()).exp() @ b,
    "cauchy": lambda x, y, b, dim: (1 / (1 + x.sqdist(y) / 0.25)) @ b,
    "coulomb": lambda x, y, b, dim: x.sqdist(y).rsqrt() @ b,  # 0 where the distance is
    "manhattan": lambda x, y, b, dim: (x - y).abs().sum(-1) @ b,
    "cosine": lambda x, y, b, dim: ((x | y) / (x.norm2() * y.norm2())) @ b,
    "kl": lambda x, y, b, dim: (x * (x / y).log()).sum(-1) @ b,
    "arccosine": _keops_arccosine,
    "periodic": lambda x, y, b, dim: (
        (-2 * (math.pi / 0.7 * x.sqdist(y).sqrt()).sin() ** 2).exp() @ b
    ),
    "phase": lambda x, y, b, dim: ((20 * x.sqdist(y).sqrt()).exp1j() * _column(b)).sum(axis=1),
}


# -- dense tiles: NumPy, torch, jax, by |x|**2 + |y|**2 - 2 x y ------------------------------------


def numpy(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    """64 rows at a time, so that a tile stays in the cache; in place."""
    if row.kind not in DENSE:
        return None
    s2 = bandwidth2(row.dim)

    def tile(x: Any, yy: Any) -> Any:
        s = x @ y.T
        if row.kind in SCORES:
            top = s.max(axis=1, keepdims=True)
            s -= top
            np.exp(s, out=s)
            if row.kind == "logsumexp":
                return np.log(s.sum(axis=1)) + top[:, 0]
            return (s @ b) / s.sum(axis=1, keepdims=True)
        s *= -2
        s += yy
        if row.kind == "argmin":
            return s.argmin(axis=1)
        if row.kind == "top10":
            some = np.argpartition(s, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            order = np.take_along_axis(s, some, axis=1).argsort(axis=1)
            return np.take_along_axis(some, order, axis=1)
        s += (x * x).sum(axis=1, keepdims=True)
        s *= -1 / (2 * s2)
        np.exp(s, out=s)
        if row.kind == "gaussian":
            return s @ b
        s *= b[:, 0]
        return (s @ y - s.sum(axis=1, keepdims=True) * x) / s2

    yy = (y * y).sum(axis=1)
    return lambda n: np.concatenate([tile(x[rows], yy) for rows in pieces(n, 64)])


DENSE = ("gaussian", "gradient", *INDICES, *SCORES)


def torch(row: Row, x: Any, y: Any, b: Any, threads: int, direct: bool = False) -> Call | None:
    """256 rows at a time."""
    if row.kind not in DENSE:
        return None
    import torch

    s2 = bandwidth2(row.dim)

    def tile(x: Any, y: Any, b: Any) -> Any:
        if row.kind == "logsumexp":
            return torch.logsumexp(x @ y.T, 1)
        if row.kind == "attention":
            return torch.softmax(x @ y.T, 1) @ b
        if direct:
            d2 = ((x[:, None] - y[None]) ** 2).sum(-1)
        else:
            d2 = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)
        if row.kind == "argmin":
            return d2.argmin(1)
        if row.kind == "top10":
            return d2.topk(NEIGHBOURS, 1, largest=False).indices
        k = torch.exp(d2 * (-1 / (2 * s2)))
        if row.kind == "gaussian":
            return k @ b
        k = k * b[:, 0]
        return (k @ y - k.sum(1)[:, None] * x) / s2

    torch.set_num_threads(threads)
    xs, ys, bs = map(torch.from_numpy, (x, y, b))
    if direct:
        torch._dynamo.reset()
        tile = torch.compile(tile, dynamic=False)

    @torch.no_grad()
    def call(n: int) -> Any:
        return torch.cat([tile(xs[rows], ys, bs) for rows in pieces(n, 256)]).numpy()

    return call


def torch_compile(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    """256 rows at a time; the difference is written out, for the compiler to fuse."""
    return torch(row, x, y, b, threads, direct=True)


def torch_sdpa(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    if row.kind != "attention":
        return None
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    torch.set_num_threads(threads)
    xs, ys, bs = (torch.from_numpy(a)[None, None] for a in (x, y, b))
    return lambda n: scaled_dot_product_attention(xs[:, :, :n], ys, bs, scale=1.0)[0, 0].numpy()


def jax(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    """Compiled; 128 rows at a time, the faster of the two forms of the distance."""
    if row.kind not in DENSE:
        return None
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    s2 = bandwidth2(row.dim)

    def dot(a: Any, b: Any) -> Any:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def tile(x: Any, y: Any, b: Any) -> Any:
        if row.kind == "logsumexp":
            return jax.nn.logsumexp(dot(x, y.T), 1)
        if row.kind == "attention":
            return dot(jax.nn.softmax(dot(x, y.T), 1), b)
        if row.dim <= 16:
            d2 = ((x[:, None] - y[None]) ** 2).sum(-1)
        else:
            d2 = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * dot(x, y.T)
        if row.kind == "argmin":
            return d2.argmin(1)
        if row.kind == "top10":
            return jax.lax.top_k(-d2, NEIGHBOURS)[1]
        k = jnp.exp(d2 * (-1 / (2 * s2)))
        if row.kind == "gaussian":
            return k @ b
        k = k * b[:, 0]
        return (k @ y - k.sum(1)[:, None] * x) / s2

    tiles = jax.jit(lambda xs, y, b: jax.lax.map(lambda x: tile(x, y, b), xs))
    ys, bs = jnp.asarray(y), jnp.asarray(b)

    def call(n: int) -> Any:
        size = math.gcd(n, 128) if n >= 64 else n
        out = np.asarray(tiles(jnp.asarray(x[:n]).reshape(-1, size, row.dim), ys, bs))
        return out.reshape(n, *out.shape[2:])

    return call


# -- libraries of one task -------------------------------------------------------------------------


def sklearn(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    if row.kind == "gaussian":
        from sklearn.metrics.pairwise import rbf_kernel

        gamma = 1 / (2 * bandwidth2(row.dim))
        return lambda n: np.concatenate(
            [rbf_kernel(x[rows], y, gamma=gamma) @ b for rows in pieces(n, 256)]
        )
    if row.kind == "argmin":
        from sklearn.metrics import pairwise_distances_argmin

        return lambda n: pairwise_distances_argmin(x[:n], y)
    if row.kind == "top10":
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", n_jobs=threads).fit(y)
        return lambda n: index.kneighbors(x[:n], return_distance=False)
    return None


def faiss(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    """IndexFlatL2, which knows float32 only."""
    if row.kind not in INDICES or x.dtype != np.float32:
        return None
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(row.dim)
    index.add(y)
    return lambda n: index.search(x[:n], 1 if row.kind == "argmin" else NEIGHBOURS)[1]


def ckdtree(row: Row, x: Any, y: Any, b: Any, threads: int) -> Call | None:
    """A tree, so not every pair is computed; building it is part of the call."""
    if row.kind not in INDICES or row.dim > 10:
        return None
    from scipy.spatial import cKDTree

    k = 1 if row.kind == "argmin" else NEIGHBOURS
    return lambda n: cKDTree(y).query(x[:n], k=k, workers=threads)[1]


# Names as the tables have them; the first one is ours. A tree is no brute force.
PEERS: dict[str, Callable[..., Call | None]] = {
    "duckkeops": duckkeops,
    "pykeops": pykeops,
    "pykeops native": pykeops,  # compiled with NATIVE_FLAGS
    "NumPy": numpy,
    "torch": torch,
    "torch compile": torch_compile,
    "torch SDPA": torch_sdpa,
    "jax": jax,
    "scikit-learn": sklearn,
    "faiss": faiss,
    "cKDTree": ckdtree,
}
NATIVE_FLAGS = "-march=native -ffast-math"
NOT_BRUTE_FORCE = ("cKDTree",)
WHOLE_TILES = {"torch compile": 256}  # of no other size, which would be compiled again
PACKAGES = {
    "pykeops native": "pykeops",
    "NumPy": "numpy",
    "torch compile": "torch",
    "torch SDPA": "torch",
    "faiss": "faiss-cpu",
    "cKDTree": "scipy",
}


NO_SUCH_ROW = "it has no such row"

# -- the process -----------------------------------------------------------------------------------


def prepare(request: dict[str, Any], make: Callable[..., Call | None]) -> tuple[Call, dict] | None:
    """The function of n, called once, and what is known of it; None if the library has no such
    row.
    """
    row = Row(*request["row"])
    arrays = [np.load(Path(request["folder"], f"{name}.npy")) for name in ("x", "y", "b", "right")]
    *given, right = arrays
    call = make(row, *given, request["threads"])
    if call is None:
        return None
    start = time.perf_counter()
    out = call(fewest(request))
    return call, {"first_s": time.perf_counter() - start, "error": error(row, out, right)}


def fewest(request: dict[str, Any]) -> int:
    """As few rows as a call may have."""
    if request["peer"] in NOT_BRUTE_FORCE:  # a call builds the tree, for all rows
        return request["size"]
    return min(request["size"], WHOLE_TILES.get(request["peer"], 64))


def fit(request: dict[str, Any], call: Call) -> tuple[Call, dict]:
    """The call with as many rows as take `cap` seconds."""
    size, tile, cap = request["size"], fewest(request), request["cap"]
    n = tile
    while True:
        start = time.perf_counter()
        call(n)
        seconds = time.perf_counter() - start
        if n == size or 4 * seconds > cap:
            break
        n = size if 4 * n >= size else 4 * n
    n = size if seconds < cap and n == size else max(int(n * cap / seconds) // tile * tile, tile)
    n = min(n, size // tile * tile)
    call(n)
    return (lambda _: call(n)), {"rows": n}


def measure(call: Call, least: float) -> dict[str, float]:
    """Wall and CPU seconds of one call, from as many as take `least` seconds."""
    wall, cpu, calls = time.perf_counter(), time.process_time(), 0
    while calls == 0 or time.perf_counter() - wall < least:
        call(0)
        calls += 1
    return {
        "wall_s": (time.perf_counter() - wall) / calls,
        "cpu_s": (time.process_time() - cpu) / calls,
    }


def peak(request: dict[str, Any]) -> tuple[Call, dict]:
    """Fused multiply-adds and nothing else, compiled as our kernels are."""
    from duckkeops.engines import cpu

    command, version = cpu.compiler()
    flags = (*cpu.SAFE_FLAGS, "-ffp-contract=fast", *cpu.target().flags)
    size = cpu.target().vector_bytes
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(__file__).with_name("peak.c"), Path(folder, "peak.so")
        subprocess.run([*command, *flags, f"-DVB={size}", "-o", str(made), str(source)], check=True)
        library = ctypes.CDLL(str(made))
    function = library[f"peak_{request['dtype']}"]
    function.restype = ctypes.c_float if request["dtype"] == "float32" else ctypes.c_double
    function.argtypes = [ctypes.c_long]
    threads = request["threads"]
    steps, chains, lanes = 3_000_000, 12, size // np.dtype(request["dtype"]).itemsize

    def call(_: int) -> None:
        others = [threading.Thread(target=function, args=(steps,)) for _ in range(threads - 1)]
        for other in others:
            other.start()
        function(steps)
        for other in others:
            other.join()

    about = {
        "compiler": version,
        "command": " ".join(command),
        "flags": " ".join(flags),
        "isa": cpu.target().name,
        "operations": steps * chains * lanes * threads,
    }
    return call, about


def serve(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    call: Call | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                call = None  # its arrays go before there are new ones
                made = peak(request) if name == "peak" else prepare(request, PEERS[name])
                call, answer = made or (None, {"absent": NO_SUCH_ROW})
            elif call is None:
                answer = {"absent": "nothing was prepared"}
            elif request["do"] == "fit":
                call, answer = fit(request, call)
            else:
                answer = measure(call, request["least"])
        except Exception as problem:  # is reported with its row
            answer = {"absent": f"{type(problem).__name__}: {str(problem)[:300]}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    serve(sys.argv[1])
