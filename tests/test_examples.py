"""Each example runs as a user runs it, prints what it should, and its functions take arrays and
LazyArrays alike.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from duckkeops import LazyArray

EXAMPLES = Path(__file__).parent.parent / "examples"

# What each example prints: one regular expression a line.
OUTPUT = {
    "first_steps": [
        r"nearest neighbours: ndarray \(100000,\) int64",
        r"  as NumPy: True",
        r"kernel product: \(20000, 4\) float64",
        r"  as NumPy: True",
        r"batches: \(7, 3, 200\)",
        r"  as NumPy: True",
        r"mixture: \(7, 3, 300, 10\)",
        r"  as NumPy: True",
    ],
    "color_quantization": [
        r"array +20 iterations, [\d.]+ s",
        r"LazyArray +20 iterations, [\d.]+ s",
        r"same labels: True, for 273280 pixels",
        r"mean square error: 120\.54",
        r"wrote .*picture\.png: 16 colours",
    ],
    "knn_digits": [
        r"k =  1: 98\.\d% of 600 digits right",
        r"k =  5: 9[78]\.\d% of 600 digits right",
        r"k = 25: 9[56]\.\d% of 600 digits right",
    ],
    "kernel_density": [
        r"width 0\.003: log-likelihood -1\.884",
        r"width  0\.01: log-likelihood -1\.010",
        r"width  0\.03: log-likelihood -0\.962",
        r"width   0\.1: log-likelihood -1\.050",
        r"width   0\.3: log-likelihood -1\.642",
        r"best width: 0\.03",
    ],
    "gradient_flow": [
        r"gradient of 500 points in float32: \de-0[67] of that of all pairs in float64",
        r"step  0: energy distance 0\.364\d{3}",
        r"step 20: energy distance 0\.000[89]\d\d",
        r"step 40: energy distance 0\.000[12]\d\d",
        r"step 60: energy distance 0\.000[01]\d\d",
        r"wrote .*flow\.png: 4 steps|no picture: matplotlib is not installed",
    ],
    "gaussian_process": [
        r"3392 known pixels, 13568 hidden ones; root mean square errors:",
        r"the mean            0\.3195",
        r"the nearest pixel   0\.0884",
        r"process, at first   0\.0746",
        r"process, fitted     0\.07[01]\d",
    ],
    "nearest_neighbour_loss": [
        r"min and argmin differ by (0e\+00|\de-09|[1-6]e-08)",
        r"their gradients differ by (0e\+00|\de-0[789])",
        r"step  0: Chamfer distance 0\.02\d{3}",
        r"step 20: Chamfer distance 0\.000\d\d",
        r"step 40: Chamfer distance 0\.000\d\d",
        r"step 60: Chamfer distance 0\.0000\d",
        r"distances to the centre: 0\.500 \+- 0\.00\d, wanted 0\.500",
    ],
}
ARGUMENTS = {"color_quantization": ["picture.png"], "gradient_flow": ["flow.png"]}

TORCH = {path.stem for path in EXAMPLES.glob("*.py") if "import torch" in path.read_text()}

each_example = pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))


def load(name):
    """The example as a module, without running its main()."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_example
def test_prints_its_result(name, tmp_path):
    if name in TORCH:
        pytest.importorskip("torch")
    command = [sys.executable, EXAMPLES / f"{name}.py", *ARGUMENTS.get(name, [])]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(OUTPUT[name]), run.stdout
    for line, pattern in zip(lines, OUTPUT[name], strict=True):
        assert re.fullmatch(pattern, line)
    if name == "color_quantization":
        picture = np.asarray(Image.open(tmp_path / "picture.png"))
        assert picture.shape == (427, 640, 3)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 16
    if name == "gradient_flow" and lines[-1].startswith("wrote"):
        with Image.open(tmp_path / "flow.png") as picture:
            assert picture.size == (1200, 300)


