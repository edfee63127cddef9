"""Puts a prelude above a skeleton, and finds kernels/."""

from __future__ import annotations

import functools
import re
from pathlib import Path

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
    """Prelude + skeleton; the prelude marks where the headers that it needs belong."""
    for marker, files in _headers(prelude, name):
        mark = f"//---- {marker} ----\n"
        at = prelude.index(mark)
        line = prelude[: at + len(mark)].count("\n") + 1
        text = "".join(skeleton(f) for f in files)
        prelude = prelude[:at] + text + f'#line {line} "prelude"\n' + prelude[at + len(mark) :]
    return head + prelude + skeleton(name)


def _headers(prelude: str, name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What stands for the marks of a prelude, above the skeleton of this name."""
    lanes, states = ("lane.cuh", ("states.cuh",)) if name.endswith(".cu") else ("vector.h", ())
    wanted = _wanted(prelude)
    if states and "complex.h" in wanted:
        wanted.insert(wanted.index("complex.h"), "complex_edges.cuh")
    return (
        ("vector", (lanes, "functions.h", *wanted)),
        ("reduction", ("reductions.h", *states)),
    )


def generated(text: str) -> str:
    """The prelude of an assembled source, which includes the files of kernels/ by their names."""
    first, *rest = re.split(r'^#line \d+ "(.*)"\n', text, flags=re.MULTILINE)
    parts = zip(rest[::2], rest[1::2], strict=True)
    own = (p if name == "prelude" else f'#include "{Path(name).name}"\n' for name, p in parts)
    return first + "".join(own)


def standalone(prelude: str, name: str = "pairs.c") -> str:
    """A prelude as a header of its own, which includes what the kernel's text would carry."""
    for marker, files in _headers(prelude, name):
        prelude = prelude.replace(
            f"//---- {marker} ----\n", "".join(f'#include "{f}"\n' for f in files)
        )
    return prelude


def _wanted(prelude: str) -> list[str]:
    """The headers of rarer functions, where the prelude calls one: they cost the compiler time."""
    called = set(re.findall(r"\b([a-z]\w*)_(?:f32|f64)\(", prelude))
    number = "#define USE_COMPLEX" in prelude
    special = bool(called & _functions("special.h"))
    elementary = number or special or bool(called & _functions("elementary.h"))
    wanted = (("elementary.h", elementary), ("complex.h", number), ("special.h", special))
    return [name for name, on in wanted if on]


@functools.cache
def _functions(name: str) -> frozenset[str]:
    """The functions of real numbers that kernels/<name> defines, without their types."""
    return frozenset(re.findall(r"(?:INL|LONG) v(?:##T|i32) (\w+)_##T\(", skeleton(name)))
