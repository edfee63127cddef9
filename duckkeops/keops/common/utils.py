"""pykeops.common.utils."""

from __future__ import annotations

import importlib
import logging
from typing import Any

log = logging.getLogger("duckkeops")


def axis2cat(axis: int) -> int:
    """The category of the rows that are left by a reduction over an axis: 0 is i, 1 is j."""
    if axis not in (0, 1):
        raise ValueError(f"axis is 0, over i, or 1, over j, and got {axis}.")
    return 1 - axis


def cat2axis(cat: int) -> int:
    """The axis that is reduced to leave rows of this category."""
    if cat not in (0, 1):
        raise ValueError(f"the category is 0, of i, or 1, of j, and got {cat}.")
    return 1 - cat


def get_tools(lang: str) -> Any:
    """numpytools or torchtools."""
    library = {"numpy": "numpy", "torch": "torch", "pytorch": "torch"}.get(lang)
    if library is None:
        raise ValueError(f"lang is 'numpy' or 'torch', and got {lang!r}.")
    module = importlib.import_module(f"duckkeops.keops.{library}.utils")
    return getattr(module, f"{library}tools")()


def pyKeOps_Print(message: object, **ignored: Any) -> None:
    """Log a message; `logging.basicConfig(level="INFO")` shows it."""
    log.info("%s", message)


def pyKeOps_Message(message: object, use_tag: bool = True, **ignored: Any) -> None:
    """Log a message; `logging.basicConfig(level="INFO")` shows it."""
    log.info("%s", message)


def pyKeOps_Warning(message: object) -> None:
    """Log a warning."""
    log.warning("%s", message)
