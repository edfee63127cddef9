"""KeOps's checks of an installation."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from duckkeops.__main__ import main
from duckkeops.keops.genred import Genred

X = np.array([[1.0, 3.0, 5.0], [3.0, 6.0, 0.0], [-1.0, 0.0, 2.0]])
Y = np.array([[0.0, 1.0, 1.0], [2.0, -1.0, 0.0]])
SUMS = ((X[:, None] - Y) ** 2).sum((1, 2))


def check_health(config_type: str | None = None) -> None:
    """Print what this machine offers, and whether a kernel that is built now gives the right
    numbers: as `python -m duckkeops doctor`.
    """
    main(["doctor"])


def test_numpy_bindings() -> None:
    """Print that a reduction of NumPy arrays gives the right numbers. Raises RuntimeError else."""
    _test("numpy", np.asarray)


def test_torch_bindings() -> None:
    """Print that a reduction of torch tensors and its gradient give the right numbers. Raises
    RuntimeError else.
    """
    torch = importlib.import_module("torch")
    _test("torch", torch.tensor)
    x = torch.tensor(X, requires_grad=True)
    _sums(x, torch.tensor(Y)).sum().backward()
    _compare("the gradient of tensors", x.grad, 4 * X - 2 * Y.sum(0))


def _sums(x: Any, y: Any) -> Any:
    return Genred("SqNorm2(x - y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)(x, y)[:, 0]


def _test(library: str, make: Any) -> None:
    _compare(f"a sum of {library}'s arrays", _sums(make(X), make(Y)), SUMS)
    print(f"duckkeops, as pyKeOps with {library} bindings, is working!")


def _compare(what: str, found: Any, wanted: Any) -> None:
    if not np.allclose(np.asarray(found), wanted):
        raise RuntimeError(
            f"{what} is {found}, and should be {wanted}.\n"
            "  python -m duckkeops doctor tests the compiler."
        )


test_numpy_bindings.__test__ = test_torch_bindings.__test__ = False  # type: ignore[attr-defined]
