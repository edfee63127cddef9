"""`import pykeops` finds us: in processes of their own, since sys.modules matters."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN = ("-p", "duckkeops.keops.pytest_plugin")
# Whatever KeOps's tests, tutorials, examples and benchmarks, and the libraries that use it, import.
NAMES = {
    "pykeops": "set_verbose verbose clean_pykeops get_build_folder set_build_folder check_health "
    "test_numpy_bindings test_torch_bindings default_device_id numpy_found torch_found __version__",
    "pykeops.config": "gpu_available numpy_found torch_found get_build_folder pykeops_base",
    "pykeops.common.gpu_utils": "get_gpu_number",
    "pykeops.common.utils": "axis2cat cat2axis get_tools pyKeOps_Message pyKeOps_Warning",
    "pykeops.common.lazy_tensor": "GenericLazyTensor ComplexGenericLazyTensor",
    "pykeops.numpy": "LazyTensor ComplexLazyTensor Vi Vj Pm Genred KernelSolve generic_sum "
    "generic_logsumexp generic_argmin generic_argkmin",
    "pykeops.numpy.utils": "squared_distances differences np_kernel log_np_kernel grad_np_kernel "
    "np_kernel_sphere chain_rules log_sum_exp WarmUpGpu numpytools",
    "pykeops.torch.utils": "squared_distances torch_kernel is_on_device torchtools",
    **{
        f"pykeops.{library}.{module}": names
        for library in ("numpy", "torch")
        for module, names in {
            "cluster": "grid_cluster from_matrix sort_clusters cluster_ranges cluster_centroids "
            "cluster_ranges_centroids swap_axes",
            "cluster.grid_cluster": "grid_cluster",
            "cluster.matrix": "from_matrix",
            "cluster.utils": "sort_clusters cluster_ranges swap_axes",
            "lazytensor.LazyTensor": "LazyTensor Var Vi Vj Pm",
            "generic.generic_red": "Genred",
            "generic.generic_ops": "generic_sum generic_argkmin",
            "operations": "KernelSolve",
            "test_install": f"test_{library}_bindings",
        }.items()
    },
    "keopscore": "auto_factorize debug_ops debug_ops_at_exec verbose clean_keops set_build_folder "
    "get_cuda_config config __version__ cuda_block_size check_health",
    "keopscore.config": "use_cuda config cuda_config openmp_config get_build_folder",
    "keopscore.config.config": "use_cuda",
}
NAMES["pykeops.torch"] = NAMES["pykeops.numpy"]


def fresh(code, *path, **environment):
    """What `code` prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)]),
            **environment,
        },
    )


