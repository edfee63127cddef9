"""All entries in a row: d.ravel(), d.reshape(-1) and d.flatten() of a virtual array."""

import numpy as np
import pytest

import duckkeops
from duckkeops import LazyArray
from duckkeops.errors import ShapeError, UnsupportedError, VirtualArrayError
from duckkeops.flat import REDUCTIONS

rng = np.random.default_rng(3)
X, Y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
LAZY = ((LazyArray(X)[:, None] - LazyArray(Y)[None]) ** 2).sum(-1)
DENSE = LAZY.to_dense()
WAYS = {
    "ravel": lambda d: d.ravel(),
    "numpy.ravel": np.ravel,
    "reshape": lambda d: d.reshape(-1),
    "reshape to the size": lambda d: d.reshape((35,)),
    "numpy.reshape": lambda d: np.reshape(d, -1),
    "flatten": lambda d: d.flatten(),
}


def equal(got, want):
    got, want = (v if isinstance(v, tuple) else (v,) for v in (got, want))
    for g, w in zip(got, want, strict=True):
        assert type(g) is type(w) and np.shape(g) == np.shape(w)
        np.testing.assert_allclose(g, w, rtol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_flatten(way):
    flat, dense = WAYS[way](LAZY), DENSE.ravel()
    assert (flat.shape, flat.ndim, flat.size, len(flat)) == ((35,), 1, 35, 35)
    assert (flat.dtype, flat.nbytes) == (dense.dtype, dense.nbytes)
    assert (np.shape(flat), np.ndim(flat), np.size(flat)) == ((35,), 1, 35)
    equal(flat.sum(), dense.sum())
    assert "in a row" in repr(flat)
    assert np.ravel(flat) is flat and flat.reshape(-1) is flat and flat.flatten() is flat


CALLS = {name: {} for name in REDUCTIONS if hasattr(np, name) and name != "bincount"}
CALLS |= {"quantile": {"q": [0.1, 0.5]}, "percentile": {"q": 30}}
CALLS |= {"nanquantile": {"q": 0.2}, "nanpercentile": {"q": [30, 40]}}


OPTIONS = ({}, {"axis": 0}, {"axis": -1}, {"keepdims": True}, {"axis": 0, "keepdims": True})


@pytest.mark.parametrize(
    ("name", "options"),
    [(n, o) for n in CALLS for o in (OPTIONS[:1] if n.startswith("histogram") else OPTIONS)],
)
def test_reductions_over_all_entries(name, options):
    function = getattr(np, name)
    equal(
        function(LAZY.ravel(), **CALLS[name], **options),
        function(DENSE.ravel(), **CALLS[name], **options),
    )
    method = getattr(LAZY.ravel(), name)
    equal(method(**CALLS[name], **options), function(DENSE.ravel(), **CALLS[name], **options))


def test_further_arguments():
    flat, dense, w = LAZY.ravel(), DENSE.ravel(), np.linspace(0, 1, 35)
    equal(np.histogram(flat, 4, (0, 3)), np.histogram(dense, 4, (0, 3)))
    equal(np.histogram(flat, 4, weights=w), np.histogram(dense, 4, weights=w))
    equal(np.histogram(flat, 4, weights=2 * flat), np.histogram(dense, 4, weights=2 * dense))
    equal(np.average(flat, weights=w), np.average(dense, weights=w))
    equal(flat.sum(where=flat > 1), dense.sum(where=dense > 1))
    equal(flat.sum(where=w > 0.3), dense.sum(where=w > 0.3))
    equal(flat.var(ddof=1), dense.var(ddof=1))
    equal(np.add.reduce(flat), np.add.reduce(dense))
    equal(np.maximum.reduce(flat), np.maximum.reduce(dense))
    equal(flat.logsumexp(), np.logaddexp.reduce(dense))
    counts = (LAZY.astype(int)).ravel()
    equal(np.bincount(counts), np.bincount(dense.astype(int)))
    out = np.zeros(())
    assert flat.sum(out=out) is out and out == pytest.approx(dense.sum())


def test_entry_by_entry_before_the_reduction():
    flat, dense = LAZY.ravel(), DENSE.ravel()
    equal(np.exp(-flat).sum(), np.exp(-dense).sum())
    equal(((flat - flat.mean()) ** 2).mean(), ((dense - dense.mean()) ** 2).mean())
    equal((flat * (1 + LAZY).ravel()).sum(), (dense * (1 + dense)).sum())
    equal((flat > np.median(flat)).sum(), (dense > np.median(dense)).sum())
    equal(flat.astype("f4").max(), dense.astype("f4").max())


def test_entries_at_a_flat_index():
    flat, dense = LAZY.ravel(), DENSE.ravel()
    for key in (0, -1, 34, np.int64(7), dense.argmin(), [3, 4], [[-1, 0], [9, 3]]):
        key = np.asarray(key) if isinstance(key, list) else key
        equal(flat[key], dense[key])
    for key in (35, -36, np.array([0, 35])):
        with pytest.raises(IndexError, match="out of bounds for axis 0 with size 35"):
            flat[key]


def test_integers_floats_and_other_axes():
    i = np.arange(6)
    pairs = (LazyArray(i)[:, None] - LazyArray(i)[None]).ravel()
    equal(pairs.sum(), (i[:, None] - i).sum())
    one = LazyArray(X)[:, None] * Y  # with a feature axis
    equal(np.abs(one.ravel()).max(), np.abs(X[:, None] * Y).max())
    assert one.ravel().argmax() == (X[:, None] * Y).argmax()


REFUSED = {
    "sort": lambda f: np.sort(f),
    "unique": lambda f: np.unique(f),
    "cumsum": lambda f: np.cumsum(f),
    "dot": lambda f: f @ f,
    "slice": lambda f: f[:3],
    "mask": lambda f: f[f > 1],
    "add.accumulate": lambda f: np.add.accumulate(f),
    "array": lambda f: f + np.arange(35.0),
    "other shape": lambda f: f.reshape(5, 7),
    "in place": lambda f: f.__iadd__(1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_reduction_is_refused(name):
    with pytest.raises(UnsupportedError) as caught:
        REFUSED[name](LAZY.ravel())
    text = str(caught.value)
    assert "has no pairwise form: d: (7, 5) float64 in a row takes reductions over all" in text
    assert "d.ravel().sum(), .argmin(), numpy.histogram(d.ravel())" in text
    assert "280 bytes" in text


def test_what_does_not_fit_is_refused():
    flat, other = LAZY.ravel(), LAZY.T.ravel()
    with pytest.raises(ShapeError, match=r"in a row: they come from d: \(7, 5\) .* and \(5, 7\)"):
        flat + other
    with pytest.raises(ShapeError, match=r"weights= of d.ravel\(\) has shape \(5,\)"):
        np.histogram(flat, weights=np.ones(5))
    with pytest.raises(np.exceptions.AxisError):
        flat.sum(axis=1)
    with pytest.raises(VirtualArrayError, match=r"numpy.asarray\(d.ravel\(\)\) needs all entries"):
        np.asarray(flat)
    with pytest.raises(VirtualArrayError, match=r"iterating over d.ravel\(\) needs all entries"):
        list(flat)


def test_the_array_api_flattens_before_reductions():
    xp = duckkeops.array_api
    d = xp.asarray(LAZY)
    for flat in (xp.reshape(d, (-1,)), d.reshape(-1), d.ravel()):
        total = xp.sum(flat)
        assert type(total) is xp.Array and float(total) == pytest.approx(DENSE.sum())
        assert int(xp.argmin(flat)) == DENSE.argmin()
