"""How many of KeOps's reductions were computed here."""

from __future__ import annotations

import collections
import threading

_counts: collections.Counter[str] = collections.Counter()
_lock = threading.Lock()


def count_call(name: str) -> None:
    with _lock:
        _counts[name] += 1


def calls() -> dict[str, int]:
    """The number of reductions computed since `reset_calls()`, by KeOps's names; solutions of
    linear systems are "Solve". Those of gradients do not count.

    >>> from duckkeops.keops.numpy import Vi, Vj
    >>> reset_calls()
    >>> a = Vi(np.ones((4, 3))).sqdist(Vj(np.ones((5, 3)))).sum(1)
    >>> calls()
    {'Sum': 1}
    """
    with _lock:
        return dict(_counts)


def reset_calls() -> None:
    """Count from 0 again."""
    with _lock:
        _counts.clear()
