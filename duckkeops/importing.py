"""Imports that Ctrl-C cannot cut in half."""

from __future__ import annotations

import importlib
import sys
import threading
from concurrent.futures import Future


def import_whole(name: str) -> None:
    """Import a module, to the end even where Ctrl-C ends the wait for it.

    An interrupted import leaves parts of packages behind: after that of SymPy, which takes half a
    second, no later import of it succeeds. Signals come to the main thread only.
    """
    if name in sys.modules or threading.current_thread() is not threading.main_thread():
        importlib.import_module(name)
        return
    done: Future[None] = Future()

    def load() -> None:
        try:
            importlib.import_module(name)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=load, name="duckkeops-import").start()
    done.result()
