"""CuPy's arrays without a card: their memory is the host's, and kernels run there, too. What CuPy's
own kernels would compute is tested in test_gpu.py.
"""

import ctypes

import host_cuda
import numpy as np
import pytest

from duckkeops import LazyArray, config, launch_cuda, operands, tensors

cupy = pytest.importorskip("cupy")


def on_device(array, number=0):
    """A CuPy array over the memory of a NumPy array."""
    array = np.array(array, order="C")
    memory = cupy.cuda.UnownedMemory(
        array.ctypes.data or 1, max(array.nbytes, 1), array, device_id=number
    )
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(array.shape, array.dtype, pointer)


class Memory(host_cuda.Memory):
    """launch_cuda.Cupy, whose arrays lie on the host."""

    @staticmethod
    def empty(shape, dtype):
        return on_device(host_cuda.Memory.empty(shape, dtype))

    @staticmethod
    def address(array):
        return array.data.ptr


@pytest.fixture
def hosted(monkeypatch):
    device_of = launch_cuda.device_of
    with host_cuda.hosted(monkeypatch), monkeypatch.context() as m:
        m.setattr(launch_cuda, "device_of", device_of)
        m.setattr(launch_cuda, "Cupy", Memory)
        yield


def entries(array):
    """The entries of a CuPy array that lies on the host."""
    size = array.nbytes
    assert array.flags.c_contiguous
    raw = (ctypes.c_char * size).from_address(array.data.ptr)
    return np.frombuffer(raw, array.dtype).reshape(array.shape).copy()


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.random((40, 3)).astype("f"), rng.random((30, 3)).astype("f")


def distances(x, y):
    return ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)


def test_reductions_give_cupy_arrays(hosted, clouds):
    x, y = clouds
    d = distances(*map(on_device, clouds))
    dense = ((x[:, None] - y[None]) ** 2).sum(-1)
    sums, least = np.exp(-d).sum(axis=1), np.min(d, axis=0)
    assert type(sums) is type(least) is cupy.ndarray and sums.device.id == 0
    np.testing.assert_allclose(entries(sums), np.exp(-dense).sum(1), rtol=1e-5)
    np.testing.assert_allclose(entries(least), dense.min(0), rtol=1e-5)


def test_operators_take_cupy_arrays_on_both_sides(hosted, clouds):
    x, y = map(on_device, clouds)
    left, right = x[:, None] - LazyArray(y)[None], LazyArray(x)[:, None] - y[None]
    assert isinstance(left, LazyArray) and isinstance(right, LazyArray)
    one = (left * right).sum(-1).sum(axis=1)
    dense = ((clouds[0][:, None] - clouds[1][None]) ** 2).sum(-1)
    np.testing.assert_allclose(entries(one), dense.sum(1), rtol=1e-5)


def test_numpy_functions_take_both(hosted, clouds):
    x, y = map(on_device, clouds)
    d = distances(x, y)
    b = on_device(np.arange(30, dtype="f"))
    assert isinstance(np.where(d > 1, b, d), LazyArray)
    assert isinstance(np.maximum(b, d), LazyArray)
    dense = ((clouds[0][:, None] - clouds[1][None]) ** 2).sum(-1)
    np.testing.assert_allclose(entries(d @ b), dense @ np.arange(30), rtol=1e-5)
    np.testing.assert_allclose(entries(np.matmul(d, b)), dense @ np.arange(30), rtol=1e-5)


def test_shape_dtype_device_and_printing(hosted, clouds):
    x, y = map(on_device, clouds)
    d = distances(x, y)
    assert d.shape == (40, 30) and d.dtype == np.float32 and d.device == x.device
    assert "40" in repr(d)


def test_cupy_s_own_functions_are_refused_by_their_own_error(clouds):
    d = distances(*map(on_device, clouds))
    with pytest.raises(Exception):  # noqa: B017
        cupy.exp(d)


@pytest.mark.parametrize("swap", [False, True])
def test_libraries_do_not_mix(clouds, swap):
    x, y = on_device(clouds[0]), clouds[1]
    a, b = (y[:, None], x[None]) if swap else (x[:, None], y[None])
    for use in (
        lambda: LazyArray(a) - b,
        lambda: b - LazyArray(a) if swap else LazyArray(b) - a,
        lambda: np.maximum(LazyArray(a), b),
    ):
        with pytest.raises(TypeError, match=r"cupy.asnumpy"):
            use()


def test_lazy_arrays_of_two_libraries_are_refused_when_computed(hosted, clouds):
    d = LazyArray(on_device(clouds[0]))[:, None] - LazyArray(clouds[1])[None]
    with pytest.raises(TypeError, match="one library's arrays"):
        d.sum(-1).sum(axis=1)


def test_two_devices_are_refused(clouds):
    x, y = on_device(clouds[0]), on_device(clouds[1], 1)
    with pytest.raises(TypeError, match="computed on one device") as error:
        LazyArray(x)[:, None] - y[None]
    assert "with cupy.cuda.Device(0): x = cupy.array(x)" in str(error.value)


def test_numbers_of_numpy_mix(hosted, clouds, monkeypatch):
    x, y = map(on_device, clouds)
    monkeypatch.setattr(tensors, "constant", lambda like, array: on_device(array))
    d = distances(x, y)
    dense = ((clouds[0][:, None] - clouds[1][None]) ** 2).sum(-1)
    sums = (d * np.float32(2) + np.ones((), "f")).sum(axis=1)
    np.testing.assert_allclose(entries(sums), (2 * dense + 1).sum(1), rtol=1e-5)


def test_indices_may_lie_on_the_device():
    index = on_device(np.array([3, 1, 2]))
    assert operands.on_host(np.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(Exception, match="cuda"):  # it asks the device for a copy, and there is none
        operands.on_host(index)


def test_the_engine_of_the_cpu_refuses_them(hosted, clouds):
    d = distances(*map(on_device, clouds))
    with config(engine="cpu"), pytest.raises(Exception, match="CUDA device 0"):
        d.sum(axis=1)


def test_what_is_said_is_of_the_device(hosted, clouds):
    d = distances(*map(on_device, clouds))
    said = d.explain()
    assert "on device 0, a host" in said and "sm_90" in said and "C compiler" not in said
    assert "__global__" in d.source() and "__global__" not in distances(*clouds).source()
    assert d.estimate().pairs == 1200 and d.estimate().seconds > 0
