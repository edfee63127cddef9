"""`duckkeops.array_api`: an array-API namespace (version 2025.12) for lazy and genuine arrays.

`lazy.__array_namespace__()` is this module, so generic code (array-api-compat, SciPy and
scikit-learn with array-API dispatch) runs on lazy arrays unchanged. Its functions take lazy arrays,
genuine arrays of the same library and numbers, and give `Array`s: lazy where the result is virtual,
and otherwise the result of the inputs' own library, held by the Array.

A virtual Array refuses what needs all of its entries, as every lazy array does, unless they take no
more memory than the inputs. An Array that is not virtual can be written to; of a virtual one
`a[mask] = value` makes a new expression. Lazy arrays over another library, such as
array-api-strict, have a namespace of their own (`of_library`), whose new arrays are that library's.
array-api-compat refuses to name one namespace for lazy arrays and arrays of NumPy together, as it
does for any two libraries; `asarray` makes Arrays of the latter.

>>> import duckkeops
>>> from duckkeops import array_api as xp
>>> x = xp.linspace(0, 1, 5)
>>> k = xp.exp(-((x[:, None] - x[None, :]) ** 2))  # virtual
>>> xp.round(xp.sum(k, axis=1) * 100)
Array([366., 423., 444., 423., 366.], dtype=float64)
"""

import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

from duckkeops.array_api import arrays, fft, functions, linalg, special
from duckkeops.array_api.arrays import Array

__array_api_version__ = "2025.12"
VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")


def members(home: Callable[[], Any], module: str) -> dict[str, Any]:
    """All names of a namespace that makes arrays of the library `home()`."""

    def __array_namespace_info__() -> functions.Info:
        """Capabilities, dtypes and devices."""
        return functions.Info(home)

    return {
        **functions.functions(functions.FUNCTIONS, module),
        **functions.creation(home, module),
        **{name: dtype.type for name, dtype in functions.DTYPES.items()},  # as numpy.float32
        "result_type": functions.result_type,
        "can_cast": functions.can_cast,
        "isdtype": functions.isdtype,
        "finfo": functions.float_limits,
        "iinfo": functions.integer_limits,
        "broadcast_shapes": functions.broadcast_shapes,
        "__array_namespace_info__": __array_namespace_info__,
        "__array_api_version__": __array_api_version__,
        "e": math.e,
        "inf": math.inf,
        "nan": math.nan,
        "newaxis": None,
        "pi": math.pi,
        "linalg": linalg,
        "special": special,
        "Array": Array,
    }


def of_library(name: str) -> types.ModuleType:
    """The namespace whose new arrays are those of an imported library: this module for NumPy.

    >>> of_library("numpy").__name__
    'duckkeops.array_api'
    """
    return sys.modules[__name__] if name == "numpy" else _other(name)


@functools.cache
def _other(name: str) -> types.ModuleType:
    def home() -> Any:
        return arrays.loaded(name)

    module = types.ModuleType(f"{__name__}[{name}]", f"{__name__} over arrays of {name}.")
    vars(module).update(members(home, module.__name__))
    vars(module)["fft"] = own_fft = types.ModuleType(f"{module.__name__}.fft", fft.__doc__)
    vars(own_fft).update(vars(fft) | functions.frequencies(home, own_fft.__name__))
    return module


def namespace(array: Any, api_version: str | None = None) -> types.ModuleType:
    """What `array.__array_namespace__(api_version=...)` gives for a lazy array.

    Raises ValueError for a version that is not there.
    """
    if api_version is not None and api_version not in VERSIONS:
        raise ValueError(
            f"the array API standard of version {api_version!r} is not there; "
            f"duckkeops.array_api has {', '.join(VERSIONS)}."
        )
    return of_library(arrays.library_name(array._node))


_MEMBERS = members(arrays.numpy_library, __name__)
globals().update(_MEMBERS, __all__=["fft", *_MEMBERS])


def __dir__() -> list[str]:
    return ["fft", *_MEMBERS]


def __getattr__(name: str) -> Any:  # type checkers do not see the tables
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
