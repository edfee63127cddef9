"""The backward pass of an expression that was differentiated before: the same launches, of other
tensors.

To build the gradient's expression again takes longer than a small problem. What it led to is kept
under the forward expression's own key: for each launch, what becomes of each input. No tensors are
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from duckkeops import evaluate, expr, gradients, joint
from duckkeops.config import Settings, current
from duckkeops.expr import Input, Node, Reduce, Scalar
from duckkeops.launch import Launch
from duckkeops.tensors import Located, as_tensor, is_tensor, located

LEAF, OUT, GRAD, NUMBER = range(4)
Slot = tuple[int, int]


class _Held:
    """Where the entries of an input lie, where a launch looks for the input; and what must live."""

    __slots__ = ("array", "keep")

    def __init__(self, array: Located, keep: list[Any]):
        self.array, self.keep = array, keep


class _Result(NamedTuple):
    """A term: its node without arguments, the axes along which a pass is added up, and where the
    value goes.
    """

    node: Reduce
    added: tuple[int, ...]
    leaf: int
    order: tuple[int, ...] | None
    shape: tuple[int, ...]


class _Launched(NamedTuple):
    """One launch: its nodes without the inputs, which slots fill, and its terms."""

    launch: Launch
    nodes: tuple[Any, ...]
    fills: tuple[tuple[int, Slot], ...]
    results: tuple[_Result, ...]


class Passes(NamedTuple):
    """All launches of a backward pass, and the axes that the forward pass reduced."""

    launches: tuple[_Launched, ...]
    leaves: int
    axes: tuple[int, ...]  # that were reduced: outputs and their gradients have 1 entry there

    def __call__(
        self,
        nodes: Sequence[Any],
        tensors: Sequence[torch.Tensor],
        outs: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor | None],
    ) -> list[torch.Tensor | None]:
        """The gradient of each tensor, None for those that do not matter."""
        slots: dict[Slot, Any] = {}
        keep: list[Any] = [tensors, outs, grads]
        for kind, given in ((LEAF, tensors), (OUT, outs), (GRAD, grads)):
            for k, t in enumerate(given):
                if t is not None:
                    at = located(t, keep)
                    if kind != LEAF:
                        for axis in self.axes:
                            at[1].insert(axis, 0)
                    slots[kind, k] = _Held(at, keep)
        threads = current().threads
        out: list[torch.Tensor | None] = [None] * self.leaves
        for one in self.launches:
            its = list(one.nodes)
            for place, slot in one.fills:
                its[place] = nodes[slot[1]] if slot[0] == NUMBER else slots[slot]
            for to, state in zip(one.results, one.launch(its, threads), strict=True):
                part = joint.finished(to.node, state, to.added)
                if to.order is not None:
                    part = part.permute(to.order) if is_tensor(part) else part.transpose(to.order)
                part = as_tensor(part if part.shape == to.shape else part.reshape(to.shape))
                have = out[to.leaf]
                out[to.leaf] = part if have is None else have + part
        return out


_passes: dict[tuple, Passes] = {}
KEPT = 2048  # at most; then all are forgotten


def key_of(
    key: tuple,
    outs: Sequence[torch.Tensor],
    grads: Sequence[Any],
    wanted: Sequence[bool],
    settings: Settings,
) -> tuple:
    """`outs` are those that were saved, whose dtypes depend on the settings of the forward pass."""
    present = tuple([g is not None for g in grads])
    saved = tuple([t.dtype for t in outs])
    return key, saved, present, tuple(wanted), settings.precision, settings.accumulate


def find(key: tuple) -> Passes | None:
    return None if current().engine == "blocks" else _passes.get(key)


def keep(
    key: tuple,
    forward: Sequence[Node],
    slots: dict[int, Slot],
    terms: Sequence[tuple[int, gradients.Term]],
    leaves: Sequence[Input],
    axes: tuple[int, ...],
) -> None:
    """Remember what these terms, each of a leaf, were evaluated by.

    `slots` says which inputs are a leaf, an output or a gradient, by id. An expression that has
    others, or that was not one launch, is not kept.
    """
    numbers = {id(n): (NUMBER, k) for k, n in enumerate(forward) if isinstance(n, Scalar)}
    launches = []
    for launch, nodes, members in _launches([term.node for _, term in terms]):
        if launch is None:
            return
        template: list[Any] = []
        fills = []
        for place, n in enumerate(nodes):
            slot = slots.get(id(n)) or numbers.get(id(n))
            if slot is not None:
                fills.append((place, slot))
            elif isinstance(n, Input):
                return
            template.append(n if slot is None and isinstance(n, Scalar) else _bare(n))
        results = tuple(_result(*terms[k], axes, leaves) for k, axes in members)
        template[0] = results[0].node
        launches.append(_Launched(launch, tuple(template), tuple(fills), results))
    if len(_passes) >= KEPT:
        _passes.clear()
    _passes[key] = Passes(tuple(launches), len(leaves), axes)


def _launches(
    nodes: Sequence[Reduce],
) -> Iterator[tuple[Launch | None, Sequence[Node], list[tuple[int, tuple[int, ...]]]]]:
    """What `joint.arrays` launches: the nodes that it takes, and the places of the sums that it
    computes with the axes along which they are added up.
    """
    order, found = joint.planned(nodes)
    left = dict.fromkeys(range(len(nodes)))
    for one in found:
        members = list(zip(one.members, one.added, strict=True))
        for k, _ in members:
            del left[k]
        yield one.launch, order, members
    for k in left:
        key, own = evaluate.listed(nodes[k])
        yield evaluate.known(key, current()), own, [(k, ())]


def _result(
    leaf: int, term: gradients.Term, added: tuple[int, ...], leaves: Sequence[Input]
) -> _Result:
    args = tuple(map(_bare, term.node.args))
    node = expr.record_reduction(term.node.outline, args, term.node.params)
    order = term.order if term.order != tuple(range(len(term.order))) else None
    return _Result(node, added, leaf, order, leaves[leaf].shape)


def _bare(node: Node) -> Node:
    """What is known of a node, without what it is made of."""
    out = object.__new__(Node)
    out.outline, out._args = node.outline, ()
    return out
