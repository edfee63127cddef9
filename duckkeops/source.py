"""Puts a prelude above a skeleton, finds kernels/, and keeps on disk what was generated and compiled."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

HERE = Path(__file__).resolve().parent


@functools.cache
def kernels_folder() -> Path:
    """The folder of the skeletons: inside the installed package, or beside it in a checkout."""
    for folder in (HERE / "kernels", HERE.parent / "kernels"):
        if (folder / "pairs.c").is_file():
            return folder
    raise FileNotFoundError(
        f"the folder kernels/ is neither in {HERE} nor beside it, so no kernel can be built.\n  Install duckkeops again: pip install --force-reinstall duckkeops"
    )


@functools.cache
def skeleton(name: str) -> str:
    """The text of kernels/<name>, with a line directive so that compiler errors point into the real file."""
    text = (kernels_folder() / name).read_text()
    return f'#line 1 "kernels/{name}"\n{text}'


def assemble(prelude: str, name: str, head: str = "") -> str:
    """Prelude + skeleton; the prelude marks where vector.h and reductions.h belong."""
    for marker, files in (("vector", ("vector.h", *_wanted(prelude))), ("reduction", ("reductions.h",))):
        mark = f"//---- {marker} ----\n"
        at = prelude.index(mark)
        line = prelude[: at + len(mark)].count("\n") + 1
        text = "".join(skeleton(f) for f in files)
        prelude = prelude[:at] + text + f'#line {line} "prelude"\n' + prelude[at + len(mark) :]
    return head + prelude + skeleton(name)


def _wanted(prelude: str) -> list[str]:
    """The headers of rarer functions, where the prelude asks for them."""
    return [f"{name.lower()}.h" for name in ("COMPLEX", "SPECIAL") if f"#define USE_{name}" in prelude]


# -- the cache ---------------------------------------------------------------------------------------------------------


@functools.cache
def cache_folder() -> Path:
    """The per-user folder of generated and compiled kernels; a temporary one where that cannot be written.

    DUCKKEOPS_CACHE_DIR overrides it.
    """
    wanted = os.environ.get("DUCKKEOPS_CACHE_DIR")
    folder = Path(wanted) if wanted else Path(platformdirs.user_cache_dir("duckkeops", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="duckkeops-"))
    return folder


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The cache's file of this name; `make` writes it under a temporary one first, so nobody sees half a file."""
    path = cache_folder() / name
    if not path.exists():
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".tmp")
        os.close(handle)
        try:
            make(Path(part))
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    return path
