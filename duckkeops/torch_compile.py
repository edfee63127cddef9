"""Lazy arrays in code that torch.compile and torch.export trace: one operator of theirs for all.

Dynamo cannot trace the recording of nodes, so a `Traced` lazy array records its calls as a program:
lines of Python literals over a list of tensors and a list of lengths. What a call gives (a lazy
array or tensors, of which shape and dtype) is asked of the operator `duckkeops::form`, which runs
the program on tensors without entries. Where it gives tensors, `duckkeops::reduce` stays in the
graph. Its kernel runs the program as ordinary code does; its gradient is the same operator with a
program that ends in "vjp", so that gradients of every order are one operator too.

Lengths may be symbols of torch, and symbols cannot be hashed. So shapes are found with numbers that
stand for them, three times, and the result is read as an expression of the symbols.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._C._functorch import peek_interpreter_stack
from torch.fx.experimental.symbolic_shapes import has_static_value
from torch.utils._python_dispatch import _disable_current_modes

from duckkeops import array
from duckkeops.array import LazyArray
from duckkeops.errors import UnsupportedError
from duckkeops.torch_array import SIDES, TorchLazyArray

Tensors = list[torch.Tensor]

# -- programs: how they are written ----------------------------------------------------------------


class Call:
    """A call, by its kind, name and arguments."""

    __slots__ = ("args", "kind", "kwargs", "name")

    def __init__(self, kind: str, name: str, args: tuple, kwargs: dict[str, Any]):
        self.kind, self.name, self.args, self.kwargs = kind, name, args, kwargs


class Like:
    """What is asked of a tensor without entries."""

    __slots__ = ("device", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: Any):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, device


class Traced(TorchLazyArray):
    """A lazy array in traced code: the call that gave it, and a tensor of its shape and dtype that
    has no entries of its own.
    """

    __slots__ = ("_call", "_item", "_like")

    _call: Call
    _item: int  # which of the results; -1: the only one
    _like: torch.Tensor | Like

    @property
    def _node(self) -> Any:  # type: ignore[override]
        program, leaves, ints = _written(self)
        return _run(program, leaves, ints)._node

    @property
    def shape(self) -> torch.Size:
        """The length of each axis."""
        return self._like.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._like.shape)

    @property
    def dtype(self) -> torch.dtype:
        """What each entry is."""
        return self._like.dtype

    @property
    def device(self) -> Any:
        """Where the inputs lie."""
        return self._like.device

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return self._like.dtype.itemsize

    @property
    def requires_grad(self) -> bool:
        """Does any input require a gradient?"""
        return any(leaf.requires_grad for leaf in _written(self)[1])

    def __len__(self) -> int:
        return self._like.shape[0]

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one axis."""
        return self._like.shape if dim is None else self._like.shape[dim]

    def dim(self) -> int:
        """The number of axes."""
        return len(self._like.shape)

    def numel(self) -> int:
        """The number of entries."""
        return math.prod(self._like.shape)

    def __iter__(self) -> Any:
        raise UnsupportedError("iterating over a lazy array in compiled code: index it instead.")

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not torch.compiler.is_compiling():
            return super().__torch_function__(func, types, args, kwargs)
        return function(func, args, {} if kwargs is None else kwargs)


