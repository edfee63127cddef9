"""Arrays on the CPU, computed with on a device. A class of NumPy's arrays stands for a device's."""

import contextlib
import os

import host_cuda
import numpy as np
import pytest

import duckkeops
from duckkeops import LazyArray, cache, config, launch_cuda, offload
from duckkeops.errors import UnsupportedError


class OnDevice(np.ndarray):
    """An array that counts as a device's."""


@pytest.fixture
def device(monkeypatch):
    """A device that is none; what was copied to it."""
    copied = []

    def to_device(array):
        copied.append(array)
        return np.array(array).view(OnDevice)

    with host_cuda.hosted(monkeypatch), monkeypatch.context() as m:
        m.setattr(launch_cuda, "device_of", lambda a: 0 if isinstance(a, OnDevice) else None)
        m.setattr(offload.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(offload, "to_device", to_device)
        monkeypatch.setattr(offload, "to_host", np.array)
        monkeypatch.setattr(offload, "require", lambda who: None)
        monkeypatch.setattr(offload, "has_driver", lambda: True)
        monkeypatch.setattr(offload, "is_started", lambda: True)
        monkeypatch.setattr(offload, "is_usable", lambda: True)
        yield copied


def clouds(m=40, n=30, dtype="f"):
    rng = np.random.default_rng(0)
    return rng.random((m, 3)).astype(dtype), rng.random((n, 3)).astype(dtype)


def distances(x, y):
    return ((LazyArray(x[:, None]) - y[None]) ** 2).sum(-1)


def dense(x, y):
    return ((x[:, None].astype("d") - y[None]) ** 2).sum(-1)


@pytest.mark.parametrize("setting", [{"engine": "cuda"}, {"offload": True}])
def test_results_come_back_to_the_host(device, setting):
    x, y = clouds()
    with config(**setting):
        sums, nearest = np.exp(-distances(x, y)).sum(axis=1), distances(x, y).argmin(axis=1)
    assert type(sums) is type(nearest) is np.ndarray and device
    np.testing.assert_allclose(sums, np.exp(-dense(x, y)).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(nearest, dense(x, y).argmin(1))


def test_an_array_that_occurs_twice_is_copied_once(device):
    x, _ = clouds()
    with config(engine="cuda"):
        distances(x, x).sum(axis=1)
    assert [a.shape for a in device] == [(40, 3)]


def test_repeated_entries_are_not_copied(device):
    x, y = clouds()
    with config(engine="cuda"):
        sums = (distances(x, y) * np.broadcast_to(np.float32(2), (40, 30))).sum(axis=1)
    assert max(a.size for a in device) == 120
    np.testing.assert_allclose(sums, 2 * dense(x, y).sum(1), rtol=1e-5)


def test_strided_and_reversed_arrays_are_copied_in_order(device):
    x, y = clouds()
    with config(engine="cuda"):
        sums = distances(x[::-2], np.asfortranarray(y)).sum(axis=1)
    np.testing.assert_allclose(sums, dense(x[::-2], y).sum(1), rtol=1e-5)


def test_block_arrays_are_merged_there(device):
    x, y = clouds()
    with config(engine="cuda"):
        both = np.concatenate([distances(x, y), distances(x, x)], axis=1)
        place = both.argmin(axis=1)
    whole = np.concatenate([dense(x, y), dense(x, x)], axis=1)
    np.testing.assert_array_equal(place, whole.argmin(1))


def test_small_work_stays_on_the_cpu(device):
    x, y = clouds()
    distances(x, y).sum(axis=1)
    assert not device


def test_large_work_goes_to_the_device(device, monkeypatch):
    x, y = clouds()
    distances(x, y).sum(axis=1)  # whose launch on the CPU is known now
    monkeypatch.setattr(offload, "LEAST_SECONDS", 0)
    monkeypatch.setattr(offload, "cpu_seconds", lambda *a: 1.0)
    x, y = clouds(41, 31)
    distances(x, y).sum(axis=1)
    assert device
    device.clear()
    with config(offload=False):
        distances(x, y).sum(axis=1)
    with config(engine="cpu"):
        distances(x, y).sum(axis=1)
    assert not device


def test_a_driver_is_asked_for_large_work_only(device, monkeypatch):
    monkeypatch.setattr(offload, "cpu_seconds", lambda *a: 1.0)
    asked = []
    monkeypatch.setattr(offload, "has_driver", lambda: bool(asked.append(1)))
    monkeypatch.setattr(offload, "is_usable", lambda: pytest.fail("CuPy was asked"))
    x, y = clouds(42, 32)
    distances(x, y).sum(axis=1)
    assert asked and not device


def test_gradients_of_tensors_are_computed_there(device):
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(a).requires_grad_() for a in clouds())

    def loss(x, y):
        d = ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)
        return (-d).exp().sum(1).square().sum()

    want = torch.autograd.grad(loss(x, y), (x, y))
    with config(engine="cuda"):
        value = loss(x, y)
        copies = len(device)
        got = torch.autograd.grad(value, (x, y))
    assert value.device.type == "cpu" and len(device) > copies > 0
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def test_the_engine_of_the_cpu_refuses_arrays_on_a_device(device):
    x, y = (a.view(OnDevice) for a in clouds())
    lazy = ((LazyArray(x[:, None]) - LazyArray(y[None])) ** 2).sum(-1)
    with config(engine="cpu"), pytest.raises(UnsupportedError, match="the inputs are on CUDA"):
        lazy.sum(axis=1)


