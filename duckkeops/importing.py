"""Imports that Ctrl-C cannot cut in half."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


def import_whole(name: str) -> None:
    """Import a module, to the end even where Ctrl-C ends the wait for it.

    An interrupted import leaves parts of packages behind: after that of SymPy, which takes half a
    second, no later import of it succeeds.
    """
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or getattr(spec, "_initializing", False):  # another thread may be at it
        undisturbed(lambda: importlib.import_module(name))


def undisturbed(work: Callable[[], _T]) -> _T:
    """`work()`, on a thread of its own if it is the main thread that asks: signals come there only.

    Ctrl-C in an import, or in a search for a module, may also leave Python's import lock taken,
    while others wait for it (seen in 3.11: importlib._bootstrap._get_module_lock takes it before
    the `try` that gives it back): no other thread ever imports again.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    # no Future: it waits in a Condition, whose lock Ctrl-C may leave taken
    ended: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            ended.put((True, work()))
        except BaseException as error:
            ended.put((False, error))

    threading.Thread(target=run, name="duckkeops-import").start()
    done, value = ended.get()
    if done:
        return value
    raise value
