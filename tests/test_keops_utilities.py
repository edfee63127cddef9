"""KeOps's functions beside its reductions: dense ones, folders, settings, checks."""

import importlib
import logging
import os

import numpy as np
import pytest
import torch

from duckkeops import cache, keops
from duckkeops.keops import common, config, health, keopscore
from duckkeops.keops.common import gpu_utils, utils
from duckkeops.keops.dense import RADIAL
from duckkeops.keops.numpy import utils as of_numpy
from duckkeops.keops.torch import utils as of_torch

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(7, 3)), RNG.normal(size=(5, 3))
SQUARES = ((X[:, None] - Y) ** 2).sum(-1)
S = 0.7
VALUES = {
    "gaussian": np.exp(-SQUARES / S**2),
    "laplacian": np.exp(-np.sqrt(SQUARES) / S),
    "cauchy": 1 / (1 + SQUARES / S**2),
    "inverse_multiquadric": (1 + SQUARES / S**2) ** -0.5,
}
each_kernel = pytest.mark.parametrize("kernel", VALUES)


@pytest.fixture
def peer(monkeypatch):
    """pykeops's utilities."""
    monkeypatch.setenv("PYKEOPS_VERBOSE", "0")
    pytest.importorskip("pykeops")
    return importlib.import_module("pykeops.numpy.utils")


# -- dense functions


def test_squared_distances():
    np.testing.assert_allclose(of_numpy.squared_distances(X, Y), SQUARES, rtol=1e-14)
    x, y = torch.tensor(X, requires_grad=True), torch.tensor(Y)
    np.testing.assert_allclose(of_torch.squared_distances(x, y).detach(), SQUARES, rtol=1e-14)
    assert torch.autograd.gradcheck(of_torch.squared_distances, (x, y))
    assert of_numpy.squared_distances(X[:0], Y).shape == (0, 5)
    assert of_numpy.squared_distances(X[:, :0], Y[:, :0]).tolist() == np.zeros((7, 5)).tolist()


def test_squared_distances_of_far_points_keep_their_digits():
    """KeOps's are negative here: sums of squares, less products."""
    x = (X[:, :1] + 1e8).astype(np.float64)
    gaps = of_numpy.squared_distances(x, x)
    np.testing.assert_array_equal(gaps, (x - x.T) ** 2)
    assert (gaps >= 0).all()


@each_kernel
def test_kernels(kernel):
    np.testing.assert_allclose(of_numpy.np_kernel(X, Y, S, kernel), VALUES[kernel], rtol=1e-13)
    np.testing.assert_allclose(
        of_numpy.log_np_kernel(X, Y, S, kernel), np.log(VALUES[kernel]), rtol=1e-12
    )
    found = of_torch.torch_kernel(torch.tensor(X), torch.tensor(Y), S, kernel)
    np.testing.assert_allclose(found, VALUES[kernel], rtol=1e-13)


@each_kernel
def test_slopes_and_their_gradients(kernel):
    """Beside torch's derivatives of the dense formula."""
    q, p = RNG.normal(size=(7, 2)), RNG.normal(size=(5, 2))
    x = torch.tensor(X, requires_grad=True)
    squares = ((x[:, None] - torch.tensor(Y)) ** 2).sum(-1)
    squares.retain_grad()
    value = {
        "gaussian": lambda t: torch.exp(-t),
        "laplacian": lambda t: torch.exp(-t.sqrt()),
        "cauchy": lambda t: 1 / (1 + t),
        "inverse_multiquadric": lambda t: (1 + t) ** -0.5,
    }[kernel](squares / S**2)
    (value * torch.tensor(q @ p.T)).sum().backward()
    slope = of_numpy.grad_np_kernel(X, Y, S, kernel)
    np.testing.assert_allclose(slope * (q @ p.T), squares.grad, rtol=1e-12)
    np.testing.assert_allclose(of_numpy.chain_rules(q, X, Y, slope, p), x.grad, rtol=1e-11)


