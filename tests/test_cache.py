"""The cache:
many processes, crashes, damaged files, folders that cannot be used, its size, and what it saves.
"""

import errno
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_cpu import ROOT, SCRIPT, run

from duckkeops import CompilerNotFoundError, LazyArray, __main__, cache, config
from duckkeops.engines import compilers, cpu

needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")

RIGHT = "right without sympy\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, which this process uses; it has forgotten the kernels it had."""
    monkeypatch.setenv("DUCKKEOPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu, "_libraries", {})
    monkeypatch.setattr(cpu, "_place", None)
    monkeypatch.setattr(cache, "_written", 0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that has the kernel of SCRIPT."""
    place = tmp_path_factory.mktemp("filled")
    assert run(place).stdout == "right with sympy\n"
    return place


@pytest.fixture
def copy(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def kinds(place: Path) -> dict[str, int]:
    """How many files there are of each kind."""
    found = [f.kind for f in cache.inventory(place)]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def name(number: int, suffix: str = ".json") -> str:
    return f"{number:024x}{suffix}"


def write(number: int, text: str, suffix: str = ".json") -> Path:
    return cache.file(name(number, suffix), lambda part: part.write_text(text))


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


# -- what it saves ---------------------------------------------------------------------------------


@needs_compiler
def test_a_hit_imports_no_sympy(filled: Path) -> None:
    assert run(filled).stdout == RIGHT


def compiler_that(place: Path, does: str) -> Path:
    """A folder with a gcc of ours, which does something first."""
    place.mkdir(exist_ok=True)
    path = place / "gcc"
    path.write_text(f'#!/bin/sh\n{does}\nexec {shutil.which("gcc")} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return place


@needs_gcc
@needs_posix
def test_a_hit_asks_no_compiler(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bin = compiler_that(tmp_path / "bin", f'echo "$@" >> {log}')
    path = f"{bin}{os.pathsep}{os.environ['PATH']}"
    assert run(tmp_path / "cache", PATH=path).stdout.startswith("right")
    asked = log.read_text().splitlines()
    assert len(asked) == 2 and asked[0] == "--version"
    assert run(tmp_path / "cache", PATH=path).stdout == RIGHT
    assert log.read_text().splitlines() == asked


@needs_compiler
@needs_posix
def test_a_hit_needs_no_compiler(filled: Path, tmp_path: Path) -> None:
    answer = run(filled, "cpu", PATH=str(tmp_path), HIDE_ZIGLANG="1")
    assert (answer.stdout, answer.stderr) == (RIGHT, "")


@needs_compiler
@needs_posix
def test_a_source_without_its_kernel_needs_a_compiler(copy: Path, tmp_path: Path) -> None:
    for f in cache.inventory(copy):
        if f.kind == compilers.SUFFIX[1:]:
            f.path.unlink()
    answer = run(copy, PATH=str(tmp_path), HIDE_ZIGLANG="1")
    assert answer.stdout == RIGHT and answer.stderr.count("WARNING") == 1


@needs_compiler
def test_each_compiler_and_each_flag_has_its_own_kernel(copy: Path) -> None:
    before = kinds(copy)[compilers.SUFFIX[1:]]
    assert run(copy, DUCKKEOPS_CFLAGS="-DNOTHING=1").stdout == RIGHT
    assert kinds(copy)[compilers.SUFFIX[1:]] == before + 1
    assert run(copy, DUCKKEOPS_CFLAGS="-DNOTHING=1").stdout == RIGHT
    assert kinds(copy)[compilers.SUFFIX[1:]] == before + 1


TIMES = """
import resource, time
import numpy as np
def seconds():  # of this process and of the compilers that it called
    return sum(
        t for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for t in resource.getrusage(who)[:2]
    )
times = [seconds()]
import duckkeops
times.append(seconds())
x, y = np.random.default_rng(0).random((2, 60, 3), np.float32)
d = (duckkeops.LazyArray(x)[:, None] - duckkeops.LazyArray(y)[None])
np.exp(-(d**2).sum(-1)).sum(1)
times.append(seconds())
for f in (
    lambda: (d**2).sum(-1).argmin(1),
    lambda: np.log(1 + abs(d).sum(-1)).sum(1),
    lambda: np.sort((d**2).sum(-1), axis=1)[:, :5],
):
    f()
    times.append(seconds())
print(*np.diff(times))
"""


def times(place: Path) -> np.ndarray:
    """CPU seconds of the import, of the first formula and of three more in a fresh process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DUCKKEOPS_CACHE_DIR": str(place)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    answer = subprocess.run(
        [sys.executable, "-c", TIMES], capture_output=True, text=True, env=env, check=True
    )
    return np.array(answer.stdout.split(), float)


@needs_gcc
@needs_posix
def test_the_first_calls_are_quick(tmp_path: Path) -> None:
    times(tmp_path / "bytecode")
    cold = np.min([times(tmp_path / str(n)) for n in range(3)], axis=0)
    warm = np.min([times(tmp_path / "0") for _ in range(3)], axis=0)
    assert cold[1] < 1.2, cold  # SymPy is imported, and a kernel generated and compiled
    assert (cold[2:] < 0.5).all(), cold
    assert warm[1:].sum() < 0.1, warm  # four kernels from the cache


# -- many processes --------------------------------------------------------------------------------


def start(place: Path, **environment: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DUCKKEOPS_CACHE_DIR": str(place)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**env, **environment},
        start_new_session=True,
    )


@needs_compiler
def test_eight_processes_on_an_empty_cache(tmp_path: Path) -> None:
    processes = [start(tmp_path / "cache") for _ in range(8)]
    for p in processes:
        out, err = p.communicate(timeout=300)
        assert out.startswith("right") and err == ""
    assert kinds(tmp_path / "cache") == {"json": 1, compilers.SUFFIX[1:]: 1, "version": 1}
    files = [p.name for p in (tmp_path / "cache").iterdir()]
    assert len(files) == 4 and cache.MARK in files


@needs_gcc
@needs_posix
def test_killing_one_in_the_middle_of_compiling_harms_nobody(tmp_path: Path) -> None:
    """The killed one leaves half a file, which is removed when it is old."""
    place, begun = tmp_path / "cache", tmp_path / "begun"
    bin = compiler_that(
        tmp_path / "bin",
        'case "$*" in *" -o "*)\n'
        '  while [ "$1" != -o ]; do set -- "$@" "$1"; shift; done\n'
        f"  echo half > $2; touch {begun}; sleep 100;; esac",
    )
    killed = start(place, PATH=f"{bin}{os.pathsep}{os.environ['PATH']}")
    waiting = time.monotonic()
    while not begun.exists():
        assert killed.poll() is None and time.monotonic() < waiting + 60, killed.communicate()
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert kinds(place)["part"] == 1
    assert run(place, "cpu").stdout == RIGHT
    assert kinds(place)["part"] == 1  # it might be another's, at work
    for f in cache.inventory(place):
        if f.kind == "part":
            age(f.path, 2 * cache.STALE_SECONDS)
    age(place / cache.MARK, 2 * cache.TRIM_SECONDS)
    assert run(place, "cpu", DUCKKEOPS_CFLAGS="-DNOTHING=1").stdout == RIGHT
    assert "part" not in kinds(place)


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_child_forked_while_a_thread_compiles_computes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock that the thread holds is not held in the child."""
    compiling, go_on = threading.Event(), threading.Event()
    build = compilers.build

    def slowly(*args: object) -> None:
        compiling.set()
        assert go_on.wait(60)
        build(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(compilers, "build", slowly)
    x = np.random.default_rng(0).random((30, 7))
    expected = np.abs(x[:, None] - x).sum(-1).max(1)
    results = []

    def compute() -> np.ndarray:
        with config(engine="cpu"):
            return abs(LazyArray(x)[:, None] - LazyArray(x)[None]).sum(-1).max(1)

    thread = threading.Thread(target=lambda: results.append(compute()))
    thread.start()
    assert compiling.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        compilers.build = build
        os._exit(0 if np.allclose(compute(), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()
    assert np.allclose(results[0], expected)


def test_threads_make_a_file_once(folder: Path) -> None:
    made = []

    def make(part: Path) -> None:
        made.append(part)
        part.write_text("x" * 100_000)

    threads = [threading.Thread(target=cache.file, args=(name(1), make)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 1


# -- damage ----------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("kind", ["json", compilers.SUFFIX[1:], "version"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "flipped"])
def test_a_damaged_file_is_made_again(copy: Path, kind: str, damage: str) -> None:
    (path,) = (f.path for f in cache.inventory(copy) if f.kind == kind)
    good = path.read_bytes()
    half = len(good) // 2
    path.write_bytes(
        {
            "cut": good[:half],
            "zeros": bytes(len(good)),
            "empty": b"",
            "flipped": good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :],
        }[damage]
    )
    answer = run(copy, "cpu")
    assert answer.stdout.startswith("right") and answer.stderr == ""
    assert path.read_bytes() == good if kind != compilers.SUFFIX[1:] else path.stat().st_size > half
    assert run(copy, "cpu").stdout == RIGHT


def test_a_folder_that_vanishes(folder: Path) -> None:
    for text in ("one", "two"):
        assert cache.text(name(1), lambda part, text=text: part.write_text(text)) == text
        shutil.rmtree(folder)


# -- folders that cannot be used -------------------------------------------------------------------


@needs_compiler
def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = run(tmp_path / "file", TMPDIR=str(tmp_path))
    assert answer.stdout.startswith("right") and answer.stderr.count("cannot be written") == 1
    # the temporary folder went with its process
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def mounted(place: Path, options: str) -> None:
    """A disk in memory, where this user may mount one."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a file system")


