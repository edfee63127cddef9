"""What KeOps found on this machine: pykeops.config."""

from __future__ import annotations

from typing import Any

from duckkeops.keops import numpy_found as numpy_found
from duckkeops.keops import torch_found as torch_found
from duckkeops.keops.building import get_build_folder as get_build_folder
from duckkeops.keops.keopscore.config import config, cuda_config, openmp_config

pykeops_base, pykeops_cuda, pykeops_openmp = config, cuda_config, openmp_config


def __getattr__(name: str) -> Any:
    if name == "gpu_available":  # looked for when asked: it takes CuPy
        return cuda_config.get_use_cuda()
    raise AttributeError(
        f"pykeops.config.{name} configures KeOps's own compiler, and duckkeops has none such.\n"
        "  python -m duckkeops doctor shows what duckkeops found."
    )
