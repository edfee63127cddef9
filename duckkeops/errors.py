"""The exception classes. Each derives from what NumPy raises for the same mistake."""


class ShapeError(ValueError):
    """Shapes, axes or roles of the operands do not fit together."""


class RoleError(ShapeError):
    """Two lazy arrays disagree on what an axis is; `feature_ndim=` settles it."""


class DtypeError(TypeError):
    """An operation has no meaning for this dtype."""


class VirtualArrayError(TypeError):
    """Something asked for all entries of a virtual array, which are never stored."""


class UnsupportedError(TypeError):
    """A function has no pairwise form."""


class UnsupportedAttributeError(UnsupportedError, AttributeError):
    """An attribute that arrays have and lazy ones have not: `hasattr` and debuggers miss it."""


class CompileError(RuntimeError):
    """The compiler refused a generated kernel: a bug in duckkeops."""


class CompilerNotFoundError(RuntimeError):
    """No C compiler was found, and the C engine was asked for by name."""


class ConvergenceError(RuntimeError):
    """An iteration ended before its tolerance was reached.

    `x` is the best solution so far, `residual` the norms of its residuals, `iterations` their
    number.
    """

    def __init__(
        self, message: str, x: object = None, residual: object = None, iterations: int = 0
    ):
        super().__init__(message)
        self.x, self.residual, self.iterations = x, residual, iterations