@needs_compiler
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("noexec,size=10m", "cannot be loaded"),
        ("size=4k", "cannot be written"),
        ("size=24k", "cannot be written"),
    ],
)
def test_disks_without_programs_or_space(tmp_path: Path, options: str, message: str) -> None:
    place = tmp_path / "disk"
    mounted(place, options)
    try:
        answer = run(place, "cpu", TMPDIR=str(tmp_path))
        assert answer.stdout == "right with sympy\n"
        assert message in answer.stderr and answer.stderr.count("WARNING") == 1
    finally:
        subprocess.run(["umount", str(place)], check=True)


@needs_compiler
def test_a_disk_that_is_read_only_serves_what_it_has(filled: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    mounted(place, "size=10m")
    try:
        shutil.copytree(filled, place, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        answer = run(place, "cpu")
        assert (answer.stdout, answer.stderr) == (RIGHT, "")
        answer = run(place, "cpu", DUCKKEOPS_CFLAGS="-DNOTHING=1")
        assert answer.stdout == RIGHT and "cannot be written" in answer.stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)


@needs_compiler
def test_kernels_that_cannot_be_loaded_from_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk mounted noexec: a temporary folder takes them, from then on; or none does."""
    loaded, allowed = cpu.Compiled, [cache.temporary_folder()]

    def load(path: Path, text: str) -> cpu.Compiled:
        if path.parent not in allowed:
            raise OSError(errno.EPERM, "failed to map segment from shared object", str(path))
        return loaded(path, text)

    monkeypatch.setattr(cpu, "Compiled", load)
    x = np.random.default_rng(0).random((9, 2))
    with caplog.at_level(logging.WARNING), config(engine="cpu"):
        for p in (2, 4):
            lazy = abs(LazyArray(x)[:, None] - LazyArray(x)[None]) ** p
            assert np.allclose(lazy.sum(-1).min(1), 0)
    assert [r.getMessage().count("cannot be loaded") for r in caplog.records] == [1]
    allowed.clear()
    with config(engine="cpu"), pytest.raises(CompilerNotFoundError, match="cannot be loaded"):
        (abs(LazyArray(x)[:, None] - LazyArray(x)[None]) ** 6).sum(-1).min(1)


# -- size ------------------------------------------------------------------------------------------


def test_those_used_least_recently_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(n, "x" * 1000) for n in range(6)]
    for n, path in enumerate(paths):
        age(path, 10_000 - 1000 * n)
    assert write(0, "never made") == paths[0]  # a use
    size = paths[0].stat().st_size
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", str(3 * size))
    assert [f.path for f in cache.trim(folder)] == paths[1:4]
    assert sorted(f.path for f in cache.inventory(folder)) == [paths[0], *paths[4:]]


def test_what_is_in_use_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(n, "x" * 1000) for n in range(4)]
    age(paths[1], cache.GRACE_SECONDS - 60)
    age(paths[2], cache.GRACE_SECONDS + 60)
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", "0")
    assert [f.path for f in cache.trim(folder)] == [paths[2]]


def test_writing_much_trims(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", "20kB")
    for n in range(60):
        age(write(n, "x" * 1000), cache.GRACE_SECONDS + 60)
    total = sum(f.size for f in cache.inventory(folder))
    assert 15_000 < total < 24_000


def test_writing_little_lists_the_folder_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(cache.os, "scandir", lambda p: listed.append(p) or scandir(p))
    for n in range(20):
        write(n, "x")
    assert len(listed) == 2  # files and temporary files, at the first


def test_files_of_others_are_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write(1, "x")
    (folder / f"{ours.name}.0a1b2c.tmp").touch()
    theirs = {
        "notes.txt",
        "library.so",
        "507f1f77bcf86cd799439011.json",
        "duckkeops-notes.json",
        f"{ours.name}.bak",
        f"{ours.name}.tmp",
        f"my {ours.name}",
    }
    for other in theirs:
        (folder / other).write_text("theirs")
        age(folder / other, 10**6)
    (folder / f"{cache.PREFIX}{name(2)}").mkdir()  # a folder of that name
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", "0")
    assert cache.trim(folder) == []
    assert __main__.main(["cache", "--clear"]) == 0
    assert re.search(r"2 files +\d+ bytes removed", capsys.readouterr().out)
    assert {p.name for p in folder.iterdir() if p.is_file()} == theirs
    assert (folder / f"{cache.PREFIX}{name(2)}").is_dir()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 500_000_000),
        ("1000", 1000),
        ("20 kB", 20_000),
        ("3MB", 3_000_000),
        ("1.5g", 1_500_000_000),
    ],
)
def test_limits(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", text)
    assert cache.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "1e9", "5 parrots"])
def test_what_is_no_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", text)
    with pytest.raises(ValueError, match=f"^DUCKKEOPS_CACHE_SIZE={text} is not a size in bytes"):
        cache.limit()


def test_the_command_reports(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["cache"]) == 0
    assert re.search(r"0 files +0 bytes of 500 MB", capsys.readouterr().out)
    write(1, "x" * 300_000)
    write(2, "x" * 200_000, ".so")
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", "2GB")
    assert __main__.main(["cache"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(folder)
    assert re.search(r"1 generated source +300\.1 kB\n", out)
    assert re.search(r"1 compiled kernel +200\.1 kB\n", out)
    assert re.search(r"2 files +500\.1 kB of 2 GB\n", out)
    write(3, "x" * 1_500_000)
    assert __main__.main(["cache"]) == 0
    assert re.search(r"2 generated sources +1\.8 MB\n", capsys.readouterr().out)


def test_the_command_names_a_bad_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(1, "x" * 300_000)
    monkeypatch.setenv("DUCKKEOPS_CACHE_SIZE", "many")
    assert __main__.main(["cache"]) == 1
    out = capsys.readouterr().out
    assert re.search(r" 1 file +300\.1 kB\n", out)
    assert out.splitlines()[-2] == "DUCKKEOPS_CACHE_SIZE=many is not a size in bytes."
    assert __main__.main(["cache", "--clear"]) == 0
    assert re.search(r" 1 file +300\.1 kB removed\n", capsys.readouterr().out)
