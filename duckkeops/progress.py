"""How far a long reduction is: a bar, and one warning where it takes more than a minute."""

from __future__ import annotations

import contextlib
import logging
import sys
from time import perf_counter
from typing import Any

from duckkeops.config import current

log = logging.getLogger("duckkeops")

PATIENCE_SECONDS = 0.5  # nothing is shown before
AUTOMATIC_SECONDS = 2.0  # of a reduction that shows a bar in interactive work unasked
WARN_SECONDS = 60.0
REDRAW_SECONDS = 0.1

_warned_seconds = WARN_SECONDS / 2


class Progress:
    """The progress of one reduction, which begins now. Nothing is written before it is long."""

    __slots__ = ("_bar", "_due", "_start")

    def __init__(self) -> None:
        self._start = perf_counter()
        self._due = self._start + PATIENCE_SECONDS
        self._bar: Any = None

    def update(self, done: float) -> None:
        """Say that this share of the work, from 0 to 1, is done or begun."""
        now = perf_counter()
        if now < self._due or done <= 0:
            return
        self._due = now + REDRAW_SECONDS
        spent = now - self._start
        whole = spent / min(done, 1.0)
        _warn_if_long(spent, whole)
        wanted: bool | str = current().progress
        try:
            if self._bar is None:
                if wanted == "auto":
                    wanted = whole > AUTOMATIC_SECONDS and _is_interactive()
                if not wanted or sys.stderr is None:
                    return
                self._bar = _bar(done)
            self._bar.update(min(done, 1.0) - self._bar.n)
        except (OSError, ValueError):  # standard error is closed
            self._bar = None

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()


def _is_interactive() -> bool:
    """Does someone look at standard error: on a terminal, or in a notebook?"""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _bar(done: float) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return _Line(done)
    return tqdm(
        desc="duckkeops",
        total=1.0,
        initial=done,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
    )


class _Line:
    """What shows where tqdm is not installed: one line, which a terminal writes over."""

    def __init__(self, done: float) -> None:
        self.n, self._first, self._shown = done, done, -1
        self._start = perf_counter()

    def update(self, more: float) -> None:
        self.n += more
        percent = int(100 * self.n)
        step = 1 if sys.stderr.isatty() else 10  # a file holds a line for each tenth
        if percent // step == self._shown // step or self.n <= self._first:
            return
        self._shown = percent
        rate = (self.n - self._first) / (perf_counter() - self._start)
        text = f"duckkeops: {percent} %, {duration((1 - self.n) / rate)} left"
        sys.stderr.write(f"\r{text:<60}" if step == 1 else f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._shown >= 0 and sys.stderr.isatty():
            sys.stderr.write("\r" + " " * 60 + "\r")
            sys.stderr.flush()


def _warn_if_long(spent: float, whole: float) -> None:
    """Warn of a reduction above a minute, and again of one that takes twice as long."""
    global _warned_seconds
    if spent > 2 * PATIENCE_SECONDS and whole > max(WARN_SECONDS, 2 * _warned_seconds):
        _warned_seconds = whole
        log.warning(
            "this reduction takes about %s.\n"
            "  Ctrl-C ends it, config(progress=True) shows how far it is; "
            "fewer rows, as in D[:1000], or float32 take less.",
            duration(whole),
        )


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(0.0021), duration(0.9), duration(1.1), duration(42), duration(250), duration(9000)
    ('2.1 ms', '900 ms', '1.1 s', '42 s', '4.2 min', '2.5 h')
    """
    units = ((86400, 1.5, "days"), (3600, 1.5, "h"), (60, 1.5, "min"), (1, 0.9995, "s"))
    size, _, unit = next((u for u in units if seconds >= u[0] * u[1]), (1e-3, 0, "ms"))
    value = seconds / size
    return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"
