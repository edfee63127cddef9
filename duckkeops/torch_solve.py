"""Gradients of linear systems with lazy matrices: of what they say, not of the steps to it.

Where (K + ridge I) x = b, x changes by A^-1 (db - dK x - dridge x), A = K + ridge I. The gradients
are those of one more system, A* u = g, and of one more product, u* K x; both are differentiable
again. A* is A, but need not change as A does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from duckkeops import array, expr, torch_grad
from duckkeops.array import LazyArray
from duckkeops.errors import UnsupportedError
from duckkeops.rewrite import with_inputs

Solver = Callable[..., torch.Tensor]  # K, b, ridge, and where to begin -> x


def solve(
    solver: Solver, K: Any, b: torch.Tensor, ridge: Any, start: dict[str, Any] | None = None
) -> torch.Tensor:
    """solver(K, b, ridge, **start), with gradients of every order with respect to b, the ridge, and
    the tensors of which K is made, a lazy array or a tensor.
    """
    leaves, start = _leaves(K), start or {}
    given = [a for a in (b, ridge) if isinstance(a, torch.Tensor)]
    _check_known(K, b)
    if not torch_grad.is_tracked([*leaves, *given]):
        with torch.no_grad():  # where it begins may require a gradient
            return solver(K, b, ridge, **start)
    return _Solution.apply(_System(solver, K, start), b, ridge, *leaves)  # type: ignore[return-value]


def _check_known(K: Any, b: torch.Tensor) -> None:
    """The tensors in a matrix of another kind are not known, and so have no gradient here."""
    if isinstance(K, LazyArray | torch.Tensor) or not torch.is_grad_enabled():
        return
    if getattr(K @ torch.zeros_like(b), "requires_grad", False):
        raise UnsupportedError(
            f"solve has no gradient by what {type(K).__name__} holds, and K @ x requires one.\n"
            "  Pass a lazy array or a tensor as K, or call solve under torch.no_grad()."
        )


def _leaves(K: Any) -> list[torch.Tensor]:
    if isinstance(K, LazyArray):
        arrays = {id(i.source): i.source for i in expr.inputs(K._node)}
        return [a for a in arrays.values() if isinstance(a, torch.Tensor)]
    return [K] if isinstance(K, torch.Tensor) else []


class _System:
    """A matrix, and what solves systems with it: the first one beginning at `start`."""

    def __init__(self, solver: Solver, K: Any, start: dict[str, Any]):
        self.solver, self.K, self.leaves, self.start = solver, K, _leaves(K), start

    def of(self, leaves: Sequence[torch.Tensor]) -> Any:
        """The matrix made of other tensors."""
        if all(map(operator.is_, leaves, self.leaves)):
            return self.K
        if not isinstance(self.K, LazyArray):
            return leaves[0]
        new = {id(a): b for a, b in zip(self.leaves, leaves, strict=True)}

        def of_other(i: expr.Input) -> expr.Input:
            t = new.get(id(i.source))
            return i if t is None else expr.Input(t, i.dtype, i.roles, i.bare, i.order)

        return array._wrap(type(self.K), with_inputs(self.K._node, of_other))

    def pulled_back(
        self, leaves: Sequence[torch.Tensor], wanted: Sequence[bool], x: Any, g: Any
    ) -> list[Any]:
        """The gradients of g* K x by the leaves that are wanted, where x and g are constants."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            own = [t.view_as(t) if w else t for t, w in zip(leaves, wanted, strict=True)]
            K = self.of(own)
            y = (K if K.dtype == x.dtype else K.to(x.dtype)) @ x
            some = [t for t, w in zip(own, wanted, strict=True) if w]
            found = iter(
                torch.autograd.grad(y, some, g, create_graph=again, materialize_grads=True)
            )
        return [next(found) if w else None for w in wanted]


class _Solution(torch.autograd.Function):
    """(system, b, ridge, tensors of the matrix) -> x."""

    @staticmethod
    def forward(system: _System, b: torch.Tensor, ridge: Any, *leaves: torch.Tensor) -> Any:
        return system.solver(system.of(leaves), b, ridge, **system.start)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.system, _, ridge, *leaves = inputs
        ctx.ridge = None if isinstance(ridge, torch.Tensor) else ridge
        own = [ridge] if ctx.ridge is None else []
        ctx.save_for_backward(output, *leaves, *own)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        x, *leaves = ctx.saved_tensors
        ridge = leaves.pop() if ctx.ridge is None else ctx.ridge
        _, of_b, of_ridge, *of_leaves = ctx.needs_input_grad
        system = ctx.system
        K = system.of(leaves)
        u = solve(system.solver, getattr(K, "mH", K), grads[0], ridge)
        out: list[Any] = [None, u if of_b else None, None, *[None] * len(leaves)]
        if of_ridge:
            change = -(u.conj() * x).real
            dims = list(range(ridge.ndim, x.ndim))
            out[2] = change.sum(dims) if dims else change
        if any(of_leaves):
            out[3:] = system.pulled_back(leaves, of_leaves, x, -u)
        return tuple(out)