# -- without a device ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, named", [({"engine": "cuda"}, "engine='cuda'"), ({"offload": True}, "offload=True")]
)
def test_what_insists_on_a_device_says_so(monkeypatch, setting, named):
    monkeypatch.setattr(offload.cuda, "is_available", lambda: False)
    monkeypatch.setattr(offload.cuda, "cupy", lambda: None)
    monkeypatch.setattr(offload, "_process", 0)
    x, y = clouds()
    with config(**setting), pytest.raises(UnsupportedError, match="there is none") as error:
        distances(x, y).sum(axis=1)
    assert named in str(error.value) and "doctor" in str(error.value)


def test_without_cupy_the_message_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError("No module named 'cupy'")

    offload.cuda.cupy.cache_clear()
    monkeypatch.setattr(offload.cuda.importlib, "import_module", missing)
    x, y = clouds()
    with config(engine="cuda"), pytest.raises(UnsupportedError, match="pip install"):
        distances(x, y).sum(axis=1)


def test_a_forked_process_does_not_use_the_device(monkeypatch):
    monkeypatch.setattr(offload, "_process", os.getpid() + 1)
    monkeypatch.setattr(offload.cuda, "cupy", lambda: None)
    monkeypatch.setattr(offload.cuda, "is_available", lambda: pytest.fail("the device was asked"))
    assert not offload.is_usable()
    with pytest.raises(UnsupportedError, match="forked"):
        offload.require("config(engine='cuda')")


@pytest.mark.parametrize("shown", ["", "-1", " "])
def test_hidden_devices_are_none(monkeypatch, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setattr(offload, "_has_library", lambda: True)
    assert not offload.has_driver()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert offload.has_driver()


def test_nothing_is_imported_to_find_out_that_there_is_no_device(monkeypatch):
    monkeypatch.setattr(offload, "_has_library", lambda: False)
    monkeypatch.setattr(offload, "cpu_seconds", lambda *a: 1e3)
    monkeypatch.setattr(offload.cuda, "cupy", lambda: pytest.fail("CuPy was imported"))
    x, y = clouds(43, 33)
    with contextlib.suppress(duckkeops.errors.CompilerNotFoundError):
        distances(x, y).sum(axis=1)


def test_kernels_of_devices_count_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUCKKEOPS_CACHE_DIR", str(tmp_path))
    for name in ("-sm90-13000.cubin", ".cu"):
        cache.file(cache.digest("text") + name, lambda part: part.write_bytes(b"code"))
    assert {f.kind for f in cache.inventory(tmp_path)} == {"cubin", "cu"}
