"""Settings of hypothesis for all tests: without a deadline, and under CI the same examples in every
run. Each test draws the same numbers whatever ran before it; DUCKKEOPS_TEST_SEED=1 gives others.
"""

import os
import sys
import zlib

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

ENGINE = os.environ.get("DUCKKEOPS_TEST_ENGINE", "")  # "cuda": arrays on the host, computed there
DEVICE = os.environ.get("DUCKKEOPS_TEST_DEVICE", "")  # "cuda": where torch makes its tensors

# What these tests look at is not there on a device.
OF_THE_CPU = {
    "test_blocks": "of the engine of tiles",
    "test_compilers": "of C compilers",
    "test_cpu": "of compiled C",
    "test_kernels": "of the skeletons in C",
    "test_launch": "of launches of compiled C",
    "test_memory": "of the memory of the host",
    "test_offload": "of a device that is none",
    "test_sanitizers": "of compiled C",
    "test_splits": "of threads",
    "test_threads": "of threads",
    "test_vector": "of the vectors of C",
}


def pytest_configure():
    if DEVICE:
        import torch

        torch.set_default_device(DEVICE)


def pytest_collection_modifyitems(items):
    if not (ENGINE or DEVICE):
        return
    for item in items:
        if why := OF_THE_CPU.get(item.path.stem):
            item.add_marker(pytest.mark.skip(reason=f"{why}, not of devices"))


@pytest.fixture
def quick_compiler(monkeypatch):
    """C that is compiled in half the time, and runs slowly: for tests with hundreds of formulas,
    which are about the formulas. Other tests compile as users do.
    """
    monkeypatch.setenv("DUCKKEOPS_CFLAGS", "-O0")


@pytest.fixture(autouse=True)
def same_numbers(request):
    """Generators of the test's module, and torch's, begin anew for each test."""
    seed = zlib.crc32(request.node.nodeid.encode()) + int(os.environ.get("DUCKKEOPS_TEST_SEED", 0))
    for name in ("rng", "RNG"):
        generator = getattr(request.module, name, None)
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.fixture(autouse=True)
def engine():
    """The settings that a run of the whole suite asks for."""
    if not ENGINE:
        yield
        return
    from duckkeops import config

    with config(engine=ENGINE):
        yield


if "asan" in os.environ.get("LD_PRELOAD", ""):  # so that it sees where scratch memory ends
    from duckkeops.engines import threads

    threads.KEPT_BYTES = 0