def printed(code, *path, **environment):
    done = fresh(code, *path, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def real(tmp_path):
    """A folder with a package pykeops that is not ours, and a library that uses it."""
    for name in ("pykeops", "keopscore"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("__version__ = '1.5'\nclass Old: pass\n")
    (tmp_path / "user.py").write_text("from pykeops import Old\n")
    return tmp_path


def test_every_path_is_found():
    code = f"""
        import importlib, duckkeops.keops
        duckkeops.keops.install()
        for module, names in {NAMES!r}.items():
            found = importlib.import_module(module)
            for name in names.split():
                exec(f"from {{module}} import {{name}}")
                getattr(found, name)
        import pykeops.torch, pykeops.numpy.cluster, keopscore.config.config
        import pykeops.torch.lazytensor.LazyTensor as place
        assert callable(pykeops.numpy.cluster.grid_cluster)
        assert pykeops is duckkeops.keops and pykeops.torch is duckkeops.keops.torch
        assert place.Var is duckkeops.keops.torch.Var
        assert pykeops.torch.operations.KernelSolve is pykeops.torch.KernelSolve
    """
    assert printed(code) == ""


def test_paths_are_those_of_the_package():
    """What `import duckkeops.keops as pykeops` has to offer, without install()."""
    code = """
        import duckkeops.keops as pykeops
        x = pykeops.numpy.Vi(pykeops.numpy.utils.np.ones((3, 2)))
        pykeops.numpy.cluster.grid_cluster, pykeops.torch.utils.torchtools
        pykeops.torch.operations.KernelSolve, pykeops.config.gpu_available, pykeops.keopscore
        import sys
        print("pykeops" in sys.modules)
    """
    assert printed(code) == "False"


def test_names_are_found_without_importing_their_modules():
    """`import pykeops` is enough for pykeops.torch, as there."""
    code = """
        import duckkeops.keops, sys
        duckkeops.keops.install()
        import pykeops
        print("torch" in sys.modules, "duckkeops.keops.numpy" in sys.modules)
        pykeops.torch.LazyTensor, pykeops.torch.cluster.from_matrix, pykeops.config
    """
    assert printed(code) == "False False"


def test_what_libraries_ask_of_the_distribution():
    code = """
        import importlib.metadata, importlib.util, duckkeops.keops
        duckkeops.keops.install()
        import pykeops
        spec = importlib.util.find_spec
        print(pykeops.__version__, importlib.metadata.version("pykeops"), end=" ")
        print(importlib.metadata.version("keopscore"), spec("pykeops") is not None, end=" ")
        print(spec("pykeops.torch") is not None, importlib.metadata.version("numpy") != "2.3")
    """
    assert printed(code) == "2.3 2.3 2.3 True True True"


@pytest.mark.parametrize("name", ["pykeops.tensorflow", "keopscore.formulas", "pykeops.lazytensor"])
def test_other_modules_are_refused(name):
    """Even one that we have under this name, which would be read twice."""
    done = fresh(f"import duckkeops.keops; duckkeops.keops.install(); import {name}")
    assert f"duckkeops stands in for KeOps, and has no {name}" in done.stderr


def test_uninstall_brings_back_the_other_one(real):
    code = """
        import sys, duckkeops.keops
        duckkeops.keops.install()
        duckkeops.keops.install()
        import pykeops.numpy
        duckkeops.keops.uninstall()
        duckkeops.keops.uninstall()
        print([name for name in sys.modules if name.startswith(("pykeops", "keopscore"))], end=" ")
        import pykeops
        print(pykeops.__version__)
    """
    assert printed(code, real) == "[] 1.5"


def test_it_refuses_to_replace_pykeops(real):
    done = fresh("import user, duckkeops.keops; duckkeops.keops.install()", real)
    assert f"ImportError: pykeops 1.5 of {real / 'pykeops'} has been imported" in done.stderr
    assert "install(force=True)" in done.stderr
    code = """
        import pykeops, sys, duckkeops.keops
        try:
            duckkeops.keops.install()
        except ImportError:
            print(sys.modules["pykeops"] is pykeops and pykeops.__version__)
    """
    assert printed(code, real) == "1.5"


def test_force_replaces_it_and_says_so(real):
    code = """
        import user, pykeops as old, sys, warnings, duckkeops.keops
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always")
            duckkeops.keops.install(force=True)
        print(met[0].message)
        import pykeops
        print(pykeops is duckkeops.keops)
        duckkeops.keops.uninstall()
        import pykeops
        print(pykeops is old)
    """
    message, holders, *then = printed(code, real).splitlines()
    assert message == f"duckkeops.keops replaces pykeops 1.5 of {real / 'pykeops'}."
    assert holders.endswith("in __main__, user.")
    assert then == ["True", "True"]


def test_calls_are_counted():
    code = """
        import numpy as np, duckkeops.keops
        duckkeops.keops.install()
        import pykeops
        from pykeops.numpy import Genred, LazyTensor, Vi, Vj
        x, y, b = np.ones((4, 3)), np.ones((5, 3)), np.ones((5, 1))
        K = (-Vi(x).sqdist(Vj(y))).exp()
        K @ b, K.sum(1), K.Kmin_argKmin(2, 1), K.logsumexp(0)
        Genred("SqDist(x, y)", ["x = Vi(3)", "y = Vj(3)"], axis=1)(x, y)
        (-Vi(x).sqdist(Vj(x))).exp().solve(b[:4], alpha=1.0)
        K.sum(1, call=False)
        print(sorted(pykeops.calls().items()))
        pykeops.reset_calls()
        print(pykeops.calls())
    """
    assert printed(code).splitlines() == [
        "[('KMin_ArgKMin', 1), ('LogSumExp', 1), ('Solve', 1), ('Sum', 3)]",
        "{}",
    ]


# -- the plugin of pytest


@pytest.fixture
def suite(real):
    """A suite whose conftest.py imports pykeops, beside a pykeops that is not ours."""
    (real / "conftest.py").write_text("import pykeops\npykeops.numpy.LazyTensor\n")
    (real / "test_user.py").write_text(
        "import numpy as np, pytest\n"
        "from pykeops.numpy import Vi, Vj\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_sum(n):\n"
        "    K = Vi(np.ones((5, 3))) | Vj(np.ones((n + 2, 3)))\n"
        "    assert K.sum(1).tolist() == [[3.0 * n + 6]] * 5\n"
        "def test_nothing():\n"
        "    pass\n"
    )
    return real


def run(folder, *options):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "."],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )


def test_plugin(suite):
    done = run(suite, *PLUGIN, "--keops-calls=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duckkeops as pykeops: 4 reductions (4 Sum)" in done.stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_plugin_fails_a_suite_that_does_not_reach_us(suite, workers):
    """The workers' calls are added up, and their conftest.py finds us, too."""
    if workers:
        pytest.importorskip("xdist")
    done = run(suite, *PLUGIN, "--keops-calls=5", *(["-n", str(workers)] if workers else []))
    assert done.returncode == 1
    assert "5 passed" in done.stdout
    assert "duckkeops as pykeops: 4 reductions (4 Sum); --keops-calls=5 asks for" in done.stdout


def test_without_the_plugin_nothing_is_replaced(suite):
    done = run(suite)
    assert done.returncode != 0
    assert "module 'pykeops' has no attribute 'numpy'" in done.stdout + done.stderr


def test_plugin_refuses_a_process_that_has_pykeops(suite):
    (suite / "early.py").write_text("import pykeops\n")
    done = run(suite, "-p", "early", *PLUGIN)
    assert done.returncode != 0
    assert "pykeops 1.5" in done.stdout + done.stderr
