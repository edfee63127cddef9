"""What libraries read and set of keopscore. There is no such compiler here: settings of it are
kept, and change nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from duckkeops.keops.building import clean_pykeops as clean_keops
from duckkeops.keops.building import get_build_folder, set_build_folder
from duckkeops.keops.installing import VERSION
from duckkeops.keops.keopscore import config
from duckkeops.keops.keopscore.config import (
    cuda_config,
    get_config,
    get_cuda_config,
    get_openmp_config,
    get_platform_config,
    openmp_config,
    platform_detector,
)

__all__ = [
    "auto_factorize",
    "clean_keops",
    "config",
    "cuda_config",
    "debug_ops",
    "debug_ops_at_exec",
    "get_build_folder",
    "get_config",
    "get_cuda_config",
    "get_openmp_config",
    "get_platform_config",
    "openmp_config",
    "platform_detector",
    "set_build_folder",
    "verbose",
]

__version__ = VERSION
verbose = os.environ.get("KEOPS_VERBOSE") != "0" and os.environ.get("PYKEOPS_VERBOSE") != "0"
auto_factorize = False  # what occurs twice in a formula is computed once in any case
debug_ops = debug_ops_at_exec = False


def __getattr__(name: str) -> Any:
    if name == "check_health":
        return importlib.import_module("duckkeops.keops.health").check_health
    return getattr(config, name)