@each_kernel
def test_kernels_are_those_of_pykeops(kernel, peer):
    for name in ("np_kernel", "log_np_kernel", "grad_np_kernel"):
        ours, theirs = (getattr(m, name)(X, Y, S, kernel) for m in (of_numpy, peer))
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, err_msg=name)
    slope, q, p = peer.grad_np_kernel(X, Y, S, kernel), RNG.random((7, 2)), RNG.random((5, 2))
    theirs = peer.chain_rules(q, X, Y, slope, p)  # in float32
    np.testing.assert_allclose(of_numpy.chain_rules(q, X, Y, slope, p), theirs, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "value"),
    [
        ("linear", lambda p: p),
        ("binet", lambda p: p * p),
        ("gaussian_oriented", lambda p: np.exp(-2 * (1 - p) / S**2)),
        ("gaussian_unoriented", lambda p: np.exp(-2 * (1 - p * p) / S**2)),
    ],
)
def test_kernels_of_the_sphere(kernel, value):
    a, b = X / np.linalg.norm(X, axis=1)[:, None], Y / np.linalg.norm(Y, axis=1)[:, None]
    found = of_numpy.np_kernel_sphere(a, b, S, kernel)
    np.testing.assert_allclose(found, value(np.einsum("id,jd->ij", a, b)), rtol=1e-12)


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match=f"kernel='cubic' is none of {', '.join(RADIAL)}"):
        of_numpy.np_kernel(X, Y, S, "cubic")
    with pytest.raises(ValueError, match="kernel='cubic' is none of linear"):
        of_numpy.np_kernel_sphere(X, Y, S, "cubic")


def test_differences_and_log_sum_exp(peer):
    found = of_numpy.differences(X, Y)
    np.testing.assert_array_equal(found, np.moveaxis(X[:, None] - Y, -1, 0))
    np.testing.assert_array_equal(found, peer.differences(X, Y))
    for axis in (0, 1):
        wanted = np.log(np.exp(X).sum(axis))
        np.testing.assert_allclose(of_numpy.log_sum_exp(X, axis), wanted, rtol=1e-13)
        np.testing.assert_allclose(peer.log_sum_exp(X, axis), wanted, rtol=1e-13)
    assert of_numpy.log_sum_exp(np.full((3, 2), -np.inf)).tolist() == [-np.inf, -np.inf]


# -- tools


@pytest.mark.parametrize("library", ["numpy", "torch", "pytorch"])
def test_tools(library):
    tools = utils.get_tools(library)
    make = np.array if library == "numpy" else torch.tensor
    x = make([[3.0, 4.0], [0.0, 1.0]])
    assert tools.is_tensor(x) and not tools.is_tensor([1.0])
    assert isinstance(x, tools.arraytype)
    assert float(tools.norm(x[0])) == 5.0
    assert float(tools.arraysum(x)) == 8.0
    assert tools.arraysum(x, 0).tolist() == [3.0, 5.0]
    assert tools.transpose(x).tolist() == [[3.0, 0.0], [4.0, 1.0]]
    assert tools.permute(x, 1, 0).tolist() == [[3.0, 0.0], [4.0, 1.0]]
    assert tools.contiguous(x).tolist() == tools.copy(x).tolist() == x.tolist()
    assert tools.numpy(x).tolist() == x.tolist()
    assert tools.solve(x, x).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert tools.view(x, (4,)).tolist() == [3.0, 4.0, 0.0, 1.0]
    assert tools.tile(x, (2, 1)).shape == (4, 2)
    assert tools.size(x) == 4
    assert tools.long(x).tolist() == [[3, 4], [0, 1]]
    assert tools.eq(x, x).all()
    np.testing.assert_allclose(tools.log(tools.exp(x)), x, rtol=1e-14)
    assert tools.dtypename(tools.dtype(x)) == str(x.dtype).removeprefix("torch.")
    assert str(tools.device(x)) == "cpu"
    pairs = tools.view_as_complex(x)
    assert pairs.tolist() == [[3 + 4j], [1j]]
    assert tools.view_as_real(pairs).tolist() == x.tolist()
    assert tools.detect_complex(pairs) and not tools.detect_complex(x)
    assert tools.detect_complex([1.0, 2j]) and not tools.detect_complex(3.0)
    for made in (tools.rand, tools.randn):
        assert tuple(made(2, 3, x.dtype, None).shape) == (2, 3)
    assert tools.zeros((2, 3), x.dtype, None).tolist() == [[0.0] * 3] * 2
    assert tuple(tools.empty((2, 3), x.dtype, None).shape) == (2, 3)
    assert tools.eye(2, x.dtype, None).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert str(tools.array([1.0], "float32", None).dtype).endswith("float32")
    assert tools.swap_axes((1, 2, 3, 4, 5, 6)) == (4, 5, 6, 1, 2, 3)
    found = tools.Genred("SqDist(x, y)", ["x = Vi(2)", "y = Vj(2)"], axis=1)(x, x)
    assert found.tolist() == [[18.0], [18.0]]


