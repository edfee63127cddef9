"""Which compiler is taken, with which flags, on this system and on others."""

import logging
import os
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_cpu import ROOT

from duckkeops import cache, source
from duckkeops.engines import compilers, cpu

needs_zig = pytest.mark.skipif(find_spec("ziglang") is None, reason="the extra cc is not installed")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")

MANY = """
import logging, os, sys, threading
if "HIDE_ZIGLANG" in os.environ:
    sys.modules["ziglang"] = None
logging.basicConfig(level=logging.WARNING)
import numpy as np
from duckkeops import LazyArray, config
x = np.random.default_rng(0).random((40, 3))
def check():
    d = LazyArray(x)[:, None] - LazyArray(x)[None]
    dense = x[:, None] - x
    assert np.allclose(np.exp(-(d**2).sum(-1)).sum(1), np.exp(-(dense**2).sum(-1)).sum(1))
    assert np.allclose(abs(d).sum(-1).max(0), abs(dense).sum(-1).max(0))
    assert np.allclose(np.logaddexp.reduce((d**2).sum(-1), 1),
                       np.logaddexp.reduce((dense**2).sum(-1), 1))
with config(engine=sys.argv[1]):
    for _ in range(2):
        check()
if sys.argv[1] == "auto":
    threads = [threading.Thread(target=check) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
print("right")
"""