@each_example
def test_fits_on_a_screen_and_starts_with_its_task(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 80
    assert re.match(r"[A-Z].*[.:]", ast.get_docstring(ast.parse(text)).splitlines()[0])


def test_first_steps_on_arrays_and_lazy_arrays():
    steps, rng = load("first_steps"), np.random.default_rng(1)
    x, y, b = rng.random((30, 3)), rng.random((40, 3)), rng.random((40, 2))
    np.testing.assert_array_equal(steps.nearest(LazyArray(x), LazyArray(y)), steps.nearest(x, y))
    expected = steps.laplacian_product(x, y, b)
    np.testing.assert_allclose(
        steps.laplacian_product(LazyArray(x), LazyArray(y), b), expected, rtol=1e-12
    )


def test_estimator_on_arrays_and_lazy_arrays():
    points = np.random.default_rng(1).random((500, 3))
    estimator = load("color_quantization").KMeans(n_clusters=7)
    dense = estimator.fit_predict(points)
    assert len(np.unique(dense)) == 7
    np.testing.assert_array_equal(estimator.fit_predict(LazyArray(points)), dense)
    np.testing.assert_array_equal(estimator.predict(points), dense)


def test_classifier_on_arrays_and_lazy_arrays():
    classify, rng = load("knn_digits").classify, np.random.default_rng(1)
    x, y, labels = rng.random((50, 8)), rng.random((60, 8)), rng.integers(0, 10, 60)
    for k in (1, 4):
        expected = classify(x, y, labels, k)
        np.testing.assert_array_equal(classify(LazyArray(x), LazyArray(y), labels, k), expected)


def test_density_on_arrays_and_lazy_arrays():
    example, rng = load("kernel_density"), np.random.default_rng(1)
    x, y = example.ring(50, rng), example.ring(60, rng)
    for width in (0.003, 0.1):
        expected = example.log_density(x, y, width)
        np.testing.assert_allclose(
            example.log_density(LazyArray(x), LazyArray(y), width), expected, rtol=1e-10
        )


def test_chamfer_distance_of_tensors_and_lazy_arrays():
    torch = pytest.importorskip("torch")
    chamfer = load("nearest_neighbour_loss").chamfer
    x = torch.rand(50, 3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(60, 3, dtype=torch.float64, requires_grad=True)
    lazy, dense = chamfer(LazyArray(x), y), chamfer(x, y)
    torch.testing.assert_close(lazy, dense, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(loss, [x, y]) for loss in (lazy, dense))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_energy_distance_of_tensors_and_lazy_arrays(monkeypatch):
    torch = pytest.importorskip("torch")
    example = load("gradient_flow")
    x, y = (torch.rand(n, 2, dtype=torch.float64) for n in (50, 60))
    energy, gradient = example.energy(LazyArray, x, y), example.gradient(LazyArray, x, y)
    assert example.energy(LazyArray, x, x).abs() < 1e-12

    def mean_distance(x, y):  # torch.cdist of tensors gives 1e-8 where points meet
        return (x[:, None, :] - y[None, :, :]).norm(dim=-1).mean()

    monkeypatch.setattr(example, "mean_distance", mean_distance)
    expected = example.energy(torch.clone, x, y), example.gradient(torch.clone, x, y)
    torch.testing.assert_close((energy, gradient), expected, rtol=1e-9, atol=1e-14)


def test_gradient_of_the_likelihood():
    """With probes so many that the trace is exact, that of the likelihood as torch has it."""
    torch = pytest.importorskip("torch")
    example, n = load("gaussian_process"), 40
    x, v = torch.rand(n, 2, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    start = {"lengths": [-1.0, -0.5], "variance": -0.3, "noise": -1.0}
    p = {k: torch.tensor(a, dtype=torch.float64, requires_grad=True) for k, a in start.items()}
    eye = torch.eye(n, dtype=torch.float64)
    probes = n**0.5 * eye
    got = torch.autograd.grad(example.loss(LazyArray, x, v, p, probes, 1e-12), p.values())

    gap = (x[:, None] - x[None]) / torch.exp(p["lengths"])
    K = torch.exp(p["variance"] - gap.norm(dim=-1)) + torch.exp(p["noise"]) * eye
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(v), K)
    expected = torch.autograd.grad(-normal.log_prob(v) / n, p.values())
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)
