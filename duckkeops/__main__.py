"""python -m duckkeops: look at the cache of compiled kernels, and at what this machine offers."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Sequence

import duckkeops
from duckkeops import cache, doctor

KINDS = {  # of files, as one and several are called in the report
    "json": ("generated source", "generated sources"),
    "so": ("compiled kernel", "compiled kernels"),
    "dylib": ("compiled kernel", "compiled kernels"),
    "dll": ("compiled kernel", "compiled kernels"),
    "cubin": ("compiled kernel", "compiled kernels"),
    "cu": ("source that a compiler refused", "sources that a compiler refused"),
    "c": ("source that a compiler refused", "sources that a compiler refused"),
    "version": ("version of a compiler", "versions of compilers"),
    "part": ("unfinished file", "unfinished files"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m duckkeops", description=__doc__)
    parser.add_argument("--version", action="version", version=f"duckkeops {duckkeops.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, run, text in (
        ("cache", _cache, "show what is kept of compiled kernels, and where"),
        ("doctor", _doctor, "show what was found here, then build and run a kernel"),
    ):
        command = commands.add_parser(name, help=text, description=HELP[name])
        command.set_defaults(run=run)
        if name == "cache":
            command.add_argument("--clear", action="store_true", help="remove all of it")
    options = parser.parse_args(arguments)
    return options.run(options)


HELP = {
    "cache": "Show the folder of generated sources and compiled kernels: files, bytes, and the "
    "limit above which those used least recently are removed. DUCKKEOPS_CACHE_DIR names another "
    "folder, DUCKKEOPS_CACHE_SIZE another limit (as in 2GB).",
    "doctor": "Show versions, compilers, instruction set, threads and cache, then build a kernel "
    "in an empty cache, run it, and compare with NumPy. The exit status is 1 if something is "
    "broken.",
}


def _cache(options: argparse.Namespace) -> int:
    folder = cache.wanted_folder()
    print(folder)
    files = cache.clear(folder) if options.clear else cache.inventory(folder)
    count, size = collections.Counter(), collections.Counter()
    for f in files:
        count[KINDS[f.kind]] += 1
        size[KINDS[f.kind]] += f.size
    for kind in dict.fromkeys(KINDS.values()):
        if count[kind]:
            name = kind[count[kind] > 1]
            print(f"{count[kind]:8} {name:32} {doctor.bytes_text(size[kind]):>10}")
    name, total = "file" if len(files) == 1 else "files", doctor.bytes_text(size.total())
    line = f"{len(files):8} {name:32} {total:>10}"
    if options.clear:
        print(line, "removed")
        return 0
    try:
        print(line, f"of {doctor.bytes_text(cache.limit())}")
    except ValueError as error:
        print(f"{line}\n{error}")
        return 1
    return 0


def _doctor(options: argparse.Namespace) -> int:
    broken = 0
    for found in doctor.findings():
        lines = found.seen.splitlines() or [""]
        print(f"{found.name:17} {lines[0]}", *(f"{'':17} {line}" for line in lines[1:]), sep="\n")
        if found.advice:
            broken += 1
            print(f"{'':17} -> {found.advice}", flush=True)
    print("all is well" if not broken else f"{broken} broken: see the lines that open with ->")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