def many(tmp_path: Path, engine: str, **environment: str) -> subprocess.CompletedProcess:
    """Several formulas in a process that has no compiler on its PATH."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": str(tmp_path),
        "DUCKKEOPS_CACHE_DIR": str(tmp_path / "cache"),
        **environment,
    }
    for name in ("CC", "DUCKKEOPS_CC", "LD_PRELOAD"):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", MANY, engine], capture_output=True, text=True, env=env, timeout=300
    )


def test_without_any_compiler_there_is_one_warning(tmp_path: Path) -> None:
    answer = many(tmp_path, "auto", HIDE_ZIGLANG="1")
    assert answer.stdout == "right\n", answer.stderr
    assert answer.stderr.count("WARNING") == 1 and "pip install 'duckkeops[cc]'" in answer.stderr


@pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
def test_a_warning_names_flags_that_no_compiler_knows(tmp_path: Path) -> None:
    answer = many(
        tmp_path, "auto", DUCKKEOPS_CFLAGS="-fnonsense", PATH=os.environ["PATH"], HIDE_ZIGLANG="1"
    )
    assert answer.stdout == "right\n", answer.stderr
    assert answer.stderr.count("WARNING") == 1
    assert "DUCKKEOPS_CFLAGS=-fnonsense: correct or unset it." in answer.stderr


@needs_zig
def test_the_extra_cc_is_enough(tmp_path: Path) -> None:
    """Zig builds its own runtime first, and we say so."""
    answer = many(tmp_path, "cpu", ZIG_GLOBAL_CACHE_DIR=str(tmp_path / "zig"))
    assert answer.stdout == "right\n", answer.stderr
    assert answer.stderr.count("WARNING") == 1 and "4 to 20 s" in answer.stderr
    assert len(list((tmp_path / "cache").glob(f"*{compilers.SUFFIX}"))) == 3


def test_the_order_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKKEOPS_CC", "'my cc' -m64")
    monkeypatch.setenv("CC", "clang")
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: name)
    zig = (sys.executable, "-m", "ziglang", "cc")
    mine = ("my cc", "-m64")
    assert compilers.commands() == [mine, ("clang",), ("gcc",), ("cc",), zig]
    monkeypatch.delenv("CC")
    assert compilers.commands() == [mine, ("gcc",), ("clang",), ("cc",), zig]
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("DUCKKEOPS_CC", " ")
    assert compilers.commands() == [("gcc",), ("clang",), ("cc",)]


def test_the_first_that_works_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    versions = {"gcc": "", "clang": "clang 19", "cc": "cc 12"}

    def examined(command: compilers.Command) -> compilers.Candidate:
        version = versions.get(command[0], "")
        return compilers.Candidate(command, version, "" if version else "it is not there")

    monkeypatch.setattr(compilers, "examined", examined)
    monkeypatch.setenv("DUCKKEOPS_CC", "nocc")
    monkeypatch.delenv("CC", raising=False)
    compilers._search.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert compilers.compiler() == compilers.compiler() == (("clang",), "clang 19")
        assert [r.getMessage() for r in caplog.records] == [
            "DUCKKEOPS_CC=nocc is not used: it is not there"
        ]
    finally:
        compilers._search.cache_clear()


@needs_gcc
def test_another_compiler_of_the_same_name_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUCKKEOPS_CACHE_DIR", str(tmp_path / "cache"))
    command = (str(tmp_path / "cc"),)
    for version in ("1.0", "2.0.0"):
        Path(command[0]).write_text(f"#!/bin/sh\necho my cc {version}\n")
        Path(command[0]).chmod(0o755)
        for _ in range(2):
            assert compilers.examined(command).version == f"my cc {version}"
    assert [f.kind for f in cache.inventory(tmp_path / "cache")] == ["version"] * 2


# -- other systems ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "suffix", "libraries", "pic"),
    [
        ("linux", ".so", ("-lm",), True),
        ("darwin", ".dylib", ("-lm",), True),
        ("win32", ".dll", (), False),
    ],
)
def test_names_and_flags(
    system: str, suffix: str, libraries: tuple, pic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    module = runpy.run_path(compilers.__file__)
    assert (module["SUFFIX"], module["LIBRARIES"]) == (suffix, libraries)
    assert ("-fPIC" in module["SAFE_FLAGS"]) == pic
    assert cache.OURS.fullmatch(f"{cache.PREFIX}{'0' * 24}-{'1' * 8}{suffix}")


@needs_zig
@pytest.mark.parametrize(
    ("target", "system"),
    [
        ("x86_64-windows-gnu", "win32"),
        ("x86_64-macos", "darwin"),
        ("aarch64-macos", "darwin"),
        ("aarch64-linux-gnu", "linux"),
        ("x86_64-linux-musl", "linux"),
    ],
)
def test_the_kernel_compiles_for_other_systems(
    target: str, system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With these flags, to an object file: linking would build zig's runtime for the system."""
    monkeypatch.setattr(sys, "platform", system)
    flags = [f for f in runpy.run_path(compilers.__file__)["SAFE_FLAGS"] if f != "-shared"]
    monkeypatch.undo()
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *flags, "-Werror"]
    out = tmp_path / "pairs.o"
    subprocess.run(
        [*command, "-c", "-o", str(out), str(source.kernels_folder() / "pairs.c")], check=True
    )
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("features", "level"),
    [
        ({"SSE", "SSE42", "AVX2", "FMA3", "AVX512F", "AVX512CD", "AVX512_SKX"}, "x86-64-v4"),
        ({"SSE", "SSE42", "AVX2", "FMA3", "AVX512F", "AVX512CD"}, "x86-64-v3"),
        ({"SSE", "SSE42", "AVX2", "FMA3"}, "x86-64-v3"),
        ({"SSE", "SSE42", "AVX", "FMA3"}, "x86-64-v2"),
        ({"SSE", "SSE2"}, "x86-64"),
    ],
)
def test_instruction_sets_where_there_is_no_proc(
    features: set[str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_cpu_flags", lambda: cpu._flags_of_numpy(features))
    monkeypatch.setattr(cpu.platform, "machine", lambda: "AMD64")
    monkeypatch.delenv("DUCKKEOPS_ISA", raising=False)
    cpu.target.cache_clear()
    try:
        assert cpu.target().name == level
    finally:
        cpu.target.cache_clear()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo")
def test_numpy_and_proc_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the level, of which Linux knows more flags than are asked for."""
    proc = cpu._cpu_flags()
    monkeypatch.setattr(cpu, "Path", lambda name: Path("/no/such/file"))
    from_numpy = cpu._cpu_flags()
    for _, needs, *_ in cpu.LEVELS:
        assert (needs <= proc) == (needs <= from_numpy)
