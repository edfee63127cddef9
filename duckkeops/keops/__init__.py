"""KeOps's interface: duckkeops.keops.numpy and duckkeops.keops.torch, as those of pykeops.

`import duckkeops.keops as pykeops` is for one's own code, and `duckkeops.keops.install()` for
libraries: it makes `import pykeops` find this package.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from typing import Any

from duckkeops.keops.building import clean_pykeops, get_build_folder, set_build_folder
from duckkeops.keops.counting import calls, reset_calls
from duckkeops.keops.installing import VERSION, install, uninstall

__all__ = [
    "calls",
    "clean_pykeops",
    "get_build_folder",
    "install",
    "reset_calls",
    "set_build_folder",
    "set_verbose",
    "uninstall",
]

__version__ = VERSION  # of the KeOps that this is like
verbose = os.environ.get("PYKEOPS_VERBOSE") != "0"
default_device_id = 0
numpy_found, torch_found = True, importlib.util.find_spec("torch") is not None

_MODULES = ("common", "config", "keopscore", "numpy", "torch")  # imported when first looked at
_OF_HEALTH = ("check_health", "test_numpy_bindings", "test_torch_bindings")


def set_verbose(val: bool) -> None:
    """Log what is compiled, or warnings alone: the level of the logger "duckkeops" is INFO or
    WARNING. Nothing is printed; `logging.basicConfig()` shows what is logged.
    """
    global verbose
    verbose = bool(val)
    core = sys.modules.get(f"{__name__}.keopscore")
    if core is not None:
        core.verbose = verbose  # type: ignore[attr-defined]
    logging.getLogger("duckkeops").setLevel(logging.INFO if verbose else logging.WARNING)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _OF_HEALTH:
        return getattr(importlib.import_module(f"{__name__}.health"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
