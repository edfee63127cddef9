"""Settings of a computation: which engine, how many threads, how precise."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

Engine = Literal["auto", "cpu", "cuda", "blocks"]
Precision = Literal["exact", "float32", "tf32", "half"]
Accumulate = Literal["auto", "float64", "compensated"]
Offload = Literal[True, False, "auto"]
Progress = Literal[True, False, "auto"]

CHOICES = {
    "engine": ("auto", "cpu", "cuda", "blocks"),
    "precision": ("exact", "float32", "tf32", "half"),
    "accumulate": ("auto", "float64", "compensated"),
    "offload": (True, False, "auto"),
    "progress": (True, False, "auto"),
}

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Settings:
    """What `config` changes. `threads` is a number of threads, at least 1; None uses every core.

    engine      "auto": kernels compiled for where the inputs lie, and tiles of the array library
                where there is no compiler; "cpu" insists on C, and refuses arrays on a device;
                "cuda" insists on a CUDA device, to which it copies what lies elsewhere; "blocks"
                on the array library
    precision   "exact": the dtype's own arithmetic; "float32": within 1e-5 of the scale of the
    exact answer;
                "tf32", "half"
    accumulate  how sums are carried: "auto" in blocks, "float64", or "compensated"
    offload     are arrays on the CPU computed with on a CUDA device, and results copied back?
                "auto": if there is one, and it pays clearly; engine="cuda" says True
    progress    does a long reduction show how far it is? "auto": if it takes more than 2 seconds,
                on a terminal or in a notebook
    """

    engine: Engine = "auto"
    threads: int | None = None
    precision: Precision = "float32"
    accumulate: Accumulate = "auto"
    offload: Offload = "auto"
    progress: Progress = "auto"

    @property
    def kernels(self) -> tuple[Any, ...]:
        """What launches depend on: those that are kept are found by it."""
        return self.engine, self.offload, self.precision, self.accumulate


# the settings of all the `with` blocks around, innermost last; one instance of `config` may serve
# many threads
_stack: contextvars.ContextVar[tuple[Settings, ...]] = contextvars.ContextVar(
    "duckkeops_settings", default=(Settings(),)
)


def current() -> Settings:
    """The settings in force here, in this thread or task.

    >>> current().engine
    'auto'
    """
    return _stack.get()[-1]


class config:
    """Change settings for the length of a `with` block, or of the calls of a decorated function.

    Raises ValueError for a value that is not among the choices, TypeError for an unknown setting.

    >>> with config(engine="blocks", threads=1):
    ...     current().engine, current().threads
    ('blocks', 1)
    >>> @config(precision="exact")
    ... def precision():
    ...     return current().precision
    >>> precision(), current().precision
    ('exact', 'float32')
    """

    __slots__ = ("_changes",)

    current = staticmethod(current)

    def __init__(self, **changes: Any):
        for name, value in changes.items():
            _check(name, value)
        self._changes = changes

    def __enter__(self) -> Settings:
        settings = replace(current(), **self._changes)
        _stack.set((*_stack.get(), settings))
        return settings

    def __exit__(self, *exception: object) -> None:
        _stack.set(_stack.get()[:-1])

    def __call__(self, function: _Function) -> _Function:
        @functools.wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with config(**self._changes):
                return function(*args, **kwargs)

        return within  # type: ignore[return-value]


def _check(name: str, value: Any) -> None:
    if name == "threads":
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ValueError(
                f"config(threads={value!r}): threads is a whole number of at least 1, "
                "or None for every core."
            )
    elif name not in CHOICES:
        known = ", ".join(Settings.__dataclass_fields__)
        raise TypeError(f"config() has no setting {name!r}. Its settings are {known}.")
    elif value not in CHOICES[name]:
        choices = ", ".join(map(repr, CHOICES[name]))
        raise ValueError(f"config({name}={value!r}): {name} is one of {choices}.")
