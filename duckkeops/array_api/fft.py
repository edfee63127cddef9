"""The extension `fft`: the library's own for genuine arrays, refused for virtual ones."""

from typing import Any

from duckkeops.array_api import arrays, functions

_FUNCTIONS = functions.functions(functions.FFT, __name__, "fft.") | functions.frequencies(
    arrays.numpy_library, __name__
)
globals().update(_FUNCTIONS, __all__=list(_FUNCTIONS))


def __dir__() -> list[str]:
    return list(_FUNCTIONS)


def __getattr__(name: str) -> Any:  # type checkers do not see the table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
