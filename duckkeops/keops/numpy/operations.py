"""pykeops.numpy.operations."""

from duckkeops.keops.genred import KernelSolve

__all__ = ["KernelSolve"]
