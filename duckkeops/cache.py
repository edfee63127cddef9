"""The files that outlive a process: generated sources and compiled kernels, in one folder per user.

A file is written under a temporary name and renamed, so nobody sees half of one; it ends with the
digest of its content, so a damaged one is made again. Names hold all that the content depends on,
so processes and machines may share the folder without locks.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

log = logging.getLogger("duckkeops")

# Ends every file: C, JSON (for us) and shared objects of ELF and PE may end in it.
SEAL = b"\n// sha256 "
# A library of macOS is signed up to its last byte. A cut one does not load there, and is rebuilt.
UNSEALED = {".dylib"}

PREFIX = "duckkeops-"
OURS = re.compile(
    PREFIX + r"[0-9a-f]{24}(-[0-9a-f]{8}|-sm[0-9]+-[0-9]+)?"
    r"\.(?P<kind>json|cubin|cu|c|so|dylib|dll|version)"
)
PART = re.compile(OURS.pattern + r"\.[0-9a-z]+\.tmp")
MARK = PREFIX + "trimmed"  # an empty file; its time is when old files were last looked for

SIZE = 500_000_000  # bytes
USED_SECONDS = 60  # a file's time is that of its last use, within this
GRACE_SECONDS = 600  # what was used in these is never removed: another process may be opening it
STALE_SECONDS = 3600  # older temporary files were left by processes that died
TRIM_SECONDS = 3600  # between two looks for old files, unless many were written


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


# -- folders ---------------------------------------------------------------------------------------


def wanted_folder() -> Path:
    """The folder of this user, or the one that DUCKKEOPS_CACHE_DIR names."""
    named = os.environ.get("DUCKKEOPS_CACHE_DIR")
    if named:
        return Path(named).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("duckkeops", appauthor=False))


_refused: set[Path] = set()


def folder() -> Path:
    """Where new files go: the wanted folder, or a temporary one where that cannot be written."""
    wanted = wanted_folder()
    if wanted in _refused:
        return temporary_folder()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=wanted, prefix=PREFIX):
            pass
    except OSError as error:
        return instead_of(wanted, error)
    return wanted


def instead_of(wanted: Path, error: OSError) -> Path:
    """The temporary folder, from now on; says why, once."""
    if wanted not in _refused:
        _refused.add(wanted)
        log.warning(
            "compiled kernels are kept for this process only: "
            "the cache folder cannot be written: %s.\n"
            "  Set DUCKKEOPS_CACHE_DIR to a folder that can.",
            error,
        )
    return temporary_folder()


@functools.cache
def temporary_folder() -> Path:
    """A folder of this process, removed when it ends."""
    made, owner = Path(tempfile.mkdtemp(prefix=PREFIX)), os.getpid()
    atexit.register(
        lambda: shutil.rmtree(made, ignore_errors=True) if os.getpid() == owner else None
    )
    return made


# -- reading and writing ---------------------------------------------------------------------------


def text(name: str, make: Callable[[Path], object]) -> str:
    """The text of the file of this name, which `make` writes where it is missing or damaged."""
    return data(name, make).decode()


def data(name: str, make: Callable[[Path], object]) -> bytes:
    """The bytes of the file of this name, which `make` writes where it is missing or damaged."""
    while True:
        try:
            return _body(file(name, make))
        except FileNotFoundError:  # the cache was cleared this very moment
            continue


def file(name: str, make: Callable[[Path], object], place: Path | None = None) -> Path:
    """The whole file of this name, which `make` writes where it is missing or damaged.

    A folder that can only be read serves what it has; what is new goes to a temporary one.
    """
    name = PREFIX + name
    found = place or wanted_folder()
    if _is_whole(found / name):
        return _used(found / name)
    into = place or folder()
    # Threads wait for one of them; processes race, and the last one wins.
    with _lock_of(name):
        if _is_whole(into / name):
            return _used(into / name)
        try:
            return _made(into / name, make)
        except OSError as error:
            if place or into == temporary_folder():
                raise
            return _made(instead_of(into, error) / name, make)


def others(stem: str, suffix: str) -> list[Path]:
    """The whole files <stem>-<anything><suffix>, the last used first."""
    found = [p for p in _own_files(wanted_folder()) if p.path.name.startswith(f"{PREFIX}{stem}-")]
    found.sort(key=lambda p: -p.used)
    return [_used(p.path) for p in found if p.path.suffix == suffix and _is_whole(p.path)]


def _made(path: Path, make: Callable[[Path], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        make(part)
        if path.suffix not in UNSEALED:
            seal = hashlib.sha256(part.read_bytes()).hexdigest()
            with open(part, "ab") as f:
                f.write(SEAL + seal.encode())
        size = part.stat().st_size
        try:
            os.replace(part, path)
        except PermissionError:  # Windows, where another process has loaded the same library
            if not _is_whole(path):
                raise
    finally:
        part.unlink(missing_ok=True)
    _trim_at_times(path.parent, size)
    return path


def _used(path: Path) -> Path:
    """Note the use of a file, for the order in which old ones go."""
    try:
        if time.time() - path.stat().st_mtime > USED_SECONDS:
            os.utime(path)
    except OSError:  # not ours to change, or just removed
        pass
    return path


def _body(path: Path) -> bytes:
    content = path.read_bytes()
    return content if path.suffix in UNSEALED else content.rpartition(SEAL)[0]


def _is_whole(path: Path) -> bool:
    try:
        body, _, seal = path.read_bytes().rpartition(SEAL)
    except OSError:
        return False
    return path.suffix in UNSEALED or hashlib.sha256(body).hexdigest().encode() == seal


_locks: dict[str, threading.RLock] = {}


def _lock_of(name: str) -> threading.RLock:
    return _locks.setdefault(name, threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)  # their holders are not in the child


# -- size ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A file of the cache: what it is, its bytes, and when it was last used, in seconds."""

    path: Path
    kind: str
    size: int
    used: float


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def limit() -> int:
    """The bytes that the folder may take: 500 MB, or what DUCKKEOPS_CACHE_SIZE says.

    >>> import os
    >>> os.environ["DUCKKEOPS_CACHE_SIZE"] = "2 GB"
    >>> limit()
    2000000000
    >>> del os.environ["DUCKKEOPS_CACHE_SIZE"]
    """
    wanted = os.environ.get("DUCKKEOPS_CACHE_SIZE", "").strip()
    if not wanted:
        return SIZE
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgt]?)b?", wanted.lower())
    if match is None:
        raise ValueError(
            f"DUCKKEOPS_CACHE_SIZE={wanted} is not a size in bytes.\n"
            "  Write a number and kB, MB or GB, as in DUCKKEOPS_CACHE_SIZE=500MB."
        )
    return int(float(match[1]) * UNITS[match[2]])


