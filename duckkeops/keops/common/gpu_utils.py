"""pykeops.common.gpu_utils."""

from __future__ import annotations

from duckkeops.engines import cuda


def get_gpu_number() -> int:
    """The number of CUDA devices, 0 without CuPy."""
    return cuda.cupy().cuda.runtime.getDeviceCount() if cuda.is_available() else 0
