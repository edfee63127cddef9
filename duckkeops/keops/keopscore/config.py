"""What libraries read and set of keopscore.config."""

from __future__ import annotations

import platform
from typing import Any

from duckkeops.engines import cuda
from duckkeops.keops import building

__all__ = [
    "config",
    "cuda_config",
    "get_config",
    "get_cuda_config",
    "get_openmp_config",
    "get_platform_config",
    "openmp_config",
    "platform_detector",
]


class _Settings:
    """A part of KeOps's configuration."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"{name} configures KeOps's own compiler, and duckkeops has none such.\n"
            "  python -m duckkeops doctor shows what duckkeops found; DUCKKEOPS_CC and "
            "DUCKKEOPS_CFLAGS choose its compiler and flags."
        )


class _Cuda(_Settings):
    """The GPU. Where arrays are says where they are computed; these settings change nothing."""

    cuda_block_size = 192

    @property
    def use_cuda(self) -> bool:
        """Are there CuPy and a device?"""
        chosen = vars(self).get("_use_cuda")
        return cuda.is_available() if chosen is None else chosen

    @use_cuda.setter
    def use_cuda(self, value: bool) -> None:
        self._use_cuda = bool(value)

    def get_use_cuda(self) -> bool:
        return self.use_cuda

    def get_cuda_block_size(self) -> int:
        return self.cuda_block_size

    def set_cuda_block_size(self, cuda_block_size: int = 192) -> None:
        self.cuda_block_size = cuda_block_size


class _Base(_Cuda):
    """The folder of compiled code."""

    def get_build_folder(self) -> str:
        return building.get_build_folder()

    def set_different_build_folder(self, path: Any = None, **ignored: Any) -> None:
        building.set_build_folder(path)


class _Threads(_Settings):
    def get_use_OpenMP(self) -> bool:
        """There are threads, of our own."""
        return True


class _Platform(_Settings):
    def get_os(self) -> str:
        return platform.system()

    def get_python_version(self) -> str:
        return platform.python_version()


config, cuda_config, openmp_config, platform_detector = _Base(), _Cuda(), _Threads(), _Platform()


def get_config() -> _Base:
    return config


def get_cuda_config() -> _Cuda:
    return cuda_config


def get_openmp_config() -> _Threads:
    return openmp_config


def get_platform_config() -> _Platform:
    return platform_detector


def __getattr__(name: str) -> Any:
    """KeOps has the object `config` in this place in some versions, and a module in others."""
    return getattr(config, name)
