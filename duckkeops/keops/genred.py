"""KeOps's Genred, KernelSolve and generic_*: reductions of formula strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import duckkeops
from duckkeops.keops.formulas import (
    Variable,
    factor,
    of_pairs,
    structure,
    value,
    variables,
)
from duckkeops.keops.lazytensor import Data, solution, without_ones
from duckkeops.keops.libraries import Library, library_of
from duckkeops.keops.parsing import alias, parsed
from duckkeops.keops.reducing import Sizes, answered, canonical, options, pairs_of, written


class _Call:
    """A formula string and its variables, and what calls of it share."""

    def __init__(self, formula: str, aliases: Sequence[str], axis: int, formula2: str | None):
        if axis not in (0, 1):
            raise ValueError(f"axis is 0, over i, or 1, over j, and got {axis}.")
        self.formula, self.aliases, self.axis = formula, list(aliases), axis
        named = [alias(line, k) for k, line in enumerate(self.aliases)]
        names = {name: v for name, v in named if name is not None}
        self.tree = parsed(formula, names)
        self.weight = parsed(formula2, names) if formula2 else None
        self.of_pairs = of_pairs(self.tree)
        self.weight_of_pairs = None if self.weight is None else of_pairs(self.weight)
        self.names = names
        used = [f for f in (self.of_pairs, self.weight_of_pairs) if f is not None]
        self.name = structure({v.key: v.index for v in variables(*used)}, *used)
        self.wanted: dict[int, Variable] = {}
        met = variables(self.tree, *([] if self.weight is None else [self.weight]))
        for v in (*[v for _, v in named], *met):
            assert v.index is not None
            have = self.wanted.setdefault(v.index, v)
            if (have.dim, have.cat) != (v.dim, v.cat):
                raise ValueError(
                    f"argument {v.index} is both Var{(have.index, have.dim, have.cat)} and "
                    f"Var{(v.index, v.dim, v.cat)} in {formula!r}."
                )

    def fitted(self, args: Sequence[Any]) -> Sequence[Any]:
        """The arguments, parameters without needless axes. Raises ValueError for another number."""
        count = 1 + max(self.wanted, default=-1)
        if len(args) != count:
            raise ValueError(f"{self.formula!r} takes {count} arguments, and got {len(args)}.")
        return without_ones(args, {k: v.cat for k, v in self.wanted.items()})

    def bound(self, args: Sequence[Any]) -> tuple[Library, Sizes, Any, bool]:
        """The library, the sizes, the values of the variables, and whether they are on a GPU.

        Raises ValueError where the arguments do not fit the formula.
        """
        rows: dict[int, int] = {}
        batch: tuple[int, ...] = ()
        for k, v in self.wanted.items():
            x, axes = args[k], 1 if v.cat == 2 else 2
            if x.ndim < axes or x.shape[-1] != v.dim:
                shape = "(..., dim)" if v.cat == 2 else f"(..., {'MN'[v.cat]}, dim)"
                raise ValueError(
                    f"argument {k} of {self.formula!r} must have the shape {shape} with dim = "
                    f"{v.dim}, and has {tuple(x.shape)}."
                )
            batch = tuple(np.broadcast_shapes(batch, tuple(x.shape[: x.ndim - axes])))
            if axes == 2 and rows.setdefault(v.cat, x.shape[-2]) != x.shape[-2]:
                raise ValueError(
                    f"argument {k} of {self.formula!r} has {x.shape[-2]} rows, and others "
                    f"{rows[v.cat]}."
                )
        used = [args[k] for k in self.wanted]
        if len({x.dtype for x in used}) > 1:
            raise ValueError(
                f"the arguments of {self.formula!r} have several dtypes: "
                f"{', '.join(sorted({str(x.dtype) for x in used}))}."
            )
        lib, found = library_of(used[0]), {}

        def given(v: Variable) -> Any:
            k = v.index
            assert k is not None
            if k not in found:
                v = self.wanted[k]
                lead = tuple(args[k].shape[: args[k].ndim - (1 if v.cat == 2 else 2)])
                found[k] = Data(args[k], v.cat, False, lead).lazy(lib, v.cat)
            return found[k]

        on_device = any(getattr(x, "is_cuda", False) for x in used)
        return lib, Sizes(batch, rows.get(0), rows.get(1)), given, on_device


class Genred:
    """A reduction of a formula: sum_j F(x_i, y_j, p) over j (axis=1), or over i (axis=0).

    formula       a string of KeOps's grammar, such as "Exp(-SqDist(x, y)) * b"
    aliases       what its names are: "x = Vi(3)" is argument 0, with rows i of dimension 3
    reduction_op  "Sum", "LogSumExp", "ArgMin", "ArgKMin", ... (see reducing.NAMES)
    opt_arg       K of "KMin", "ArgKMin", "KMin_ArgKMin"
    formula2      the weights of "LogSumExp" and "SumSoftMaxWeight"

    Called on arrays (..., M, dim), (..., N, dim) and (..., dim). Gives (..., M, D) or (..., N, D).
    Raises ValueError where formula or arguments do not fit.

    >>> from duckkeops.keops.numpy import Genred
    >>> nearest = Genred("SqDist(x, y)", ["x = Vi(1)", "y = Vj(1)"], reduction_op="ArgMin", axis=1)
    >>> nearest(np.array([[0.0], [3.0]]), np.array([[2.0], [1.0]]))
    array([[1],
           [0]])
    """

    def __init__(
        self,
        formula: str,
        aliases: Sequence[str],
        reduction_op: str = "Sum",
        axis: int = 0,
        dtype: Any = None,
        opt_arg: int | None = None,
        formula2: str | None = None,
        cuda_type: Any = None,
        **how: Any,
    ):
        self._call = _Call(formula, aliases, axis, formula2)
        self.formula, self.aliases, self.axis = formula, self._call.aliases, axis
        self.reduction_op, self.opt_arg, self._how = canonical(reduction_op), opt_arg, how
        with options(how, "float64", False):
            pass  # the names and values of the options are right

    def __call__(self, *args: Any, **how: Any) -> Any:
        how = {**self._how, **how}
        call = self._call
        args = call.fitted(args)  # type: ignore[assignment]
        lib, sizes, given, _ = call.bound(args)
        what = (
            self.reduction_op,
            call.of_pairs,
            call.axis,
            sizes,
            given,
            call.weight_of_pairs,
            self.opt_arg,
        )
        out = answered(how, args, lib, call.name, *what)
        if not isinstance(out, tuple) and lib.is_complex(out):
            out = lib.as_pairs(out)
        return written(how.get("out"), out)


class KernelSolve:
    """The solution b of alpha b + sum_j F(x_i, x_j, b_j) = a_i, F being linear in the variable
    called `varinvalias`, as argument of which a is given. By conjugate gradients.
    """

    def __init__(
        self,
        formula: str,
        aliases: Sequence[str],
        varinvalias: str,
        axis: int = 0,
        dtype: Any = None,
        **how: Any,
    ):
        self._call = _Call(formula, aliases, axis, None)
        self._how = how
        names = self._call.names
        var = names[varinvalias] if varinvalias in names else alias(varinvalias, 0)[1]
        self._var = var
        self._kernel = factor(self._call.tree, var, axis)

    def __call__(self, *args: Any, alpha: float = 1e-10, eps: float = 1e-6, **how: Any) -> Any:
        call = self._call
        args = call.fitted(args)  # type: ignore[assignment]
        lib, sizes, given, on_device = call.bound(args)
        if sizes.batch:
            raise duckkeops.UnsupportedError("KernelSolve takes no batches: solve each by itself.")
        with options({**self._how, **how}, str(lib.dtype).rpartition(".")[2], on_device):
            kernel = value(lib, of_pairs(self._kernel), given)[..., 0]
            kept = pairs_of({**self._how, **how}.get("ranges"), kernel.shape)
            kernel = kernel if kept is None else kernel.restrict(kept)
            kernel = kernel if call.axis == 1 else kernel.T
            b = args[self._var.index]  # type: ignore[index]
            return solution(kernel, b, alpha, eps)


def _generic(op: str) -> Any:
    def make(formula: str, output: str, *aliases: str, **how: Any) -> Genred:
        kind = alias(output, 0)[1]
        if kind.cat == 2:
            raise ValueError(f"the output is 'a = Vi(dim)' or 'a = Vj(dim)', and got {output!r}.")
        more = {"opt_arg": kind.dim} if op == "ArgKMin" else {}
        return Genred(formula, list(aliases), reduction_op=op, axis=1 - kind.cat, **more, **how)

    make.__name__ = f"generic_{op.lower()}"
    make.__doc__ = f"Genred of {op}; the output, 'a = Vi(dim)', tells over which rows."
    return make


generic_sum = _generic("Sum")
generic_logsumexp = _generic("LogSumExp")
generic_argmin = _generic("ArgMin")
generic_argkmin = _generic("ArgKMin")
