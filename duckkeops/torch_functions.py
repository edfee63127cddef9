"""torch's protocol on nodes: which line of the table answers, and what nobody answers.

`function` is what LazyArray's `__torch_function__` calls, with lazy arrays already taken apart into
nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from duckkeops import expr, genuine
from duckkeops.expr import Node
from duckkeops.operands import unsupported
from duckkeops.torch_table import CHANGING, HANDLERS, name_of, remedy_of


def spelled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """axis= and keepdims= under torch's names."""
    for theirs, ours in (("axis", "dim"), ("keepdims", "keepdim")):
        if theirs in kwargs:
            kwargs[ours] = kwargs.pop(theirs)
    return kwargs


def function(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The answer to a torch function of nodes and other arguments."""
    handler = HANDLERS.get(func)
    return elsewhere(func, args, kwargs) if handler is None else handler(*args, **spelled(kwargs))


def elsewhere(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function that is not ours: torch's own if no lazy array is virtual, else the refusal."""
    nodes = _nodes((args, kwargs))
    virtual = next((n for n in nodes if expr.is_virtual(n)), None)
    if virtual is not None or (func in CHANGING and args and isinstance(args[0], Node)):
        error = unsupported(name_of(func), virtual or nodes[0], remedy_of(func))
        if func in CHANGING and not isinstance(args[0], Node):
            # of x += d torch makes x = x + d if it sees a TypeError
            raise RuntimeError(str(error))
        raise error
    with torch._C.DisableTorchFunctionSubclass():
        return func(*_computed(args), **_computed(kwargs))


def _nodes(value: Any) -> list[Node]:
    if isinstance(value, Node):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return [n for v in inner for n in _nodes(v)] if isinstance(value, dict | tuple | list) else []


def _computed(value: Any) -> Any:
    """The same arguments with tensors for nodes."""
    if isinstance(value, Node):
        return genuine.dense(value)
    if isinstance(value, dict):
        return {k: _computed(v) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_computed(v) for v in value)
    return value
