"""The extension `linalg`: products and norms reduce virtual arrays or stay lazy; what needs a
matrix to be stored is the library's own for genuine ones, and refused for virtual ones.
"""

from typing import Any

from duckkeops.array_api import functions

_FUNCTIONS = functions.functions(functions.LINALG, __name__, "linalg.")
globals().update(_FUNCTIONS, __all__=list(_FUNCTIONS))


def __dir__() -> list[str]:
    return list(_FUNCTIONS)


def __getattr__(name: str) -> Any:  # type checkers do not see the table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
