"""`import pykeops` finds duckkeops.keops."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import pathlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from types import FunctionType, ModuleType
from typing import Any

VERSION = "2.3"
ROOTS = ("pykeops", "keopscore")
HERE = "duckkeops.keops"
LIBRARIES = ("numpy", "torch")

# The module that stands for each of KeOps's.
MODULES = {
    "pykeops": HERE,
    "keopscore": f"{HERE}.keopscore",
    "keopscore.config": f"{HERE}.keopscore.config",
    **{f"pykeops.{name}": f"{HERE}.{name}" for name in ("common", "config", *LIBRARIES)},
    **{f"pykeops.common.{name}": f"{HERE}.common.{name}" for name in ("gpu_utils", "utils")},
    **{
        f"pykeops.{library}.{name}": f"{HERE}.{library}.{name}"
        for library in LIBRARIES
        for name in ("cluster", "operations", "utils")
    },
}
# Modules made of another one's names, since KeOps has these in a module of their own.
FILLED = {
    "pykeops.common.lazy_tensor": f"{HERE}.lazytensor",
    **{
        f"pykeops.{library}.{name}": f"{HERE}.{source}"
        for library in LIBRARIES
        for name, source in (
            ("lazytensor", ""),
            ("lazytensor.LazyTensor", library),
            ("generic", ""),
            ("generic.generic_red", library),
            ("generic.generic_ops", library),
            ("test_install", "health"),
            ("cluster.matrix", f"{library}.cluster"),
            ("cluster.utils", f"{library}.cluster"),
        )
    },
}
# There the name of a module is that of a function in its package. In sys.modules with its package,
# it is found, and the import system leaves the function alone.
WITHIN = {
    **{f"pykeops.{library}.cluster": "grid_cluster" for library in LIBRARIES},
    "keopscore.config": "config",
}


def install(force: bool = False) -> None:
    """Make `import pykeops` and `import keopscore`, and imports from their modules, find
    duckkeops.keops, in this process. A second call changes nothing.

    Raises ImportError if pykeops itself has been imported: call this before. With force=True it is
    replaced, and a warning tells which modules hold names of it, and keep them.
    """
    if _FINDER in sys.meta_path:
        return
    met = _modules_of(ROOTS)
    real = met.get("pykeops") or met.get("keopscore")
    if real is not None:
        what = f"{real.__name__} {getattr(real, '__version__', '')} of {_place(real)}"
        if not force:
            raise ImportError(
                f"{what} has been imported, and its names may be held already.\n"
                "  Call duckkeops.keops.install() before anything imports pykeops, or "
                "install(force=True) to replace it."
            )
        held = ", ".join(_holders())
        rest = f"\n  Names that others hold of it stay as they are, in {held}." if held else ""
        warnings.warn(f"duckkeops.keops replaces {what}.{rest}", stacklevel=2)
    for name in met:
        _FINDER.replaced[name] = sys.modules.pop(name)
    sys.meta_path.insert(0, _FINDER)
    for root in ROOTS:
        importlib.import_module(root)


def uninstall() -> None:
    """Undo `install()`: pykeops is again what it was, if anything."""
    if _FINDER not in sys.meta_path:
        return
    sys.meta_path.remove(_FINDER)
    for name in _modules_of(ROOTS):
        del sys.modules[name]
    sys.modules.update(_FINDER.replaced)
    _FINDER.replaced.clear()


def _modules_of(roots: Sequence[str]) -> dict[str, Any]:
    return {name: m for name, m in sys.modules.items() if name.partition(".")[0] in roots}


def _place(module: ModuleType) -> str:
    return str(pathlib.Path(getattr(module, "__file__", None) or "?").parent)


def _holders() -> list[str]:
    """The packages, other than KeOps's own, with modules, classes or functions of KeOps."""
    found = set()
    for name, module in list(sys.modules.items()):
        root = name.partition(".")[0]
        if root in (*ROOTS, "duckkeops", "__mp_main__") or root in found:
            continue
        for held in list(getattr(module, "__dict__", {}).values()):
            if issubclass(type(held), (type, FunctionType, ModuleType)):
                home = held.__name__ if isinstance(held, ModuleType) else held.__module__
                if str(home).partition(".")[0] in ROOTS:
                    found.add(root)
    return sorted(found)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds KeOps's modules here, and no other of that name."""

    def __init__(self) -> None:
        self.replaced: dict[str, Any] = {}

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in ROOTS:
            return None
        if fullname not in MODULES and fullname not in FILLED:
            raise ModuleNotFoundError(
                f"duckkeops stands in for KeOps, and has no {fullname}.\n"
                "  docs/from_keops.md has the modules and names that there are.",
                name=fullname,
            )
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in MODULES:
            module = sys.modules[name] = importlib.import_module(MODULES[name])
            vars(module).setdefault("__path__", [])  # so that modules of it are asked for, here
        elif FILLED[name] != f"{HERE}.":
            source = vars(importlib.import_module(FILLED[name]))
            vars(module).update({k: v for k, v in source.items() if not k.startswith("__")})
        if name in WITHIN:
            sys.modules[f"{name}.{WITHIN[name]}"] = module

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        """What importlib.metadata.version("pykeops") asks for."""
        wanted = getattr(context, "name", None)
        return [_Distribution(root) for root in ROOTS if wanted in (None, root)]


class _Distribution(importlib.metadata.Distribution):
    def __init__(self, root: str):
        self._root = root

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: {self._root}\nVersion: {VERSION}\n"

    def locate_file(self, path: Any) -> Any:
        return pathlib.Path(__file__).parent / path


_FINDER = _Finder()
