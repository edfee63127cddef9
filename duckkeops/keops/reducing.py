"""KeOps's reductions of a formula over its rows i (axis 0) or j (axis 1), by LazyArrays."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import duckkeops
from duckkeops import LazyArray
from duckkeops.keops.counting import count_call
from duckkeops.keops.formulas import Formula, Variable, depends, value
from duckkeops.keops.libraries import Library
from duckkeops.recording import Recording, kind, record

ALIASES = {
    "SoftMax": "SumSoftMaxWeight",
    "MinArgMin": "Min_ArgMin",
    "MaxArgMax": "Max_ArgMax",
    "LogSumExpWeight": "LogSumExp",
    "Max_SumShiftExpWeight": "Max_SumShiftExp",
}
NAMES = (
    *("Sum", "LogSumExp", "SumSoftMaxWeight", "Max_SumShiftExp", "Min", "Max", "ArgMin", "ArgMax"),
    *("Min_ArgMin", "Max_ArgMax", "KMin", "ArgKMin", "KMin_ArgKMin"),
)
OPTIONS = (
    *("backend", "device_id", "ranges", "out", "dtype_acc", "use_double_acc", "sum_scheme"),
    *("enable_chunks", "use_fast_math", "optional_flags", "rec_multVar_highdim"),
)
BACKENDS = ("auto", "CPU", "GPU", "GPU_1D", "GPU_2D")


class Sizes(NamedTuple):
    """The batch axes, and the numbers of rows i and j, None where nothing tells."""

    batch: tuple[int, ...]
    ni: int | None
    nj: int | None


def canonical(name: str) -> str:
    """The reduction's name. Raises ValueError for one that KeOps does not have."""
    name = ALIASES.get(name, name)
    if name not in NAMES:
        raise ValueError(
            f"reduction_op={name!r} is no reduction of KeOps.\n  Use one of {', '.join(NAMES)}."
        )
    return name


def reduced(
    lib: Library,
    op: str,
    formula: Formula,
    axis: int,
    sizes: Sizes,
    given: Callable[[Variable], Any],
    weight: Formula | None = None,
    k: int | None = None,
    kept: duckkeops.BlockPairs | None = None,
) -> Any:
    """The reduction: (..., M, D) over j, (..., N, D) over i; a pair for those with places. `kept`:
    the pairs that it is over, where not all.
    """
    whole = _Whole(lib, sizes, axis, formula.dim, kept)
    x = whole(value(lib, formula, given))
    if op in ("KMin", "ArgKMin", "KMin_ArgKMin"):
        if k is None or k < 1:
            raise ValueError(f"{op} finds the K least entries; K must be positive, and is {k}.")
        values, places = whole.smallest(x, k)
        return {"KMin": values, "ArgKMin": places}.get(op, (values, places))
    if op in ("Min", "Max"):
        return whole.extreme(x, op)
    if op in ("ArgMin", "ArgMax"):
        return whole.place(x, op)
    if op in ("Min_ArgMin", "Max_ArgMax"):
        name = op[:3]
        return whole.extreme(x, name), whole.place(x, "Arg" + name)
    if op == "Sum":
        return whole.finished(x.sum(whole.axis))
    if formula.dim != 1:
        raise ValueError(f"{op} takes a formula of dimension 1. Received {formula.dim}.")
    if op == "SumSoftMaxWeight":
        if weight is None:
            raise ValueError("SumSoftMaxWeight takes weights: formula2= or weight=.")
        return whole.weighted(x, whole(value(lib, weight, given)))
    total = whole.finished(duckkeops.logsumexp(x, axis=whole.axis))
    if op == "LogSumExp":
        if weight is None:
            return total
        mean = whole.weighted(x, whole(value(lib, weight, given)))
        return lib.logarithm_plus(mean, total)
    top = whole.extreme(x, "Max")  # Max_SumShiftExp: the greatest, and the sum of what is left
    left = lib.exponential_of_gap(total, top)
    if weight is not None:
        left = left * whole.weighted(x, whole(value(lib, weight, given)))
    return lib.joined([lib.spread(top, (*left.shape[:-1], 1)), left])