def function(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A torch function of lazy arrays in traced code."""
    return recorded("function", _name_of(func), args, kwargs)


def traced(x: torch.Tensor, feature_ndim: int | None = None, batch_ndim: int | None = None) -> Any:
    """LazyArray(x) in traced code."""
    return recorded("new", "LazyArray", (x, feature_ndim, batch_ndim), {})


def recorded(kind: str, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The result of a call: lazy arrays that record it, or the tensors of one operator."""
    within = _transform()
    if within:
        raise UnsupportedError(
            f"torch.func.{within} inside compiled code, of a function of lazy arrays.\n"
            "  Leave it out of torch.compile, where every transform works, or call backward() or "
            "torch.autograd.grad on what was compiled."
        )
    if _is_autocast():
        raise UnsupportedError(
            "torch.autocast around lazy arrays in compiled code.\n"
            "  Cast the tensors, as in LazyArray(x.bfloat16()), or leave torch.compile out."
        )
    call = Call(kind, name, args, kwargs)
    program, leaves, ints = _written_call(call)
    if torch.compiler.is_dynamo_compiling():
        code, *likes = torch.ops.duckkeops.form(leaves, ints, program)
    else:  # torch.export, whose graph keeps what is called
        how, results = form_of(program, leaves, ints)
        code = Like(_code(how, results), torch.bool, None)
        likes = [Like(shape, dtype, leaves[0].device) for _, shape, dtype in results]
    how, *kinds = code.shape
    tensors = []
    if TENSOR in kinds:
        tensors = list(torch.ops.duckkeops.reduce(leaves, ints, program))
    out = []
    for k in range(len(kinds)):
        if kinds[k] == TENSOR:
            out.append(tensors.pop(0))
        else:
            one = object.__new__(Traced)
            one._call = call
            one._item = -1 if how == SINGLE else k
            one._like = likes[k]
            out.append(one)
    if how == SINGLE:
        return out[0]
    if how == TUPLE:
        return tuple(out)
    if how == LIST:
        return out
    return NAMED[how - LIST - 1](out)


def _written(one: Traced) -> tuple[str, Tensors, list[int]]:
    return _written_call(one._call, one._item)


def _written_call(call: Call, item: int = -1) -> tuple[str, Tensors, list[int]]:
    """The program of a call, and the tensors and lengths that it is of."""
    lines: list[str] = []
    calls: list[Any] = []
    leaves: Tensors = []
    ints: list[int] = []
    _line(call, lines, calls, leaves, ints)
    if item >= 0:
        lines.append(f"('item', {len(lines) - 1}, {item})")
    return "\n".join(lines), leaves, ints


def _line(call: Call, lines: list, calls: list, leaves: list, ints: list) -> int:
    """The number of the line that a call has."""
    for k, known in calls:
        if known is call:
            return k
    texts = _text(tuple(call.args), lines, calls, leaves, ints)
    named = "".join(
        [f"('{k}', {_text(v, lines, calls, leaves, ints)}), " for k, v in call.kwargs.items()]
    )
    lines.append(f"('{call.kind}', '{call.name}', {texts}, ({named}))")
    calls.append((len(lines) - 1, call))
    return len(lines) - 1


def _text(x: Any, lines: list, calls: list, leaves: list, ints: list) -> str:
    """An argument as a Python literal: tuples that begin with what they are."""
    if isinstance(x, Traced):
        return f"('traced', {_line(x._call, lines, calls, leaves, ints)}, {x._item})"
    if isinstance(x, LazyArray):
        return _text(of_array(x), lines, calls, leaves, ints)
    if isinstance(x, torch.Tensor):
        for k in range(len(leaves)):
            if leaves[k] is x:
                return f"('leaf', {k})"
        leaves.append(x)
        return f"('leaf', {len(leaves) - 1})"
    if isinstance(x, (tuple, list)):
        parts = "".join([_text(a, lines, calls, leaves, ints) + ", " for a in x])
        return f"('{'list' if isinstance(x, list) else 'tuple'}', {parts})"
    if isinstance(x, slice):
        parts = "".join(
            [_text(a, lines, calls, leaves, ints) + ", " for a in (x.start, x.stop, x.step)]
        )
        return f"('slice', {parts})"
    if x is Ellipsis:
        return "('ellipsis',)"
    if isinstance(x, torch.dtype):
        return f"('dtype', '{str(x)[6:]}')"
    if x is None or isinstance(x, (bool, str)):
        return repr(x)
    if isinstance(x, int):
        if has_static_value(x):
            return repr(x)
        ints.append(x)
        return f"('int', {len(ints) - 1})"
    if isinstance(x, float):
        if not has_static_value(x):
            leaves.append(torch.scalar_tensor(x, dtype=torch.float64))
            return f"('number', {len(leaves) - 1})"
        return f"('float', '{x!r}')"
    if isinstance(x, complex):
        return f"('complex', '{x!r}')"
    raise UnsupportedError(
        f"in compiled code a lazy array meets a {type(x).__name__}, which no program can hold.\n"
        "  Pass tensors, numbers, slices, None and tuples of these."
    )


def of_array(x: LazyArray) -> Any:
    """A lazy array that ordinary code made, in traced code."""
    if isinstance(x, Traced):
        return x
    node = x._node
    tensor = getattr(node, "array", None)
    if tensor is None:
        raise UnsupportedError(
            "an expression that was recorded outside enters compiled code.\n"
            "  Pass its inputs, as tensors or as LazyArray(x), and write the expression inside."
        )
    roles = node.outline.roles
    features = len(roles) - len(roles.rstrip("f"))
    batches = len(roles) - len(roles.lstrip("b"))
    return traced(tensor, features, batches)


@torch.compiler.assume_constant_result
def _transform() -> str:
    """The transform of torch.func that is being traced, "" if there is none: some drop the tangents
    of operators that are not torch's own, and say nothing.
    """
    stack = peek_interpreter_stack()
    if stack is not None:
        return stack.key().name.lower()
    return "jvp" if torch.autograd.forward_ad._current_level >= 0 else ""


@torch.compiler.assume_constant_result
def _is_autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


@torch.compiler.assume_constant_result
def _name_of(func: Callable) -> str:
    """The dotted name of a torch function."""
    return torch.overrides.resolve_name(func) or func.__name__


# -- programs: how they run ------------------------------------------------------------------------

SINGLE, TUPLE, LIST = 1, 2, 3
LAZY, TENSOR = 1, 2
NAMED: tuple[Any, ...] = tuple(
    getattr(torch.return_types, n)
    for n in sorted(dir(torch.return_types))
    if isinstance(getattr(torch.return_types, n), type) and not n.startswith("_")
)


def _run(program: str, leaves: Sequence[torch.Tensor], ints: Sequence[int]) -> Any:
    """What the last call of a program gives."""
    with torch._C._EnableTorchFunction():  # off in what Dynamo calls
        return _last(program, leaves, ints)


def _last(program: str, leaves: Sequence[torch.Tensor], ints: Sequence[int]) -> Any:
    values: list[Any] = []
    for kind, *rest in _parsed(program):
        if kind == "item":
            values.append(values[rest[0]][rest[1]])
            continue
        name, args, kwargs = rest
        args = _value(args, values, leaves, ints)
        options = {k: _value(v, values, leaves, ints) for k, v in kwargs}
        if kind == "new":
            values.append(LazyArray(*args))
        elif kind == "function":
            values.append(_function(name)(*args, **options))
        elif kind == "property":
            values.append(getattr(args[0], name))
        else:
            value = getattr(args[0], name)(*args[1:], **options)
            if value is NotImplemented:
                raise TypeError(f"{name} of a lazy array and {args[1:]!r} is not defined.")
            values.append(value)
    return values[-1]


@functools.lru_cache(maxsize=1024)
def _parsed(program: str) -> tuple[tuple, ...]:
    return tuple(ast.literal_eval(line) for line in program.split("\n"))


@functools.cache
def _function(name: str) -> Callable:
    path = name.removeprefix("torch.").split(".")
    if (
        path[0] == "Tensor" and path[-1] in array.OPERATORS
    ):  # Dynamo's spelling of what operators call
        short = path[-1].strip("_")
        if short == "getitem":
            raise UnsupportedError(
                "a tensor as the index of a lazy array, or the other way around: torch.compile "
                "does not say which.\n  Write torch.index_select(d, dim, index)."
            )
        if short[0] == "r" and f"__{short[1:]}__" in array.OPERATORS:
            other = _operator(short[1:])
            return lambda a, b: other(b, a)
        return _operator(short)
    return functools.reduce(getattr, path, torch)  # type: ignore[arg-type]


def _operator(short: str) -> Callable:
    return divmod if short == "divmod" else getattr(operator, f"__{short}__")


def _value(x: Any, values: list, leaves: Sequence[torch.Tensor], ints: Sequence[int]) -> Any:
    if not isinstance(x, tuple):
        return x
    kind, *rest = x
    if kind in ("tuple", "list", "slice"):
        parts = [_value(a, values, leaves, ints) for a in rest]
        return {"tuple": tuple, "list": list, "slice": lambda p: slice(*p)}[kind](parts)
    match kind:
        case "traced":
            return values[rest[0]] if rest[1] < 0 else values[rest[0]][rest[1]]
        case "leaf":
            return leaves[rest[0]]
        case "int":
            return ints[rest[0]]
        case "number":
            return 1.5 if leaves[rest[0]].is_meta else leaves[rest[0]].item()
        case "float":
            return float(rest[0])
        case "complex":
            return complex(rest[0])
        case "dtype":
            return getattr(torch, rest[0])
    return ...


def _results(program: str, leaves: Sequence[torch.Tensor], ints: Sequence[int]) -> Tensors:
    """The tensors that a program gives, of any order of gradient."""
    head, mark, last = program.rpartition("\nvjp ")
    if not mark:
        return [r for r in _several(_run(program, leaves, ints))[1] if isinstance(r, torch.Tensor)]
    wanted, given = last.split(" ")
    n = len(wanted)
    with _recording():
        inner = [
            t if t.requires_grad or w == "0" else t.detach().requires_grad_()
            for t, w in zip(leaves[:n], wanted, strict=True)
        ]
        outs = _results(head, inner, ints)
        pairs = zip(
            [o for o, g in zip(outs, given, strict=True) if g == "1"], leaves[n:], strict=True
        )
        some = [(o, g) for o, g in pairs if o.requires_grad]
        by = [t for t, w in zip(inner, wanted, strict=True) if w == "1"]
        if not some:
            return [torch.zeros_like(t) for t in by]
        higher = any(t.requires_grad for t in leaves)
        return list(
            torch.autograd.grad(
                [o for o, _ in some], by, [g for _, g in some], create_graph=higher,
                materialize_grads=True,
            )
        )  # fmt: skip


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Autograd on, which is off in the kernel of an operator."""
    keys = [
        getattr(torch._C.DispatchKey, n)
        for n in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor")
    ]
    before = [torch._C._dispatch_tls_is_dispatch_key_excluded(k) for k in keys]
    for k in keys:
        torch._C._dispatch_tls_set_dispatch_key_excluded(k, False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for k, was in zip(keys, before, strict=True):
            torch._C._dispatch_tls_set_dispatch_key_excluded(k, was)


def _several(result: Any) -> tuple[int, list[Any]]:
    """How several results are packed, and these."""
    if isinstance(result, torch.Tensor | LazyArray):
        return SINGLE, [result]
    if type(result) in NAMED:
        return LIST + 1 + NAMED.index(type(result)), list(result)
    if isinstance(result, tuple | list):
        for r in result:
            if not isinstance(r, torch.Tensor | LazyArray):
                raise _no_tensor(r)
        return LIST if isinstance(result, list) else TUPLE, list(result)
    raise _no_tensor(result)


def _no_tensor(result: Any) -> UnsupportedError:
    return UnsupportedError(
        f"in compiled code a function of a lazy array gives a {type(result).__name__}: only "
        "tensors and lazy arrays can stay in a graph.\n  Reduce to a tensor first, as in d.sum(1)."
    )


# -- shapes ----------------------------------------------------------------------------------------

Form = tuple[int, tuple[tuple[bool, tuple[Any, ...], torch.dtype], ...]]


@functools.lru_cache(maxsize=4096)
def _form(program: str, leaves: tuple, ints: tuple, _: Any) -> Form:
    """How results are packed, and of each: is it lazy, its shape and dtype."""
    with _disable_current_modes():
        empty = [torch.empty(s, dtype=t, device="meta") for s, t in leaves]
        how, results = _several(_run(program, empty, ints))
    return how, tuple((isinstance(r, LazyArray), tuple(r.shape), r.dtype) for r in results)


STANDINS = (  # primes
    (2003, 2503, 3001, 3511, 4001, 4507, 5003, 5501),
    (1000003, 1300021, 1700021, 2300003, 2900017, 3700001, 4400021, 5300003),
)


def form_of(program: str, leaves: Sequence[torch.Tensor], ints: Sequence[Any]) -> Form:
    """`_form` of tensors whose lengths may be symbols."""
    program = program.partition("\nvjp ")[0]
    shapes = [tuple(t.shape) for t in leaves]
    dtypes = [t.dtype for t in leaves]
    symbols: list[Any] = []
    for n in itertools.chain(*shapes, ints):
        if not has_static_value(n) and not any(_same(n, s) for s in symbols):
            symbols.append(n)

    def with_numbers(numbers: Sequence[int]) -> Form:
        def number(n: Any) -> int:
            for s, v in zip(symbols, numbers, strict=True):
                if not has_static_value(n) and _same(n, s):
                    return v
            return int(n)

        sized = tuple((tuple(map(number, s)), t) for s, t in zip(shapes, dtypes, strict=True))
        return _form(program, sized, tuple(map(number, ints)), torch.get_default_dtype())

    if symbols and len(symbols) <= len(STANDINS[0]):
        tables = [t[: len(symbols)] for t in STANDINS]
        try:
            return _symbolic([with_numbers(t) for t in tables], tables, symbols)
        except Exception:
            pass  # with the true lengths it succeeds, or says why not
    return with_numbers([int(s) for s in symbols])  # holds for these lengths, and torch notes so


def _same(a: Any, b: Any) -> bool:
    """Is it the same expression of symbols?"""
    return a.node.expr == b.node.expr


def _symbolic(forms: Sequence[Form], tables: Sequence[Sequence[int]], symbols: list) -> Form:
    """The form with lengths as expressions of symbols. Raises ValueError if they are none."""
    (how, first), (_, second) = forms
    out = []
    for (lazy, shape, dtype), (_, other, _) in zip(first, second, strict=True):
        lengths = tuple(
            _expression((a, b), tables, symbols) for a, b in zip(shape, other, strict=True)
        )
        out.append((lazy, lengths, dtype))
    return how, tuple(out)


def _expression(pair: tuple[int, int], tables: Sequence[Sequence[int]], symbols: list) -> Any:
    """The length that is pair[k] where the symbols are tables[k]: a number, a symbol and a number
    more, or a product.
    """
    if pair[0] == pair[1]:
        return pair[0]
    for s, u, v in zip(symbols, *tables, strict=True):
        if pair[0] - u == pair[1] - v:
            return s + (pair[0] - u)
    left, product = list(pair), 1
    for s, u, v in zip(symbols, *tables, strict=True):
        while left[0] % u == 0 and left[1] % v == 0:
            left, product = [left[0] // u, left[1] // v], product * s
    if left[0] != left[1]:
        raise ValueError("no expression of the lengths")
    return product * left[0]


# -- the operators ---------------------------------------------------------------------------------


def _code(how: int, results: Sequence[tuple[bool, Any, Any]]) -> tuple[int, ...]:
    return how, *[LAZY if lazy else TENSOR for lazy, _, _ in results]


def _likes(leaves: Tensors, ints: Sequence[int], program: str) -> Tensors:
    """A tensor whose shape says what a program gives, and one like each result."""
    how, results = form_of(program, leaves, ints)
    device = leaves[0].device
    return [
        torch.zeros((), device=device).expand(_code(how, results)),
        *(torch.zeros((), dtype=t, device=device).expand(s) for _, s, t in results),
    ]


@torch.library.custom_op("duckkeops::form", mutates_args=())
def _form_op(leaves: list[torch.Tensor], ints: Sequence[int], program: str) -> list[torch.Tensor]:
    return _likes(leaves, ints, program)


_form_op.register_fake(_likes)  # pyright: ignore[reportFunctionMemberAccess]
_form_op.register_autograd(  # pyright: ignore[reportFunctionMemberAccess]
    lambda ctx, grads: ([None] * ctx.counts[0], [None] * ctx.counts[1], None),
    setup_context=lambda ctx, inputs, output: setattr(
        ctx, "counts", (len(inputs[0]), len(inputs[1]))
    ),
)


@torch.library.custom_op("duckkeops::reduce", mutates_args=())
def _reduce_op(leaves: list[torch.Tensor], ints: Sequence[int], program: str) -> list[torch.Tensor]:
    seen = {t.untyped_storage().data_ptr() for t in leaves}
    out = []
    for r in _results(program, leaves, ints):
        r = r.detach().resolve_conj().resolve_neg().contiguous()
        place = r.untyped_storage().data_ptr()
        out.append(r.clone() if place in seen else r)
        seen.add(place)
    return out


@_reduce_op.register_fake  # pyright: ignore[reportFunctionMemberAccess]
def _(leaves: list[torch.Tensor], ints: Sequence[int], program: str) -> list[torch.Tensor]:
    _, mark, last = program.rpartition("\nvjp ")
    if mark:
        wanted = last.split(" ")[0]
        by = [t for t, w in zip(leaves, wanted, strict=False) if w == "1"]
        return [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in by]
    _, results = form_of(program, leaves, ints)
    return [torch.empty(s, dtype=t, device=leaves[0].device) for lazy, s, t in results if not lazy]


def _setup_context(ctx: Any, inputs: tuple, output: Tensors) -> None:
    leaves, ctx.ints, ctx.program = inputs
    ctx.save_for_backward(*leaves)


def _backward(ctx: Any, grads: Sequence[torch.Tensor | None]) -> tuple[Any, Any, None]:
    leaves = ctx.saved_tensors
    wanted = ctx.needs_input_grad[0]
    given = [g for g in grads if g is not None]
    marks = "".join("1" if w else "0" for w in wanted)
    program = f"{ctx.program}\nvjp {marks} {''.join('0' if g is None else '1' for g in grads)}"
    found = iter(torch.ops.duckkeops.reduce([*leaves, *given], ctx.ints, program))
    return [next(found) if w else None for w in wanted], [None] * len(ctx.ints), None


_reduce_op.register_autograd(  # pyright: ignore[reportFunctionMemberAccess]
    _backward, setup_context=_setup_context
)


# -- the methods of Traced -------------------------------------------------------------------------


def _recorder(kind: str, name: str) -> Callable:
    def method(self: LazyArray, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():  # it has left compiled code
            ordinary = array._wrap(TorchLazyArray, self._node)
            value = getattr(ordinary, name)
            return value if kind == "property" else value(*args, **kwargs)
        return recorded(kind, name, (self, *args), kwargs)

    return method


def _add_methods() -> None:
    own = vars(Traced)
    for name in dir(TorchLazyArray):
        here = name.startswith("__") and name not in array.OPERATORS
        if name in own or here or name in ("_node", "__weakref__"):
            continue
        if isinstance(getattr(TorchLazyArray, name), property):
            setattr(Traced, name, property(_recorder("property", name)))
        else:
            array._add(Traced, name, _recorder("method", name))
    Traced.__hash__ = object.__hash__  # type: ignore[method-assign]


_add_methods()


def _tell_sides() -> None:
    """Dynamo swaps the operands of d @ tensor, and then calls it as it calls tensor @ d: in its
    table of reflected operators this one is missing, and in that of operators of two objects too.
    """
    from torch._dynamo.variables import builtin

    builtin.populate_builtin_to_tensor_fn_map()
    builtin.BUILTIN_TO_TENSOR_RFN_MAP.setdefault(operator.matmul, torch.Tensor.__rmatmul__)
    names = ["__matmul__", "__rmatmul__", "__imatmul__"]
    builtin.BuiltinVariable._binops().setdefault(operator.matmul, (names, operator.imatmul))
    builtin.BuiltinVariable._binop_handlers.cache_clear()
    SIDES.append("told")


_thread = threading.Thread(target=_tell_sides)  # where no mode of the tracer is on
_thread.start()
_thread.join()
