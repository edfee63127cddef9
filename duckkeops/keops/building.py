"""KeOps's functions of the folder of compiled code, which is duckkeops's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from duckkeops import cache

VARIABLE = "DUCKKEOPS_CACHE_DIR"
_before: list[str | None] = []  # what the variable was when the folder was first set


def get_build_folder() -> str:
    """The folder of generated sources and compiled kernels."""
    return str(cache.wanted_folder())


def set_build_folder(path: str | os.PathLike[str] | None = None) -> None:
    """Keep what is compiled from now on in this folder, which is made; None for that of before.
    The environment variable DUCKKEOPS_CACHE_DIR says it to processes that are started from here.

    Raises OSError where the folder cannot be made.
    """
    if not _before:
        _before.append(os.environ.get(VARIABLE))
    if path is None:
        path = _before.pop()
    if not path:
        os.environ.pop(VARIABLE, None)
        return
    folder = Path(path).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)


def clean_pykeops(*ignored: Any, **also_ignored: Any) -> None:
    """Remove the generated sources and compiled kernels from the folder; what this process has
    loaded stays. KeOps's argument, whether to compile its own binaries again, has no meaning here.
    """
    cache.clear(cache.wanted_folder())