class _Whole:
    """Values over all pairs, and their reductions over one of the two axes."""

    def __init__(
        self,
        lib: Library,
        sizes: Sizes,
        axis: int,
        dim: int,
        pairs: duckkeops.BlockPairs | None,
    ):
        self.lib, self.sizes, self.dim, self.pairs = lib, sizes, dim, pairs
        self.batch = len(sizes.batch)
        self.axis = self.batch + axis
        lengths = [1 if n is None else n for n in (sizes.ni, sizes.nj)]
        self.kept, self.count = lengths[1 - axis], lengths[axis]

    def __call__(self, x: Any) -> Any:
        """The value as a lazy array, as long as the reduced axis."""
        lib = self.lib
        if not hasattr(x, "shape"):
            x = lib.full(1, x)
        if not isinstance(x, LazyArray):
            x = LazyArray(
                x.reshape((1,) * (self.batch + 3 - x.ndim) + tuple(x.shape)), 1, self.batch
            )
        lead = (1,) * (self.batch + 3 - x.ndim) + tuple(x.shape[:-1])
        if self.pairs is not None:
            lead = (*lead[: self.batch], *self.pairs.shape)
        elif lead[self.axis] != self.count:
            lead = (*lead[: self.axis], self.count, *lead[self.axis + 1 :])
        if lead != tuple(x.shape[:-1]):
            x = lib.xp.broadcast_to(x, (*lead, x.shape[-1]))
        if self.pairs is not None:
            x = x.restrict(self.pairs, (self.batch, self.batch + 1))
        return x

    def finished(self, out: Any) -> Any:
        """A result with all of its rows, batches and entries."""
        if isinstance(out, LazyArray):  # of what does not depend on all rows
            out = out.to_dense()
        n = out.shape[-1] if self.lib.is_complex(out) else max(self.dim, out.shape[-1])
        return self.lib.spread(out, (*self.sizes.batch, self.kept, n))

    def extreme(self, x: Any, op: str) -> Any:
        reduce = self.lib.least if op == "Min" else self.lib.greatest
        return self.finished(reduce(x, self.axis))

    def place(self, x: Any, op: str) -> Any:
        return self.finished(self.lib.place(op.lower(), x, self.axis))

    def weighted(self, scores: Any, x: Any) -> Any:
        return self.finished((scores.softmax(self.axis) * x).sum(self.axis))

    def smallest(self, x: Any, k: int) -> tuple[Any, Any]:
        """Values and places (..., M, K), or (..., M, K, D) of vectors; beyond the last there are
        inf and 0.
        """
        lib, found = self.lib, min(k, self.count)
        out = []
        pairs = duckkeops.topk(x, found, axis=self.axis, largest=False)
        if self.pairs is not None:
            pairs = pairs[0], pairs[1].clip(0)
        for array, rest in zip(pairs, (float("inf"), 0), strict=True):
            if k > found:
                array = lib.padded(array, k - found, self.axis, rest)
            array = lib.moved(array, self.axis, -2)
            array = lib.spread(array, (*self.sizes.batch, self.kept, k, self.dim))
            out.append(array[..., 0] if self.dim == 1 else array)
        return out[0], out[1]


# -- options ---------------------------------------------------------------------------------------


_recordings: dict[Any, tuple[Recording | None, bool]] = {}
KEPT = 1024  # recordings at most; then all are forgotten


def answered(
    how: dict[str, Any],
    arrays: Sequence[Any],
    lib: Library,
    name: Any,
    op: str,
    formula: Formula,
    axis: int,
    sizes: Sizes,
    given: Callable[[Variable], Any],
    weight: Formula | None = None,
    k: int | None = None,
) -> Any:
    """`reduced` of these arrays, with the options of a call. Raises what `options` raises.

    `name` stands for the formulas of these arrays, in their order, or is None. What the first call
    recorded serves later ones of the same name, on arrays of the same kind.
    """
    count_call(op)

    def made() -> Any:
        return reduced(lib, op, formula, axis, sizes, given, weight, k, kept)

    on_device = any(getattr(a, "is_cuda", False) for a in arrays)
    with options(how, str(lib.dtype).rpartition(".")[2], on_device):
        kept = pairs_of(how.get("ranges"), (sizes.ni or 1, sizes.nj or 1))
        real = [a for a in arrays if type(a) is not list]  # others are numbers
        like = None if name is None or not real else kind(real)
        key = name, op, axis, sizes, k, kept is not None, like
        known = None if like is None else _recordings.get(key)
        if known is not None:
            again, partial = known
            out = made() if again is None else again(real, kept)
        elif like is None:
            out, partial = made(), _is_partial(arrays, formula, weight)
        else:
            out, again = record(made, real)
            partial = _is_partial(arrays, formula, weight)
            if len(_recordings) >= KEPT:
                _recordings.clear()
            _recordings[key] = again, partial
        if partial:
            wanted = [a for a in arrays if getattr(a, "requires_grad", False)]
            return lib.connected(out, wanted) if wanted else out
        return out