def test_tools_have_the_names_of_pykeops(peer):
    theirs = importlib.import_module("pykeops.torch.utils")
    unused = {"get_pointer", "pointer", "device_type_index", "device_dict"}  # of its own kernels
    for ours, other in ((of_numpy.numpytools, peer.numpytools), (of_torch.torchtools, None)):
        names = {n for n in vars(other or theirs.torchtools) if not n.startswith("_")}
        assert names - set(vars(ours)) - unused == set()
    assert not of_torch.is_on_device(torch.ones(1))


def test_axes_and_categories():
    assert [utils.axis2cat(a) for a in (0, 1)] == [utils.cat2axis(a) for a in (0, 1)] == [1, 0]
    for function in (utils.axis2cat, utils.cat2axis):
        with pytest.raises(ValueError, match="got 2"):
            function(2)
    with pytest.raises(ValueError, match="'numpy' or 'torch', and got 'jax'"):
        utils.get_tools("jax")


def test_messages_are_logged(caplog, capsys):
    with caplog.at_level(logging.INFO, "duckkeops"):
        utils.pyKeOps_Message("one", use_tag=False)
        utils.pyKeOps_Print("two", end="")
        utils.pyKeOps_Warning("three")
    assert [(r.levelname, r.message) for r in caplog.records] == [
        *(("INFO", "one"), ("INFO", "two"), ("WARNING", "three"))
    ]
    assert capsys.readouterr().out == ""


# -- folders


@pytest.fixture
def folder(monkeypatch):
    """The environment variable of the folder, as it was when the test is over."""
    monkeypatch.setenv("DUCKKEOPS_CACHE_DIR", os.environ.get("DUCKKEOPS_CACHE_DIR", ""))
    yield os.environ["DUCKKEOPS_CACHE_DIR"]
    keops.set_build_folder()


@pytest.mark.parametrize(
    ("set_folder", "get_folder"),
    [
        (keops.set_build_folder, keops.get_build_folder),
        (keopscore.set_build_folder, keopscore.get_build_folder),
        (
            keopscore.config.config.set_different_build_folder,
            keopscore.config.config.get_build_folder,
        ),
    ],
)
def test_build_folder(folder, tmp_path, set_folder, get_folder):
    before = get_folder()
    assert before == str(cache.wanted_folder())
    set_folder(tmp_path / "a" / "b")
    assert get_folder() == str(tmp_path / "a" / "b") == str(cache.wanted_folder())
    cache.text("one.c", lambda p: p.write_text("int x;"))
    assert (tmp_path / "a" / "b" / "duckkeops-one.c").exists()
    set_folder(str(tmp_path / "c"))
    set_folder()
    assert get_folder() == before
    set_folder()  # once more is the same
    assert get_folder() == before


