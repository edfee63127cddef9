"""KeOps's tutorial "A wrapper for NumPy and PyTorch arrays", with LazyTensor and with LazyArray.

    python conformance/keops/tutorial.py                            # both spellings, small clouds
    python conformance/keops/tutorial.py --spelling LazyArray
    python conformance/keops/tutorial.py --size full --device cuda  # 100 000 x 200 000 points

https://www.kernel-operations.io/keops/_auto_tutorials/a_LazyTensors/plot_lazytensors_a.html

Each block prints what the tutorial prints. Types, shapes and the formulas of LazyTensors are
asserted to be those of the tutorial, and values those of some rows, computed densely in float64.
A LazyArray collapses the axes that are reduced, has no last axis of length 1, and `(x * y).sum(-1)`
where KeOps has `x | y`. Memory stays linear at any size. Where powers of negative numbers would be
NaN, the numbers are drawn from [0, 1) here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from duckkeops import LazyArray
from duckkeops.keops.numpy import LazyTensor as LazyTensorOfNumpy
from duckkeops.keops.torch import LazyTensor

SIZES = {"small": (1000, 2000), "full": (100_000, 200_000)}
SPELLINGS = ("LazyTensor", "LazyArray")
BATCH = 7, 3
ROWS = 17  # how many are compared with dense ones


class Run(NamedTuple):
    """How the tutorial is run: the spelling, the numbers of points, and where tensors are."""

    spelling: str
    m: int
    n: int
    device: str

    @property
    def keops(self) -> bool:
        return self.spelling == "LazyTensor"

    def lazy(self, x: Any) -> Any:
        if not self.keops:
            return LazyArray(x)
        return LazyTensorOfNumpy(x) if isinstance(x, np.ndarray) else LazyTensor(x)

    def numbers(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(shape[0]).random(shape)

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device)

    def rand(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, device=self.device)

    def rows(self) -> slice:
        return slice(None, None, max(1, self.m // ROWS))


def shown(text: str, expected: str) -> None:
    """Print it. Raises AssertionError if it is not what the tutorial prints."""
    print(text)
    if text != expected:
        raise AssertionError(f"the tutorial prints\n{expected}\nand this is\n{text}")


def described(name: str, x: Any, shape: tuple[int, ...], kind: str = "torch.Tensor") -> None:
    size = f"torch.Size({list(shape)})" if kind == "torch.Tensor" else str(shape)
    text = f"{name} is now a {type(x)} of shape {x.shape}."
    shown(text, f"{name} is now a <class '{kind}'> of shape {size}.")


def agrees(got: Any, dense: Any, what: str, tolerance: float = 2e-4) -> None:
    """Raises AssertionError where values differ by more than this part of the greatest one."""
    got, dense = (torch.as_tensor(v).detach().double().cpu() for v in (got, dense))
    if got.shape != dense.shape or not torch.isfinite(dense).all():
        raise AssertionError(f"{what}: {tuple(got.shape)}, and densely {tuple(dense.shape)}")
    gap = float((got - dense).abs().max() / dense.abs().max())
    if not gap <= tolerance:
        raise AssertionError(f"{what}: {gap:.1e} from dense values, of the greatest of them")


# -- the blocks ------------------------------------------------------------------------------------


def first_steps(run: Run) -> None:
    m, n = SIZES["small"]
    x, y = run.numbers(m, 2), run.numbers(n, 2)
    D_ij = ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)  # stored
    s_i = np.argmin(D_ij, axis=1)
    print(s_i[:10])
    x_i, y_j = run.lazy(x[:, None, :]), run.lazy(y[None, :, :])
    nearest = ((x_i - y_j) ** 2).sum(-1).argmin(1)
    if not np.array_equal(nearest.ravel(), s_i):
        raise AssertionError("first steps: other nearest points than NumPy's")


def symbolic(run: Run) -> None:
    x, y = run.numbers(run.m, 2), run.numbers(run.n, 2)
    if run.device == "cuda" and (run.m, run.n) == SIZES["full"]:
        try:
            x_i, y_j = (torch.tensor(v, device="cuda").float() for v in (x, y))
            ((x_i[:, None, :] - y_j[None, :, :]) ** 2).sum(-1)
        except RuntimeError as error:
            print(str(error).split(". ")[0])
    x_i, y_j = run.lazy(x[:, None, :]), run.lazy(y[None, :, :])
    D_ij = ((x_i - y_j) ** 2).sum(-1)
    if run.keops:
        formula = "Sum(Square((Var(0,2,0) - Var(1,2,1))))"
        expected = f"KeOps LazyTensor\n    formula: {formula}\n    shape: {(run.m, run.n)}"
    else:
        expected = (
            f"LazyArray sum((x0 - x1)**2, axis=-1): {(run.m, run.n)} float64\n"
            f"  x0: ({run.m}, 1, 2) float64\n  x1: (1, {run.n}, 2) float64"
        )
    shown(str(D_ij), expected)
    s_i = (D_ij.argmin(dim=1) if run.keops else np.argmin(D_ij, axis=1)).ravel()
    text = f"s_i is now a {type(s_i)} of shape {s_i.shape}."
    shown(text, f"s_i is now a <class 'numpy.ndarray'> of shape ({run.m},).")
    print(s_i[:10])
    for i in range(0, run.m, max(1, run.m // ROWS)):
        if s_i[i] != ((x[i] - y) ** 2).sum(-1).argmin():
            raise AssertionError(f"argmin: another nearest point of row {i} than NumPy's")


def kernel_product(run: Run) -> None:
    """And automatic differentiation, twice."""
    dim = 10
    x, y, b = run.randn(run.m, dim), run.randn(run.n, dim), run.randn(run.n, 4)
    x.requires_grad = True

    def outcome(lazy: Callable, x: torch.Tensor, y: Any, b: Any) -> tuple[torch.Tensor, ...]:
        x_i, y_j = lazy(x[:, None, :]), lazy(y[None, :, :])
        D_ij = ((x_i - y_j) ** 2).sum(-1).sqrt()
        K_ij = (-D_ij).exp()
        a_i = K_ij @ b
        [g_i] = torch.autograd.grad((a_i**2).sum(), [x], create_graph=True)
        # the exponential of g_i itself is beyond float32 where there are many points
        [h_i] = torch.autograd.grad((g_i / scale).exp().sum(), [x], create_graph=True)
        return a_i, g_i, h_i

    scale = run.n**0.5
    found = outcome(run.lazy, x, y, b)
    for name, value, last in zip(("a_i", "g_i", "h_i"), found, (4, dim, dim), strict=True):
        described(name, value, (run.m, last))
    some = x.detach()[run.rows()].double().requires_grad_()
    dense = outcome(lambda v: v, some, y.double(), b.double())
    for name, value, other in zip(("a_i", "g_i", "h_i"), found, dense, strict=True):
        agrees(value[run.rows()], other, name)


def nearest_neighbours(run: Run) -> None:
    x, y = run.randn(run.m, 3), run.randn(run.n, 3)
    x.requires_grad = True
    x_i, y_j = run.lazy(x[:, None, :]), run.lazy(y[None, :, :])
    D_ij = ((x_i - y_j) ** 2).sum(-1)
    to_nn = D_ij.min(dim=1).view(-1) if run.keops else D_ij.min(dim=1).values
    s_i = D_ij.argmin(dim=1).view(-1)
    to_nn_alt = ((x - y[s_i, :]) ** 2).sum(-1)
    gap = (to_nn - to_nn_alt).detach().abs().max().item()
    print(f"Difference between the two vectors: {gap:.2e}")
    if gap > 1e-5:
        raise AssertionError("min and argmin disagree")
    [g_i] = torch.autograd.grad(to_nn_alt.sum(), [x])
    described("g_i", g_i, (run.m, 3))
    [same] = torch.autograd.grad(to_nn.sum(), [x])  # KeOps has no gradient of min
    agrees(same, g_i, "the gradient of min")
    dense = ((x.detach()[run.rows(), None].double() - y.double()) ** 2).sum(-1)
    agrees(to_nn[run.rows()], dense.min(1).values, "min")


def batches(run: Run) -> None:
    (a, b), dim = BATCH, 10
    x, c = run.randn(a, b, run.m, 1, dim), run.randn(1, 1, run.m, 1, dim)
    y, s = run.randn(1, b, 1, run.n, dim), run.rand(a, 1, 1, 1, 1)
    x_i, l_i, y_j, s_ = map(run.lazy, (x, c, y, s))
    D_ij = ((l_i * x_i - y_j) ** 2).sum(-1)
    K_ij = -1.6 * D_ij / (1 + (s_ if run.keops else s_[..., 0]) ** 2)
    a_i = K_ij.sum(dim=3)
    described("a_i", a_i, (a, b, run.m, 1)[: 4 if run.keops else 3])
    shape = (a, b, run.m, run.n)
    text = f"Convenient, numpy-friendly shape:  {tuple(K_ij.shape)}"
    shown(text, f"Convenient, numpy-friendly shape:  {shape}")
    if run.keops:
        text = f"Actual shape, used internally by KeOps:  {K_ij._shape}"
        shown(text, f"Actual shape, used internally by KeOps:  {(*shape, 1)}")
    some, k = run.rows(), (slice(None), slice(None))
    points = (c * x)[(*k, some)].double()
    for place in np.ndindex(a, b):
        gap = ((points[place] - y[0, place[1]].double()) ** 2).sum(-1)
        dense = (-1.6 * gap / (1 + s[place[0]].item() ** 2)).sum(1)
        agrees(a_i[place].reshape(run.m)[some], dense, f"the batch {place}")


def formulas(run: Run) -> None:
    (a, b), dim = BATCH, 10
    x, c = run.rand(a, b, run.m, 1, dim), run.rand(1, 1, run.m, 1, dim) + 0.1
    y, s = run.rand(1, b, 1, run.n, dim), run.rand(a, 1, 1, 1, 1)
    x_i, l_i, y_j, s_ = map(run.lazy, (x, c, y, s))
    if run.keops:
        product, entry = x_i | y_j, x_i[:, :, :, :, 2]
    else:
        product, entry = (x_i * y_j).sum(-1, keepdim=True), x_i[:, :, :, :, 2:3]
    F_ij = (x_i**1.5 + y_j / l_i).cos() - product + (entry * s_.relu() * y_j)
    shape = (a, b, run.m, run.n, dim)
    if run.keops:
        formula = (
            "((Cos((Powf(Var(0,10,0), Var(1,1,2)) + (Var(2,10,1) / Var(3,10,0)))) - "
            "(Var(0,10,0) | Var(2,10,1))) + "
            "((Elem(Var(0,10,0),2) * ReLU(Var(4,1,2))) * Var(2,10,1)))"
        )
        shown(str(F_ij), f"KeOps LazyTensor\n    formula: {formula}\n    shape: {shape}")
    else:
        formula = "cos(x0**1.5 + x1 / x2) - sum(x3 * x4, axis=-1) + x5 * relu(x6) * x1"
        shown(str(F_ij).splitlines()[0], f"LazyArray {formula}: {shape} float32")
    a_j = F_ij.sum(dim=2)
    described("a_j", a_j, (a, b, run.n, dim))
    some = slice(None, None, max(1, run.n // ROWS))
    for place in np.ndindex(a, b):
        u, v = x[place].double(), y[0, place[1], :, some].double()
        dense = (u**1.5 + v / c[0, 0].double()).cos() - (u * v).sum(-1, keepdim=True)
        dense = dense + u[..., 2:3] * s[place[0], 0].double().relu() * v
        agrees(a_j[place][some], dense.sum(0), f"the formula in batch {place}")


BLOCKS = {
    "First steps": first_steps,
    "Symbolic matrices": symbolic,
    "A kernel product and its gradients": kernel_product,
    "Nearest neighbours": nearest_neighbours,
    "Batch processing": batches,
    "Supported formulas": formulas,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu", help="where tensors are: cpu, cuda")
    parser.add_argument("--spelling", choices=SPELLINGS, help="by default both")
    options = parser.parse_args()
    m, n = SIZES[options.size]
    for spelling in [options.spelling] if options.spelling else SPELLINGS:
        for title, block in BLOCKS.items():
            print(f"\n-- {title}, {spelling}, {m} x {n}")
            torch.manual_seed(0)
            start = time.perf_counter()
            block(Run(spelling, m, n, options.device))
            print(f"   {time.perf_counter() - start:.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