def _is_partial(arrays: Sequence[Any], *formulas: Formula | None) -> bool:
    """Are there more arrays than the formulas have derivatives by?"""
    met: set[Any] = set().union(*(depends(f) for f in formulas if f is not None))
    return len(met) < len(arrays)


_patterns: dict[tuple[int, ...], tuple[Any, ...]] = {}  # kept as long as the first of six arrays


def pairs_of(ranges: Any, shape: tuple[int, int]) -> duckkeops.BlockPairs | None:
    """KeOps's ranges=, six arrays, as blocks of pairs: made once for arrays that do not change.

    Raises ValueError for what is not six arrays, ShapeError where they do not fit.
    """
    if ranges is None:
        return None
    if not isinstance(ranges, tuple | list) or len(ranges) != 6:
        raise ValueError(
            "ranges= is (ranges_i, slices_i, redranges_j, ranges_j, slices_j, redranges_i).\n"
            "  pykeops.torch.cluster.from_matrix makes them."
        )
    try:
        refs = [weakref.ref(a) for a in ranges]
    except TypeError:  # lists
        return duckkeops.BlockPairs.from_ranges(*ranges, shape=shape)
    key = (*map(id, ranges), *shape)
    state = [_state(a) for a in ranges]
    if key in _patterns:
        then, before, kept = _patterns[key]
        same = all(ref() is a for ref, a in zip(then, ranges, strict=True))
        if same and all(np.array_equal(a, b) for a, b in zip(state, before, strict=True)):
            return kept
    else:
        weakref.finalize(ranges[0], _patterns.pop, key, None)
    kept = duckkeops.BlockPairs.from_ranges(*ranges, shape=shape)
    _patterns[key] = refs, state, kept
    return kept


def _state(array: Any) -> Any:
    """What tells whether the entries were changed: a tensor's version, of others, and of tensors
    of torch.inference_mode, which have none, a copy.
    """
    if hasattr(array, "is_inference"):
        return array.cpu().numpy().copy() if array.is_inference() else array._version
    return np.array(array)


@contextlib.contextmanager
def options(given: dict[str, Any], dtype: str, on_device: bool) -> Iterator[None]:
    """KeOps's options of a call as ours. Those that only choose among its ways to compute the same
    (device_id, enable_chunks, use_fast_math, rec_multVar_highdim) change nothing.

    Raises TypeError for what is none, ValueError for values that are none or contradict, and
    UnsupportedError for what there is not.
    """
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise TypeError(
            f"{unknown[0]}= is no option of a KeOps reduction.\n  Use one of {', '.join(OPTIONS)}."
        )
    if given.get("optional_flags"):
        raise duckkeops.UnsupportedError(
            "optional_flags= are options of a C++ compiler, which is not called here.\n"
            "  Leave them away; DUCKKEOPS_CFLAGS is for our own compiler."
        )
    settings: dict[str, Any] = {}
    backend = given.get("backend") or "auto"
    name = backend.removesuffix("_host").removesuffix("_device")
    if name not in BACKENDS:
        raise ValueError(f"backend={backend!r} is none of {', '.join(BACKENDS)}.")
    if name == "CPU" and on_device:
        raise ValueError("backend='CPU' computes on the CPU, and the arrays are on a GPU.")
    if name.startswith("GPU") and not on_device:
        settings["engine"] = "cuda"
    wide = given.get("dtype_acc") or "auto"
    if wide not in ("auto", "float16", "float32", "float64"):
        raise ValueError(f"dtype_acc={wide!r} is none of auto, float16, float32, float64.")
    scheme = given.get("sum_scheme") or "auto"
    if scheme not in ("auto", "direct_sum", "block_sum", "kahan_scheme"):
        raise ValueError(
            f"sum_scheme={scheme!r} is none of auto, direct_sum, block_sum, kahan_scheme."
        )
    if (given.get("use_double_acc") or wide == "float64") and dtype != "float64":
        settings["accumulate"] = "float64"
    elif scheme == "kahan_scheme":
        settings["accumulate"] = "compensated"
    with duckkeops.config(**settings) if settings else contextlib.nullcontext():
        yield


def written(out: Any, result: Any) -> Any:
    """The result in out=. Raises ValueError if it does not fit."""
    if out is None:
        return result
    if isinstance(result, tuple):
        raise ValueError(f"out= takes one array, and the reduction gives {len(result)}.")
    if tuple(out.shape) != tuple(result.shape) or out.dtype != result.dtype:
        raise ValueError(
            f"out= must have shape {tuple(result.shape)} and dtype {result.dtype}, and has "
            f"{tuple(out.shape)} and {out.dtype}."
        )
    out[...] = result
    return out