def test_clean_removes_our_files_alone(folder, tmp_path):
    keops.set_build_folder(tmp_path)
    name = cache.digest("x") + ".c"
    cache.text(name, lambda p: p.write_text("int x;"))
    (tmp_path / "mine.c").write_text("")
    assert (tmp_path / f"duckkeops-{name}").exists()
    keops.clean_pykeops(recompile_jit_binaries=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.c"]
    keopscore.clean_keops(recompile_jit_binary=True)
    found = keops.numpy.Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)(X, Y)
    np.testing.assert_allclose(found[:, 0], SQUARES.sum(1), rtol=1e-13)


def test_a_folder_that_cannot_be_made_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        keops.set_build_folder(tmp_path / "file" / "x")
    assert os.environ["DUCKKEOPS_CACHE_DIR"] == folder


# -- settings


def test_verbose(monkeypatch):
    log = logging.getLogger("duckkeops")
    monkeypatch.setattr(keops, "verbose", keops.verbose)
    monkeypatch.setattr(keopscore, "verbose", keopscore.verbose)
    level = log.level
    try:
        for value, wanted in ((False, logging.WARNING), (True, logging.INFO)):
            keops.set_verbose(value)
            assert (keops.verbose, keopscore.verbose, log.level) == (value, value, wanted)
    finally:
        log.setLevel(level)


def test_gpu_is_what_the_engine_sees(monkeypatch):
    seen = keopscore.config.cuda.is_available()
    assert config.gpu_available is seen
    assert (gpu_utils.get_gpu_number() > 0) is seen
    monkeypatch.setattr(keopscore.config.cuda, "is_available", lambda: True)
    assert config.gpu_available is keopscore.config.use_cuda is True
    assert config.pykeops_cuda.get_use_cuda()


def test_settings_of_the_compiler_are_kept():
    try:
        keopscore.config.cuda_config.use_cuda = False
        assert not keopscore.get_cuda_config().get_use_cuda()
        assert config.gpu_available is False
        keopscore.cuda_config.set_cuda_block_size(128)
        assert keopscore.get_cuda_config().get_cuda_block_size() == 128
    finally:
        vars(keopscore.config.cuda_config).clear()
    assert keopscore.cuda_config.get_cuda_block_size() == 192
    assert keopscore.openmp_config.get_use_OpenMP() is True
    assert keopscore.get_openmp_config() is keopscore.openmp_config
    assert keopscore.get_config() is keopscore.config.config
    assert keopscore.get_platform_config().get_os()
    assert keopscore.platform_detector.get_python_version()
    assert keopscore.auto_factorize is False


@pytest.mark.parametrize(
    "place",
    [config, keopscore, keopscore.config, keopscore.config.config, keopscore.cuda_config],
    ids=lambda place: getattr(place, "__name__", type(place).__name__),
)
def test_what_only_their_compiler_has_is_refused(place):
    with pytest.raises(AttributeError, match=r"cpp_flags configures KeOps's own compiler"):
        _ = place.cpp_flags
    assert not hasattr(place, "nvrtc_flags")


def test_version_and_names():
    assert keops.__version__ == keopscore.__version__ == "2.3"
    assert keops.default_device_id == 0
    assert keops.numpy_found and keops.torch_found and config.torch_found
    assert keops.common is common
    with pytest.raises(AttributeError, match=r"'duckkeops\.keops' has no attribute 'jax'"):
        _ = keops.jax
    with pytest.raises(AttributeError, match=r"'duckkeops\.keops\.torch' has no attribute 'jax'"):
        _ = keops.torch.jax


# -- checks


def test_bindings(capsys, monkeypatch):
    keops.test_numpy_bindings()
    keops.test_torch_bindings()
    assert capsys.readouterr().out.splitlines() == [
        f"duckkeops, as pyKeOps with {name} bindings, is working!" for name in ("numpy", "torch")
    ]
    monkeypatch.setattr(health, "SUMS", health.SUMS + 1)
    with pytest.raises(RuntimeError, match=r"a sum of numpy's arrays is .* and should be"):
        keops.test_numpy_bindings()


def test_health_is_the_doctors(monkeypatch):
    asked = []
    monkeypatch.setattr(health, "main", asked.append)
    keops.check_health()
    keopscore.check_health()
    assert asked == [["doctor"], ["doctor"]]
