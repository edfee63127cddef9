"""Nodes: shapes, roles, spans, and views pushed down to the inputs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckkeops import expr, ops, reductions, views
from duckkeops.engines import blocks
from duckkeops.errors import RoleError, ShapeError
from duckkeops.expr import Apply, Broadcast, Concat, Input, Node, Scalar
from duckkeops.views import View, axis

FLOAT = np.dtype(float)


def leaf(shape: tuple[int, ...], roles: str, bare: bool = False, dtype: Any = float) -> Input:
    rng = np.random.default_rng(sum(shape) + 7 * len(shape))
    return Input(rng.integers(-9, 9, shape).astype(dtype), np.dtype(dtype), roles, bare)


def add(x: Node, y: Node) -> Node:
    return ops.call("add", x, y)


# -- roles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left, right, roles",
    [
        (((4, 1, 3), "ppf"), ((1, 5, 3), "ppf"), "ppf"),
        (((4, 1), "pp"), ((5,), "f"), "pf"),  # a length of 1 yields
        (((4, 5), "pp"), ((5,), "f"), "pp"),  # more axes win
        (((4, 1, 3), "pnf"), ((1, 5, 3), "npf"), "ppf"),  # neutral axes take the other's role
        (((4, 1), "pf"), ((4, 1), "pp"), "pn"),  # both of length 1: undecided
        (((2, 4, 1, 3), "bppf"), ((5, 3), "pf"), "bppf"),
        (((), ""), ((5, 3), "pf"), "pf"),
    ],
)
def test_roles_of_two_lazy_arrays(left, right, roles):
    for one, other in itertools.permutations([left, right]):
        assert add(leaf(*one), leaf(*other)).roles == roles


@pytest.mark.parametrize(
    "lazy, bare, roles",
    [
        (((4, 5), "pf"), ((4, 5), "pp"), "pf"),  # a lazy array's role beats a default
        (((4, 1), "pf"), ((4, 5), "pp"), "pf"),
        (((4, 5, 1), "ppn"), ((5, 3), "pf"), "ppf"),
        (((4, 5, 1), "ppn"), ((3,), "p"), "ppf"),  # right of the last point axis: features
        (((4, 1, 1), "pnn"), ((5, 3), "pf"), "pff"),
        (((4, 1, 3), "pnf"), ((5, 3), "pf"), "ppf"),  # between: as the bare array has it
        (((3,), "f"), ((5, 3), "pf"), "pf"),
        (((4, 3), "pf"), ((2, 4, 3), "ppf"), "ppf"),
    ],
)
def test_roles_with_bare_arrays(lazy, bare, roles):
    x, y = leaf(*lazy), leaf(*bare, bare=True)
    assert add(x, y).roles == add(y, x).roles == roles
    assert not add(x, y).bare and add(y, y).bare


def test_operations_on_bare_arrays_stay_bare():
    y = ops.cast(leaf((5, 3), "pf", bare=True), np.dtype(np.float32))
    assert y.bare and add(leaf((5, 3), "pp"), y).roles == "pp"


def test_a_tie_of_roles_names_feature_ndim():
    with pytest.raises(
        RoleError, match=r"cannot add: axis -1 is a point axis in one lazy array and a feature axis"
    ):
        add(leaf((4, 5), "pp"), leaf((4, 5), "pf"))
    with pytest.raises(RoleError, match="feature_ndim="):
        add(leaf((4, 5), "pp"), leaf((4, 5), "pf"))
    three = leaf((4, 5), "pp"), leaf((4, 5), "pf"), leaf((1, 4, 5), "npp")
    assert ops.call("where", *three).roles == "npp"  # the third one decides


def test_shapes_that_do_not_fit():
    with pytest.raises(
        ShapeError, match=r"cannot add: axis -1 has 3 entries in one operand and 2 in another\."
    ):
        add(leaf((4, 1, 3), "ppf"), leaf((5, 2), "pf"))
    with pytest.raises(ShapeError, match="different numbers of axes"):
        Concat((leaf((4, 3), "pf"), leaf((3,), "p")), 0, FLOAT)
    with pytest.raises(ShapeError, match="axis -1 has 3 entries in one operand and 2"):
        Concat((leaf((4, 3), "pf"), leaf((4, 2), "pf")), 0, FLOAT)
    with pytest.raises(ShapeError, match="cannot broadcast"):
        Broadcast(leaf((4, 3), "pf"), (3,))


def test_roles_of_concatenations():
    x, y = leaf((4, 1, 3), "ppf"), leaf((1, 5, 2), "ppf")
    assert Concat((x, y), 2, FLOAT).roles == "ppf"
    assert Concat((leaf((4, 3), "pf"), leaf((2, 3), "pf")), 0, FLOAT).roles == "pf"
    assert views.stack([leaf((4,), "p"), leaf((4,), "p")], 1, FLOAT).roles == "pf"
    with pytest.raises(RoleError, match="cannot concatenate: axis -1 is a"):
        Concat((leaf((4, 3), "pf"), leaf((4, 2), "pp")), 1, FLOAT)
    assert Concat((leaf((4, 3), "pf"), leaf((4, 2), "pp", bare=True)), 1, FLOAT).roles == "pf"


# -- spans -----------------------------------------------------------------------------------------


def test_virtual_means_that_no_input_spans_the_points():
    x, y, w = leaf((4, 1, 3), "ppf"), leaf((1, 5, 3), "ppf"), leaf((4, 5, 1), "ppf")
    assert expr.is_virtual(add(x, y)) and not expr.is_virtual(x) and not expr.is_virtual(add(w, x))
    same = leaf((4, 3), "pf")
    pairs = add(views.expand(same, [1]), views.expand(same, [0]))
    assert expr.is_virtual(pairs)  # each occurrence counts for itself
    one = leaf((1, 5, 3), "ppf")
    assert not expr.is_virtual(add(leaf((1, 1, 3), "ppf"), one))  # axes of length 1 do not count
    assert expr.is_virtual(Broadcast(same, (5, 4, 3)))
    assert not expr.is_virtual(
        add(leaf((2, 1, 1), "bpf"), leaf((4, 3), "pf"))
    )  # batch axes do not count


def test_a_concatenation_of_points_needs_each_part_spanned():
    x, y, w = leaf((4, 1), "pp"), leaf((1, 5), "pp"), leaf((3, 5), "pp")
    pairs = add(x, y)
    assert expr.is_virtual(Concat((pairs, pairs), 0, FLOAT))
    assert expr.is_virtual(Concat((pairs, w), 0, FLOAT))
    assert not expr.is_virtual(Concat((w, w), 0, FLOAT))
    assert not expr.is_virtual(Concat((w, y), 0, FLOAT))  # one more row
    features = Concat((leaf((4, 1, 3), "ppf"), leaf((1, 5, 3), "ppf")), 2, FLOAT)
    assert expr.is_virtual(features)


@pytest.mark.parametrize(
    "shapes, axes, evaluated",
    [
        ([(4, 1, 3), (1, 5, 3)], (2,), False),  # features only
        ([(4, 1, 3), (1, 5, 3)], (1,), True),
        ([(4, 1, 3), (1, 5, 3)], (0, 1), True),
        ([(4, 1, 3), (1, 5, 3)], (0, 1, 2), True),
        ([(4, 1, 1, 3), (1, 5, 1, 3), (1, 1, 6, 3)], (1,), False),
        ([(4, 1, 1, 3), (1, 5, 1, 3), (1, 1, 6, 3)], (1, 2), True),
        ([(4, 1, 6, 3), (1, 5, 1, 3)], (1,), True),  # one input spans what is left
    ],
)
def test_the_rule_of_evaluation(shapes, axes, evaluated):
    args = [leaf(s, "p" * (len(s) - 1) + "f") for s in shapes]
    node = args[0]
    for a in args[1:]:
        node = add(node, a)
    assert (
        expr.is_evaluated(reductions.reduce(reductions.BY_NAME["sum"], (node,), axes)) is evaluated
    )


def test_removing_a_batch_axis_evaluates_and_neutral_axes_do_not():
    total = reductions.BY_NAME["sum"]
    assert expr.is_evaluated(reductions.reduce(total, (leaf((2, 4, 3), "bpf"),), (0,)))
    assert not expr.is_evaluated(reductions.reduce(total, (leaf((1, 4, 3), "npf"),), (0,)))
    assert not expr.is_evaluated(reductions.reduce(total, (leaf((4, 3), "pf"),), ()))


# -- views -----------------------------------------------------------------------------------------

Pair = tuple[Node, np.ndarray]  # a node and its dense value
ROLES = ("bppf", "pppf", "ppff")


@st.composite
def leaves(draw: st.DrawFn, whole: tuple[int, ...], roles: str) -> Pair:
    ndim = draw(st.integers(0, len(whole)))
    shape = tuple(draw(st.sampled_from([n, n, 1])) for n in whole[len(whole) - ndim :])
    values = draw(
        st.integers(0, 2**32 - 1).map(lambda s: np.random.default_rng(s).integers(-4, 5, shape))
    )
    if ndim == 0 and draw(st.booleans()):
        return Scalar(int(values)), values
    bare = draw(st.integers(0, 3)) == 0
    return Input(values, values.dtype, roles[len(whole) - ndim :], bare), values


@st.composite
def expressions(draw: st.DrawFn, whole: tuple[int, ...], roles: str, depth: int) -> Pair:
    if depth == 0:
        return draw(leaves(whole, roles))
    one = expressions(whole, roles, depth - 1)
    kind = draw(
        st.sampled_from(
            ["apply", "apply", "twice", "fold", "contract", "concat", "broadcast", "leaf"]
        )
    )
    x, a = draw(one)
    if kind == "apply":
        y, b = draw(one)
        name = draw(st.sampled_from(["subtract", "multiply", "maximum"]))
        return ops.call(name, x, y), getattr(np, name)(a, b)
    if kind == "twice":
        return ops.call("multiply", x, ops.call("add", x, x)), a * (a + a)
    if kind == "fold" and x.ndim:
        k = draw(st.integers(0, x.ndim - 1))
        name = draw(st.sampled_from(["sum", "argmin", "max"] if a.shape[k] else ["sum"]))
        return views.expand(_reduced(name, x, k), [k]), getattr(np, name)(a, axis=k, keepdims=True)
    if kind == "contract":
        z = draw(st.integers(1, 3).map(lambda n: np.arange(n) - 1))
        inner = ops.call("multiply", views.expand(x, [x.ndim]), Input(z, z.dtype, "f"))
        return _reduced("sum", inner, x.ndim), (a[..., None] * z).sum(-1)
    if kind == "concat" and x.ndim:
        return draw(concatenations((x, a), one))
    if kind == "broadcast":
        shape = whole[len(whole) - max(x.ndim, draw(st.integers(0, len(whole)))) :]
        return Broadcast(x, shape, roles[len(whole) - len(shape) :]), np.broadcast_to(a, shape)
    return x, a


def _reduced(name: str, x: Node, k: int) -> Node:
    return reductions.reduce(reductions.BY_NAME[name], (x,), (k,))


@st.composite
def concatenations(draw: st.DrawFn, first: Pair, one: st.SearchStrategy[Pair]) -> Pair:
    """The first rows of one array, then the last rows of another, which may be broadcast along
    other axes.
    """
    (x, a), (y, b) = first, draw(one)
    n = max(x.ndim, y.ndim)
    x, a = views.expand(x, range(n - x.ndim)), a.reshape((1,) * (n - a.ndim) + a.shape)
    y, b = views.expand(y, range(n - y.ndim)), b.reshape((1,) * (n - b.ndim) + b.shape)
    k = draw(st.integers(0, n - 1))
    if a.shape[k] != b.shape[k]:
        return x, a
    cut = draw(st.integers(0, a.shape[k]))
    parts = _cut(x, k, slice(None, cut)), _cut(y, k, slice(cut, None))
    halves = np.split(a, [cut], k)[0], np.split(b, [cut], k)[1]
    shape = np.broadcast_shapes(a.shape, b.shape)
    full = [np.broadcast_to(h, (*shape[:k], h.shape[k], *shape[k + 1 :])) for h in halves]
    try:
        return Concat(parts, k, np.dtype(np.int64)), np.concatenate(full, k)
    except RoleError:  # a neutral axis became a point axis in one of them
        return x, a


def _cut(x: Node, k: int, s: slice) -> Node:
    return views.view(
        x, View(x.ndim, [axis(b, s if b == k else slice(None)) for b in range(x.ndim)], {})
    )


@st.composite
def some_views(draw: st.DrawFn, shape: tuple[int, ...]) -> View:
    entries: list[Any] = []
    dropped: dict[int, int] = {}
    joint = (
        draw(st.sets(st.integers(0, len(shape) - 1), min_size=2))
        if len(shape) > 1 and draw(st.booleans())
        else set()
    )
    joint = joint if all(shape[a] for a in joint) else set()
    for a, n in enumerate(shape):
        if a not in joint:
            kind = draw(st.sampled_from(["all", "slice", "slice", "int", "gather"]))
            if kind == "int" and n:
                dropped[a] = draw(st.integers(-n, n - 1))
            elif kind == "gather":
                picks = st.lists(st.integers(-n, n - 1), max_size=5) if n else st.just([])
                entries.append(axis(a, np.array(draw(picks), dtype=int)))
            else:
                entries.append(axis(a, draw(st.slices(n)) if kind == "slice" else slice(None)))
    if joint:
        axes, length = draw(st.permutations(sorted(joint))), draw(st.integers(0, 4))
        picks = st.lists(st.integers(-99, 99), min_size=length, max_size=length)
        entries.append(
            (tuple(axes), tuple(np.array(draw(picks), dtype=int) % shape[a] for a in axes))
        )
    entries = draw(st.permutations(entries))
    for _ in range(draw(st.integers(0, 2))):
        entries.insert(draw(st.integers(0, len(entries))), None)
    return View(len(shape), entries, dropped)


def seen(a: np.ndarray, how: View) -> np.ndarray:
    """The view of a dense array, by one open grid of indices."""
    shape = how.shape(a.shape)
    index: list[Any] = [how.dropped.get(k) for k in range(a.ndim)]
    for place, e in enumerate(how.entries):
        for k, s in zip(*e, strict=True) if e is not None else ():
            at = np.arange(a.shape[k])[s]
            index[k] = at.reshape([len(at) if p == place else 1 for p in range(len(shape))])
    return np.broadcast_to(a[tuple(index)] if a.ndim else a, shape)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_views_are_those_of_numpy(data: st.DataObject):
    roles = data.draw(st.sampled_from(ROLES))
    whole = tuple(data.draw(st.sampled_from([3, 2, 4, 1, 0])) for _ in roles)
    x, a = data.draw(expressions(whole, roles, 3))
    np.testing.assert_array_equal(blocks.dense(x), a)
    how = data.draw(some_views(x.shape))
    y = views.view(x, how)
    want = seen(a, how)
    assert y.shape == want.shape == how.shape(x.shape)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(blocks.dense(y), want)
    if not x.bare:
        for e, role, n in zip(how.entries, y.roles, y.shape, strict=True):
            if e is not None and n != 1 and x.shape[e[0][0]] != 1:
                assert role == ("p" if len(e[0]) > 1 else x.roles[e[0][0]])
    again = data.draw(some_views(y.shape))  # a view of a view
    np.testing.assert_array_equal(blocks.dense(views.view(y, again)), seen(want, again))


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_views_of_other_libraries(library: str):
    xp = pytest.importorskip(library)
    a = np.arange(60).reshape(3, 4, 5)
    x = Input(xp.asarray(a), a.dtype, "ppf")
    hows = [
        View(3, [axis(2, slice(None, None, -2)), axis(0, slice(2, 0, -1))], {1: -2}),
        View(3, [axis(1, np.array([3, -1, 0])), None, axis(2, slice(1, 3)), axis(0)], {}),
        View(
            3,
            [axis(2, slice(None, None, -1)), ((1, 0), (np.array([0, -1, 2]), np.array([2, 1, 1])))],
            {},
        ),
        View(3, [], {0: 0, 1: 1, 2: 2}),
    ]
    for how in hows:
        got = views.view(x, how)
        assert type(got.array) is type(x.array)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(got.array), seen(a, how))  # type: ignore[attr-defined]


def test_roles_do_not_change_with_what_a_view_leaves():
    d = add(leaf((3, 5), "pf"), leaf((5,), "p"))  # the first has more axes
    row = views.view(d, View(2, [axis(1)], {0: 1}))
    assert row.roles == "f"
    bare = add(views.expand(leaf((4, 3), "pf"), [1]), leaf((5, 3), "pf", bare=True))
    assert bare.roles == "ppf" and views.permute(bare, (2, 0, 1)).roles == "fpp"


def test_views_make_views_of_the_inputs():
    x = leaf((6, 4), "pf")
    seen_ = views.view(x, View(2, [axis(0, slice(None, None, -2)), None, axis(1)], {}))
    assert isinstance(seen_, Input) and np.shares_memory(seen_.array, x.array)
    assert views.permute(x, (0, 1)) is x


def test_shared_subexpressions_stay_shared():
    x = add(leaf((4, 1), "pp"), leaf((1, 5), "pp"))
    for _ in range(200):
        x = ops.call("maximum", x, x)
    for how in [View(2, [axis(1), axis(0)], {}), View(2, [axis(0, np.array([1, 2]))], {1: 0})]:
        assert len(list(expr.walk(views.view(x, how)))) == 203


def test_long_expressions_need_no_deep_stack():
    x = add(leaf((4, 1), "pp"), leaf((1, 5), "pp"))
    for _ in range(3000):
        x = ops.call("negative", x)
    assert views.permute(x, (1, 0)).shape == (5, 4)


def test_indices_out_of_bounds():
    x = leaf((4, 3), "pf")
    with pytest.raises(IndexError, match="index 4 is out of bounds for axis 0 with 4 entries"):
        views.view(x, View(2, [axis(1)], {0: 4}))
    with pytest.raises(IndexError, match="index -5 is out of bounds for axis 0 with 4 entries"):
        views.view(x, View(2, [axis(0, np.array([0, -5])), axis(1)], {}))


def test_squeeze_flip_stack_concatenate():
    x, a = leaf((4, 1, 3), "ppf"), leaf((4, 1, 3), "ppf").array
    np.testing.assert_array_equal(blocks.dense(views.squeeze(x, [1])), a[:, 0])
    np.testing.assert_array_equal(blocks.dense(views.flip(x, [0, 2])), np.flip(a, (0, 2)))
    np.testing.assert_array_equal(blocks.dense(views.stack([x, x], 1, FLOAT)), np.stack([a, a], 1))
    np.testing.assert_array_equal(
        blocks.dense(views.concatenate([x, x], 2, FLOAT)), np.concatenate([a, a], 2)
    )
    np.testing.assert_array_equal(
        blocks.dense(views.broadcast_to(x, (2, 4, 5, 3))), np.broadcast_to(a, (2, 4, 5, 3))
    )


@pytest.mark.parametrize(
    "shape, roles, new",
    [
        ((4, 3), "pf", (4, 1, 3, 1)),
        ((1, 4, 1, 3), "nppf", (4, 3)),
        ((4, 6), "pf", (4, 2, 3)),
        ((4, 2, 3), "pff", (4, 6)),
        ((4, 2, 1, 6), "pfff", (1, 4, 3, 4)),
        ((4, 2, 3, 5), "pfff", (4, 6, 5)),
        ((4, 2, 3, 5), "pfff", (4, 3, 10)),
        ((1, 1), "pf", ()),
        ((0, 3), "pf", (0, 1, 3)),
    ],
)
def test_reshape(shape, roles, new):
    x = leaf(shape, roles)
    part = Input(x.array[..., :1], FLOAT, roles)  # broadcast along the last feature axis
    for node in (
        x,
        ops.call("multiply", x, part),
        add(views.expand(x, [0]), views.expand(part, [0])),
    ):
        want = blocks.dense(node).reshape(new if node.ndim == x.ndim else (1, *new))
        got = views.reshape(node, want.shape)
        assert got.shape == want.shape
        np.testing.assert_array_equal(blocks.dense(got), want)


def test_reshape_leaves_points_alone():
    with pytest.raises(ShapeError, match="only feature axes split and merge"):
        views.reshape(leaf((4, 3), "pf"), (12,))
    with pytest.raises(ShapeError, match="12 entries"):
        views.reshape(leaf((4, 3), "pf"), (5, 3))


def test_walk_visits_arguments_first_and_once():
    x, y = leaf((4, 1), "pp"), leaf((1, 5), "pp")
    d = add(x, y)
    top = ops.call("multiply", d, add(d, x))
    order = list(expr.walk(top))
    assert len(order) == len(set(order)) == 5 and order[-1] is top
    assert all(order.index(a) < order.index(n) for n in order for a in n.args)
    assert expr.inputs(top) == [x, y]


def test_apply_knows_its_arguments():
    d = add(leaf((4, 1), "pp"), Scalar(2.0))
    assert isinstance(d, Apply) and d.roles == "pp" and d.shape == (4, 1) and d.dtype == FLOAT