def inventory(place: Path) -> list[Kept]:
    """Our files in a folder; those that somebody is writing, or left half written, as "part"."""
    return [*_own_files(place), *_parts(place)]


def clear(place: Path) -> list[Kept]:
    """Remove our files from a folder, and nothing else. What was removed."""
    found = _removed(inventory(place))
    (place / MARK).unlink(missing_ok=True)
    return found


def trim(place: Path) -> list[Kept]:
    """Remove the files used least recently, until the others fit the limit. What was removed.

    Files used in the last ten minutes stay, and temporary files younger than an hour.
    """
    (place / MARK).touch()
    now = (place / MARK).stat().st_mtime  # by the clock of the disk, which may be another machine's
    old = [p for p in _parts(place) if now - p.used > STALE_SECONDS]
    kept = sorted(_own_files(place), key=lambda p: p.used)
    excess = sum(p.size for p in kept) - limit()
    for p in kept:
        if excess <= 0 or now - p.used < GRACE_SECONDS:
            break
        old.append(p)
        excess -= p.size
    return _removed(old)


_written = 0  # bytes, since this process last looked for old files


def _trim_at_times(place: Path, size: int) -> None:
    """Trim if it is long ago or if much was written: listing a large folder costs milliseconds."""
    global _written
    _written += size
    try:
        last = (place / MARK).stat().st_mtime
    except OSError:
        last = 0.0
    if _written > limit() // 16 or abs(time.time() - last) > TRIM_SECONDS:
        _written = 0
        try:
            trim(place)
        except OSError as error:
            log.info("old kernels are not removed: %s", error)


def _own_files(place: Path) -> list[Kept]:
    return _matching(place, OURS)


def _parts(place: Path) -> list[Kept]:
    return _matching(place, PART)


def _matching(place: Path, pattern: re.Pattern[str]) -> list[Kept]:
    found = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                match = pattern.fullmatch(entry.name)
                if match is not None and entry.is_file(follow_symlinks=False):
                    kind = "part" if pattern is PART else match["kind"]
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:
                        continue
                    found.append(Kept(Path(entry.path), kind, stat.st_size, stat.st_mtime))
    except OSError:  # no folder, or none that may be listed
        pass
    return found


def _removed(files: list[Kept]) -> list[Kept]:
    out = []
    for p in files:
        if remove(p.path):
            out.append(p)
    return out


def remove(path: Path) -> bool:
    """Remove a file; False if it is there yet: the folder is read only, or, on Windows, somebody
    has loaded it.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
