"""The files keep to the path of one expression:
imports run downwards, and C text is made in two places only.
"""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "duckkeops"

# In the order in which an expression meets them; each imports only from those below it.
ORDER = (
    "keops/pytest_plugin",
    "keops/health",
    "__main__",
    "doctor",
    "keops/torch/utils",
    "keops/torch/operations",
    "keops/torch/cluster",
    "keops/torch/__init__",
    "keops/numpy/utils",
    "keops/numpy/operations",
    "keops/numpy/cluster",
    "keops/numpy/__init__",
    "keops/config",
    "keops/keopscore/__init__",
    "keops/keopscore/config",
    "keops/common/utils",
    "keops/common/gpu_utils",
    "keops/common/__init__",
    "keops/dense",
    "keops/clusters",
    "keops/genred",
    "keops/lazytensor",
    "keops/reducing",
    "keops/parsing",
    "keops/libraries",
    "keops/formulas",
    "keops/__init__",
    "keops/installing",
    "keops/counting",
    "keops/building",
    "__init__",
    "linalg",
    "torch_solve",
    "selection",
    "array_api/__init__",
    "array_api/linalg",
    "array_api/fft",
    "array_api/special",
    "array_api/functions",
    "array_api/arrays",
    "torch_compile",
    "torch_array",
    "array",
    "torch_functions",
    "torch_table",
    "torch_products",
    "torch_statistics",
    "torch_shapes",
    "torch_elementwise",
    "torch_rules",
    "torch_grad",
    "torch_passes",
    "numpy_functions",
    "numpy_table",
    "metadata",
    "flat",
    "quantiles",
    "lookups",
    "elementwise",
    "covariances",
    "running",
    "gathers",
    "contractions",
    "sorting",
    "histograms",
    "statistics",
    "shapes",
    "indexing",
    "recording",
    "genuine",
    "explain",
    "joint",
    "evaluate",
    "batching",
    "concatenation",
    "offload",
    "launch_cuda",
    "launch",
    "engines/__init__",
    "engines/cpu",
    "engines/cuda",
    "engines/threads",
    "engines/compilers",
    "engines/blocks",
    "engines/programs",
    "engines/tiles",
    "generate",
    "plan",
    "source",
    "cache",
    "latex",
    "prelude",
    "limits",
    "scaling",
    "writer",
    "printer",
    "lower",
    "symbolic",
    "tidy",
    "functions",
    "importing",
    "display",
    "pickling",
    "restriction",
    "tensors",
    "rewrite",
    "gradients",
    "reductions",
    "ops",
    "operands",
    "views",
    "expr",
    "progress",
    "config",
    "errors",
)
# May be imported when first needed, since they need SymPy:
DEFERRED = {
    "generate",
    "source",
    "latex",
    "prelude",
    "limits",
    "scaling",
    "writer",
    "printer",
    "lower",
    "symbolic",
    "tidy",
    "functions",
    "engines/programs",
    # and these torch:
    "torch_array",
    "torch_functions",
    "torch_table",
    "torch_products",
    "torch_statistics",
    "torch_shapes",
    "torch_elementwise",
    "torch_rules",
    "torch_grad",
    "torch_passes",
    "torch_solve",
    "torch_compile",
    "keops/torch/cluster",
    "keops/torch/utils",
    "keops/torch/__init__",  # which its user asks for by name
}
# torch.compile traces import statements, and no import_module; only then are these run.
UPWARDS = {("array", "torch_compile"), ("torch_array", "torch_compile")}
HEAVY = {"sympy", "torch", "cupy", "scipy", "dask", "array_api_compat", "tqdm"}
WRITES_C = {"prelude", "writer", "source"}
C_TEXT = re.compile(
    r"#\s*(include|define|if|ifdef|ifndef|endif|line)\b|\b(static|typedef|inline|__attribute__)\b.*[;({]|;\s*(\n|$)|\{\s*\n"
)

each_file = pytest.mark.parametrize("name", ORDER)


@functools.cache
def tree(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text())


def imported(node, name):
    """The dotted names that one import statement of file `name` brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = ["duckkeops", *name.split("/")[:-1]]
    base = [*package[: len(package) + 1 - node.level]] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    return [f"{module}.{alias.name}" for alias in node.names]


def imports(name):
    """(dotted name, is it at the top of the file?) for every import of a file."""
    top = set(tree(name).body)
    return [
        (dotted, node in top) for node in ast.walk(tree(name)) for dotted in imported(node, name)
    ]


def own(dotted):
    """The file of ours that a dotted name comes from, or None."""
    if dotted.split(".")[0] != "duckkeops":
        return None
    parts = dotted.split(".")[1:]
    for n in range(len(parts), 0, -1):
        for name in ("/".join(parts[:n]), "/".join([*parts[:n], "__init__"])):
            if (PACKAGE / f"{name}.py").exists():
                return name
    return "__init__"


def test_every_file_has_its_place():
    files = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
    assert files == set(ORDER)


@each_file
def test_imports_run_downwards(name):
    below = ORDER[ORDER.index(name) + 1 :]
    ours = [own(dotted) for dotted, _ in imports(name)]
    wrong = [other for other in ours if other is not None and other not in below]
    assert [other for other in wrong if (name, other) not in UPWARDS] == []


@each_file
def test_only_what_needs_sympy_is_imported_late(name):
    late = {own(dotted) for dotted, top in imports(name) if not top}
    assert late - {None} <= DEFERRED


@each_file
def test_heavy_libraries_are_imported_late(name):
    top = {dotted.split(".")[0] for dotted, top in imports(name) if top}
    if name not in DEFERRED:
        assert top & HEAVY == set()


def test_every_library_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [
        r for rs in project["optional-dependencies"].values() for r in rs
    ]
    declared = {re.match(r"[\w-]+", r).group().replace("-", "_") for r in requirements} | {
        "duckkeops"
    }
    declared |= {"cupy"} if any(r.startswith("cupy") for r in declared) else set()
    libraries = {dotted.split(".")[0] for name in ORDER for dotted, _ in imports(name)}
    assert libraries - set(sys.stdlib_module_names) <= declared


def fresh(code, **environment):
    """What `code` prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    ).stdout


def test_import_loads_no_heavy_library():
    loaded = fresh("import sys, duckkeops; print(*sys.modules)").split()
    assert HEAVY & set(loaded) == set()


def test_import_is_quick(tmp_path):
    code = (
        "import time, numpy; start = time.process_time(); "
        "import duckkeops; print(time.process_time() - start)"
    )
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    fresh(code, **bytecode)  # writes it
    times = [float(fresh(code, **bytecode)) for _ in range(5)]
    assert min(times) < 0.15  # seconds beyond NumPy's own


def texts(name):
    """The string constants of a file that are not docstrings."""
    bare = {id(node.value) for node in ast.walk(tree(name)) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
    ]


@each_file
def test_c_text_is_made_by_printer_and_source_only(name):
    found = [text for text in texts(name) if C_TEXT.search(text)]
    assert bool(found) == (name in WRITES_C), found
