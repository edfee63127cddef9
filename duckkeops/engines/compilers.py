"""C compilers: which there are, which one works, and a kernel's text made into a library by it."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from duckkeops import cache
from duckkeops.errors import CompileError, CompilerNotFoundError

log = logging.getLogger("duckkeops")

Command = tuple[str, ...]

SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
WINDOWS = (
    sys.platform == "win32"
)  # its libraries need no -fPIC, and libm is a part of its C library
SAFE_FLAGS = (
    *("-O2", "-fwrapv", "-fno-math-errno", "-fno-trapping-math"),
    "-fno-sanitize=undefined",  # zig's debug default is to trap
    *(() if WINDOWS else ("-fPIC",)),
    *("-shared", "-w"),
)
LIBRARIES = () if WINDOWS else ("-lm",)


@dataclass(frozen=True)
class Candidate:
    """A compiler that was looked for: what it says it is, or why it is not used."""

    command: Command
    version: str = ""
    fault: str = ""

    @property
    def name(self) -> str:
        return " ".join(self.command)


def compiler() -> tuple[Command, str]:
    """The C compiler's command and what it says it is. Raises CompilerNotFoundError."""
    found = _search()
    if isinstance(found, str):
        raise CompilerNotFoundError(found)
    return found.command, found.version


def give_up(command: Command, fault: str) -> None:
    """From now on another compiler is taken than this, which cannot build anything."""
    _broken[command] = fault
    _search.cache_clear()


def _added() -> str:
    """Names the flags that the user adds, where a compiler could not build anything with them."""
    added = os.environ.get("DUCKKEOPS_CFLAGS")
    if not (added and _broken):
        return ""
    return f"  Each was given DUCKKEOPS_CFLAGS={added}: correct or unset it.\n"


ABSENT = "it is not there"
_broken: dict[Command, str] = {}  # compilers that answer but cannot build, and what they say


@functools.cache
def _search() -> Candidate | str:
    """The first compiler that works, or why there is none."""
    tried: dict[str, str] = {}
    for command in commands():
        found = examined(command)
        if not found.fault:
            return found
        if found.name == os.environ.get("DUCKKEOPS_CC", "").strip():
            log.warning("DUCKKEOPS_CC=%s is not used: %s", found.name, found.fault)
        tried[found.name] = "" if found.fault == ABSENT else found.fault
    return (
        f"no working C compiler was found (tried {', '.join(tried)}).\n"
        + "".join(f"  {name}: {fault}\n" for name, fault in tried.items() if fault)
        + _added()
        + "  Install gcc or clang, or pip install 'duckkeops[cc]', or set DUCKKEOPS_CC; "
        "config(engine='blocks') needs none."
    )


def commands() -> list[Command]:
    """What may be a compiler, best first: those that the user names, then those of the system, then
    the one of the extra `cc`.
    """
    named = [words(v) for v in ("DUCKKEOPS_CC", "CC") if os.environ.get(v, "").strip()]
    known: list[Command] = [("gcc",), ("clang",), ("cc",)]
    if sys.executable and importlib.util.find_spec("ziglang") is not None:
        known.append((sys.executable, "-m", "ziglang", "cc"))
    return list(dict.fromkeys([*named, *known]))


def words(variable: str) -> Command:
    """The words of a command or of flags in an environment variable."""
    text = os.environ.get(variable, "")
    try:
        return tuple(shlex.split(text, posix=not WINDOWS))
    except ValueError:  # an open quotation
        return (text,)


def examined(command: Command) -> Candidate:
    """What a command answers when it is asked for its version."""
    if command in _broken:
        return Candidate(command, fault=_broken[command])
    if shutil.which(command[0]) is None:
        return Candidate(command, fault=ABSENT)
    try:
        return Candidate(command, cache.text(_identity(command), lambda p: _ask(command, p)))
    except CompilerNotFoundError as error:
        return Candidate(command, fault=str(error))


def _identity(command: Command) -> str:
    """Names the file that keeps the answer: asking takes 20 ms, which is most of a warm start."""
    parts = [*command]
    for word in command:
        path = shutil.which(word)
        if word == "ziglang" and (spec := importlib.util.find_spec(word)) and spec.origin:
            path = spec.origin
        if path is not None:
            real = os.path.realpath(path)
            status = os.stat(real)
            parts += [real, str(status.st_size), str(status.st_mtime_ns)]
    return f"{cache.digest(*parts)}.version"


def _ask(command: Command, part: Path) -> None:
    try:
        answer = _run([*command, "--version"], timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerNotFoundError(str(error)) from None
    if answer.returncode:
        said = answer.stderr.strip()[:200] or f"exit status {answer.returncode}"
        raise CompilerNotFoundError(f"it failed: {said}")
    part.write_text((answer.stdout.splitlines() or [" ".join(command)])[0])


def _run(
    command: list[str], text: str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}  # in one language, whatever the user's
    if is_zig(tuple(command)):
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(_zig_folder())
    return subprocess.run(
        command,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        env=environment,
    )


# -- building --------------------------------------------------------------------------------------


def build(command: Command, flags: Command, text: str, part: Path) -> None:
    """Make a library of C text. Raises CompileError with what the compiler says.

    Raises OSError if the disk is full.
    """
    if is_zig(command) and not (_zig_folder() / "o").is_dir():
        log.warning("zig builds its own runtime in its first call, once: this takes 4 to 20 s")
    try:
        answer = _run([*command, *flags, "-x", "c", "-o", str(part), "-", *LIBRARIES], text)
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run: {error}") from None
    if answer.returncode:
        if shutil.disk_usage(part.parent).free < 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part.parent))
        said = answer.stderr.strip() or f"exit status {answer.returncode}"
        raise CompileError(said[:2000])
    if not part.exists():
        raise CompileError(f"it says nothing, and has not written {part.name}")


def fault(command: Command, flags: Command) -> str:
    """What a compiler says that cannot build the smallest library; "" if it can.

    It has no linker, or does not know one of the flags.
    """
    with tempfile.TemporaryDirectory(prefix=cache.PREFIX) as folder:
        try:
            build(command, flags, "int one(void) { return 1; }\n", Path(folder, f"one{SUFFIX}"))
        except (CompileError, OSError) as error:
            return f"it cannot build a library: {str(error)[:500]}"
    return ""


def is_zig(command: Command) -> bool:
    return "ziglang" in command or Path(command[0]).stem == "zig"


def _zig_folder() -> Path:
    """Where zig keeps what it builds for this user: beside our kernels if there is no other place.

    zig itself hangs or gives up where the home folder is missing or cannot be written.
    """
    if named := os.environ.get("ZIG_GLOBAL_CACHE_DIR"):
        return Path(named)
    base = os.environ.get("LOCALAPPDATA" if WINDOWS else "XDG_CACHE_HOME")
    if not base and (home := os.environ.get("HOME")):
        base = str(Path(home, ".cache"))
    if base:
        usual = Path(base, "zig")
        with contextlib.suppress(OSError):
            usual.mkdir(parents=True, exist_ok=True)
            if os.access(usual, os.W_OK):
                return usual
    return cache.folder() / "zig"
