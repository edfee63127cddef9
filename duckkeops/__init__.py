"""duckkeops: ordinary array code on pairwise arrays that are far too large to store."""

from duckkeops import array_api, linalg
from duckkeops.array import LazyArray
from duckkeops.config import config
from duckkeops.errors import (
    CompileError,
    CompilerNotFoundError,
    ConvergenceError,
    DtypeError,
    RoleError,
    ShapeError,
    UnsupportedError,
    VirtualArrayError,
)
from duckkeops.restriction import BlockPairs
from duckkeops.selection import argtopk, logsumexp, softmax, topk

__version__ = "0.1.0"

__all__ = [
    "BlockPairs",
    "CompileError",
    "CompilerNotFoundError",
    "ConvergenceError",
    "DtypeError",
    "LazyArray",
    "RoleError",
    "ShapeError",
    "UnsupportedError",
    "VirtualArrayError",
    "argtopk",
    "array_api",
    "config",
    "linalg",
    "logsumexp",
    "softmax",
    "topk",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
