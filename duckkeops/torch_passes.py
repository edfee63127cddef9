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
from duckkeops.expr import Input, Node, Order, Reduce, Scalar
from duckkeops.launch import Launch
from duckkeops.tensors import Located, as_tensor, is_tensor, located


class _Held:
    """Where the entries of an input lie, where a launch looks for the input; and what must live."""

    __slots__ = ("keep", "source")

    order = None

    def __init__(self, source: Located, keep: list[Any]):
        self.source, self.keep = source, keep


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
    """One launch: its nodes without the inputs and numbers, which are at these places, and its
    terms. An input is a tensor of the pass, a number is a node of the forward pass.
    """

    launch: Launch
    nodes: tuple[Any, ...]
    inputs: tuple[tuple[int, int], ...]
    numbers: tuple[tuple[int, int], ...]
    results: tuple[_Result, ...]


class Passes(NamedTuple):
    """All launches of a backward pass, and the order in which they see the axes of its tensors:
    the sources of the leaves, the outputs that were saved, the gradients.
    """

    launches: tuple[_Launched, ...]
    orders: tuple[Order, ...]

    def __call__(
        self,
        nodes: Sequence[Any],
        tensors: Sequence[torch.Tensor],
        outs: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor | None],
    ) -> list[torch.Tensor | None]:
        """The gradient of each tensor, None for those that do not matter."""
        given = (*tensors, *outs, *grads)
        keep: list[Any] = [given]
        held: list[Any] = [
            None if t is None else _Held(located(t, keep, order), keep)
            for t, order in zip(given, self.orders, strict=True)
        ]
        threads = current().threads
        out: list[torch.Tensor | None] = [None] * len(tensors)
        for one in self.launches:
            its = list(one.nodes)
            for place, k in one.inputs:
                its[place] = held[k]
            for place, k in one.numbers:
                its[place] = nodes[k]
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
    order: Sequence[int] | None,
    outs: Sequence[torch.Tensor],
    grads: Sequence[Any],
    wanted: Sequence[bool],
    settings: Settings,
) -> tuple:
    """`outs` are those that were saved, whose dtypes depend on the settings of the forward pass."""
    present = tuple([g is not None for g in grads])
    saved = tuple([t.dtype for t in outs])
    return key, order, saved, present, tuple(wanted), settings.kernels


def find(key: tuple) -> Passes | None:
    return None if current().engine == "blocks" else _passes.get(key)


def keep(
    key: tuple,
    forward: Sequence[Node],
    leaves: Sequence[Input],
    outs: Sequence[Input],
    grads: Sequence[Input | None],
    terms: Sequence[tuple[int, gradients.Term]],
    order: Sequence[int] | None,
) -> None:
    """Remember what these terms, each of a leaf, were evaluated by.

    The value, first of `outs`, and its gradient will be given with their axes in this order. An
    expression that has other inputs, or that was not one launch, is not kept.
    """
    given = (*leaves, *outs, *grads)
    numbers = {id(n): k for k, n in enumerate(forward) if isinstance(n, Scalar)}
    known = {id(n): k for k, n in enumerate(given) if n is not None}
    launches = []
    for launch, nodes, members in _launches([term.node for _, term in terms]):
        if launch is None:
            return
        if any(isinstance(n, Input) and id(n) not in known for n in nodes):
            return
        inputs = tuple((p, known[id(n)]) for p, n in enumerate(nodes) if id(n) in known)
        own = tuple((p, numbers[id(n)]) for p, n in enumerate(nodes) if id(n) in numbers)
        template: list[Any] = [
            n if isinstance(n, Scalar) and id(n) not in numbers else _bare(n) for n in nodes
        ]
        results = tuple(_result(*terms[k], added, leaves) for k, added in members)
        template[0] = results[0].node
        launches.append(_Launched(launch, tuple(template), inputs, own, results))
    if len(_passes) >= KEPT:
        _passes.clear()
    orders = [None if n is None else n.order for n in given]
    if order is not None:
        for k in {len(leaves), len(leaves) + len(outs)}:
            have = orders[k] if k < len(orders) else None
            if have is not None:
                orders[k] = tuple([None if a is None else order.index(a) for a in have])
    _passes[key] = Passes(tuple(launches), tuple(orders))


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
    order = gradients.source_order(term, leaves[leaf])
    moved = order != tuple(range(len(order)))
    return _Result(node, added, leaf, order if moved else None, tuple(leaves[leaf].source.shape))


def _bare(node: Node) -> Node:
    """What is known of a node, without what it is made of."""
    out = object.__new__(Node)
    out.outline, out._args = node.outline, ()
    return out
