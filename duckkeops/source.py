"""Puts a prelude above a skeleton, finds kernels/, and keeps on disk what was generated and
compiled.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import platformdirs

log = logging.getLogger("duckkeops")

HERE = Path(__file__).resolve().parent


@functools.cache
def kernels_folder() -> Path:
    """The folder of the skeletons: inside the installed package, or beside it in a checkout."""
    for folder in (HERE / "kernels", HERE.parent / "kernels"):
        if (folder / "pairs.c").is_file():
            return folder
    raise FileNotFoundError(
        f"the folder kernels/ is neither in {HERE} nor beside it, so no kernel can be built.\n"
        "  Install duckkeops again: pip install --force-reinstall duckkeops"
    )


@functools.cache
def skeleton(name: str) -> str:
    """The text of kernels/<name>, with a line directive so that compiler errors point into the
    real file.
    """
    text = (kernels_folder() / name).read_text()
    return f'#line 1 "kernels/{name}"\n{text}'


def assemble(prelude: str, name: str, head: str = "") -> str:
    """Prelude + skeleton; the prelude marks where vector.h and reductions.h belong."""
    for marker, files in (
        ("vector", ("vector.h", *_wanted(prelude))),
        ("reduction", ("reductions.h",)),
    ):
        mark = f"//---- {marker} ----\n"
        at = prelude.index(mark)
        line = prelude[: at + len(mark)].count("\n") + 1
        text = "".join(skeleton(f) for f in files)
        prelude = prelude[:at] + text + f'#line {line} "prelude"\n' + prelude[at + len(mark) :]
    return head + prelude + skeleton(name)


def standalone(prelude: str) -> str:
    """A prelude as a header of its own, which includes what the kernel's text would carry."""
    for marker, files in (
        ("vector", ("vector.h", *_wanted(prelude))),
        ("reduction", ("reductions.h",)),
    ):
        prelude = prelude.replace(
            f"//---- {marker} ----\n", "".join(f'#include "{f}"\n' for f in files)
        )
    return prelude


def _wanted(prelude: str) -> list[str]:
    """The headers of rarer functions, where the prelude asks for them."""
    return [
        f"{name.lower()}.h" for name in ("COMPLEX", "SPECIAL") if f"#define USE_{name}" in prelude
    ]


# -- the cache -------------------------------------------------------------------------------------

# Ends every file of the cache: C, JSON (for us) and shared objects of ELF and PE may end in it.
SEAL = b"\n// sha256 "
SEALED = sys.platform != "darwin"  # there a library is signed up to its last byte


def _wanted_folder() -> Path:
    wanted = os.environ.get("DUCKKEOPS_CACHE_DIR")
    return (
        Path(wanted) if wanted else Path(platformdirs.user_cache_dir("duckkeops", appauthor=False))
    )


@functools.cache
def cache_folder() -> Path:
    """The per-user folder of generated and compiled kernels; a temporary one where that cannot be
    written.

    DUCKKEOPS_CACHE_DIR overrides it.
    """
    folder = _wanted_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        log.warning(
            "compiled kernels are kept for this process only: "
            "the cache folder cannot be written: %s",
            error,
        )
        return temporary_folder()
    return folder


@functools.cache
def temporary_folder() -> Path:
    """A folder of this process, removed when it ends."""
    folder, owner = Path(tempfile.mkdtemp(prefix="duckkeops-")), os.getpid()
    atexit.register(
        lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None
    )
    return folder


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None], folder: Path | None = None) -> Path:
    """The cache's file of this name; `make` writes it under a temporary one first, so nobody sees
    half a file.

    A damaged file (a crash, a full disk) is made again. A folder that can only be read serves what
    it has.
    """
    for place in (folder,) if folder else (_wanted_folder(), cache_folder()):
        if _is_whole(place / name):
            return place / name
    path = (folder or cache_folder()) / name
    with _lock_of(
        name
    ):  # the threads of a process wait for one of them; processes race, and the last one wins
        if not _is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".tmp")
            os.close(handle)
            try:
                make(Path(part))
                if SEALED:
                    seal = hashlib.sha256(Path(part).read_bytes()).hexdigest()
                    with open(part, "ab") as f:
                        f.write(SEAL + seal.encode())
                os.replace(part, path)
            finally:
                Path(part).unlink(missing_ok=True)
    return path


def content(path: Path) -> str:
    """The text of a file of the cache."""
    return path.read_bytes().rpartition(SEAL)[0].decode() if SEALED else path.read_text()


def _is_whole(path: Path) -> bool:
    try:
        body, _, seal = path.read_bytes().rpartition(SEAL)
    except OSError:
        return False
    return not SEALED or hashlib.sha256(body).hexdigest().encode() == seal


_locks: dict[str, threading.RLock] = {}


def _lock_of(name: str) -> threading.RLock:
    return _locks.setdefault(name, threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)  # their holders are not in the child
