"""Special functions, under SciPy's names: each row of the operation table that has one.

`scipy.special` looks here where SCIPY_ARRAY_API is set.
"""

from typing import Any

from duckkeops.array_api import functions
from duckkeops.array_api.arrays import ALSO, special, special_row
from duckkeops.ops import TABLE

_NAMES = [op.scipy for op in TABLE if op.scipy and op.nargs < 3]
_ROWS = [
    functions.Row(name, functions.ONE if special_row(name).nargs == 1 else functions.TWO, special)
    for name in (*_NAMES, *ALSO)
]
_FUNCTIONS = functions.functions(_ROWS, __name__, "special.")
globals().update(_FUNCTIONS, __all__=list(_FUNCTIONS))


def __dir__() -> list[str]:
    return list(_FUNCTIONS)


def __getattr__(name: str) -> Any:  # type checkers do not see the table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
