"""Settings hold inside a block, in one thread, and are checked."""

import threading

import pytest

from duckkeops import config
from duckkeops.config import Settings, current


def test_defaults():
    assert current() == Settings(
        engine="auto", threads=None, precision="float32", accumulate="auto", progress="auto"
    )


def test_a_block_changes_what_it_names():
    with config(engine="blocks", threads=3) as settings:
        assert settings is current()
        assert (settings.engine, settings.threads, settings.precision) == ("blocks", 3, "float32")
        with config(threads=None, precision="exact"):
            assert (current().engine, current().threads, current().precision) == (
                "blocks",
                None,
                "exact",
            )
        assert current() is settings
    assert current() == Settings()


def test_an_error_inside_restores():
    with pytest.raises(ZeroDivisionError), config(threads=1):
        raise ZeroDivisionError
    assert current() == Settings()


def test_a_decorated_function():
    @config(accumulate="float64")
    def accumulate():
        """Says how."""
        return current().accumulate

    assert (accumulate(), accumulate(), accumulate.__doc__) == ("float64", "float64", "Says how.")
    assert current().accumulate == "auto"


def test_one_instance_in_two_threads():
    one, inside, outside = config(threads=2), threading.Event(), []

    def work():
        outside.append(current().threads)
        with one:
            inside.set()
            outside.append(current().threads)

    with one:
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(5)
        thread.join(5)
        assert current().threads == 2
    assert outside == [None, 2]
    assert current().threads is None


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        current().threads = 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"engine": "gpu"},
            ValueError,
            "config(engine='gpu'): engine is one of 'auto', 'cpu', 'cuda', 'blocks'.",
        ),
        (
            {"precision": 32},
            ValueError,
            "config(precision=32): precision is one of 'exact', 'float32', 'tf32', 'half'.",
        ),
        (
            {"accumulate": None},
            ValueError,
            "config(accumulate=None): accumulate is one of 'auto', 'float64', 'compensated'.",
        ),
        (
            {"progress": "yes"},
            ValueError,
            "config(progress='yes'): progress is one of True, False, 'auto'.",
        ),
        (
            {"threads": 0},
            ValueError,
            "config(threads=0): threads is a whole number of at least 1, or None for every core.",
        ),
        (
            {"threads": True},
            ValueError,
            "config(threads=True): threads is a whole number of at least 1, "
            "or None for every core.",
        ),
        (
            {"thread": 1},
            TypeError,
            "config() has no setting 'thread'. "
            "Its settings are engine, threads, precision, accumulate, offload, progress.",
        ),
    ],
)
def test_messages(changes, error, message):
    with pytest.raises(error) as caught:
        config(**changes)
    assert str(caught.value) == message
