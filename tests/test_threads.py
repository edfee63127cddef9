"""The pool: same bits for any number of threads, many callers, forks, interruptions, exits."""

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from duckkeops import LazyArray, config, evaluate, explain, expr, plan, progress, reductions
from duckkeops.engines import cpu, threads
from duckkeops.reductions import TABLE

needs_compiler = pytest.mark.skipif(not cpu.is_available(), reason="no C compiler on this machine")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")

ROOT = Path(__file__).resolve().parent.parent
rng = np.random.default_rng(0)
X = rng.random((20_000, 3)).astype(np.float32)
GAUSS = """
import atexit, logging, os, signal, sys, threading, time
import numpy as np
from duckkeops import LazyArray, config
logging.getLogger("duckkeops").setLevel(logging.ERROR)  # of long reductions
x = np.random.default_rng(0).random((1_000_000, 3)).astype("f4")
def gauss(x, y):
    return np.exp(-((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)).sum(1)
"""


def gauss(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)).sum(1)


def fresh(code: str, **environment: str) -> str:
    """What the code prints in a process of its own, which must end well and in silence."""
    answer = subprocess.run(
        [sys.executable, "-c", GAUSS + code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    return answer.stdout


@pytest.fixture
def always_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a tiny reduction goes to the pool."""
    monkeypatch.setattr(plan, "INLINE_SECONDS", 1e-12)


# -- results ---------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
@pytest.mark.parametrize("row", TABLE, ids=lambda r: r.name)
def test_results_do_not_depend_on_threads(
    row: reductions.Reduction, axes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = threads._ask
    monkeypatch.setattr(threads, "_ask", lambda job, n: (asked.append(n), ask(job, n)))
    x, y = X[:3000], X[3000:4100]
    node = (((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1) - 0.25)._node
    args = (node, node)[: row.nargs]
    params = {"k": 5, "largest": False} if row.name == "topk" else {}
    if row.name == "histogram":
        edges = np.linspace(0, 1, 8)
        table = reductions.bin_table(edges, edges.dtype, True)
        args, params = (node, expr.Table(table, table.dtype)), {"how": "scale", "bins": 7}
    results = []
    for count in (1, 2, 5):
        with config(engine="cpu", threads=count):
            lazy = reductions.reduce(row, args, axes, **params)
            value = _value(lazy)
            results.append(b"".join(np.ascontiguousarray(v).tobytes() for v in value))
    assert results[0] == results[1] == results[2]
    assert max(asked) >= 1  # others were asked to help


def _value(node: reductions.Reduce) -> tuple:
    value = evaluate.evaluate(node)
    return value if isinstance(value, tuple) else (value,)


@needs_compiler
@pytest.mark.usefixtures("always_shared")
def test_batches_of_columns_are_filled_by_each_thread() -> None:
    x, y = rng.random((5, 300, 3)), rng.random((5, 70, 3))
    D = ((LazyArray(x, batch_ndim=1)[:, :, None] - LazyArray(y, batch_ndim=1)[:, None]) ** 2).sum(
        -1
    )
    dense = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    for count in (1, 2, 5):
        with config(threads=count):
            assert (D.argmin(2) == dense.argmin(2)).all()


@needs_compiler
@pytest.mark.parametrize("rows", [40, 3000])  # inline, and shared
def test_sixteen_callers_at_once(rows: int) -> None:
    x = X[:rows]
    expected = gauss(x, X[:2000])
    wrong: list[object] = []

    def call() -> None:
        for _ in range(10):
            with config(threads=2):
                if not (gauss(x, X[:2000]) == expected).all():
                    wrong.append("other bits")

    def caught() -> None:
        try:
            call()
        except BaseException as error:
            wrong.append(error)

    callers = [threading.Thread(target=caught, daemon=True) for _ in range(16)]
    for c in callers:
        c.start()
    for c in callers:
        c.join(120)
    assert not any(c.is_alive() for c in callers) and wrong == []


@needs_compiler
def test_callers_share_one_pool() -> None:
    code = """
def call():
    with config(threads=3):
        gauss(x[:30_000], x[:30_000])
callers = [threading.Thread(target=call) for _ in range(16)]
for c in callers: c.start()
for c in callers: c.join()
print(sum(t.name == "duckkeops" for t in threading.enumerate()))
"""
    assert 1 <= int(fresh(code)) <= 3


@needs_compiler
@pytest.mark.usefixtures("always_shared")
def test_an_error_of_a_worker_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    main = threading.current_thread()
    began = threading.Event()

    def fail(self: object, *args: object) -> int:
        if threading.current_thread() is main:
            began.wait(10)
            return 0
        began.set()
        raise ZeroDivisionError("in a worker")

    monkeypatch.setattr(threads._Share, "__call__", fail)
    with config(threads=2), pytest.raises(ZeroDivisionError, match="in a worker"):
        gauss(X[:1000], X[:1000])


@needs_compiler
@pytest.mark.usefixtures("always_shared")
def test_callers_do_all_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    expected = gauss(X[:1000], X[:1000])
    threads._forget_workers()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with config(threads=4):
        assert (gauss(X[:1000], X[:1000]) == expected).all()


@needs_compiler
def test_one_large_block_is_left_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calling thread stays free for Ctrl-C where one block would hold it up."""
    monkeypatch.setattr(plan, "SLICE_SECONDS", 1e-9)
    who: list[str] = []
    call = threads._Share.__call__

    def spy(self: threads._Share, *args: int) -> int:
        who.append(threading.current_thread().name)
        return call(self, *args)

    monkeypatch.setattr(threads._Share, "__call__", spy)
    with config(threads=1):
        gauss(X[:100], X)
        gauss(X[:100], X)
    assert "duckkeops" in who


# -- processes -------------------------------------------------------------------------------------


def _right(rows: int) -> bool:
    with config(threads=2):
        got = ((LazyArray(X[:rows])[:, None] - LazyArray(X[:5000])[None]) ** 2).sum(-1).argmin(1)
    return (got[:5000] == np.arange(min(rows, 5000))).all()


@needs_compiler
@needs_fork
def test_a_forked_child_computes() -> None:
    assert _right(5000)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if _right(5000) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _right(5000)


@needs_compiler
@needs_fork
def test_a_fork_while_others_compute() -> None:
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            _right(5000)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for c in callers:
        c.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                os._exit(0 if _right(5000) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for c in callers:
            c.join()


@needs_compiler
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    assert _right(5000)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(_right, [5000, 4000, 3000]).get(120) == [True] * 3


@needs_compiler
def test_joblib_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """joblib shares the cores among its workers, where the user has not said otherwise."""
    joblib = pytest.importorskip("joblib")
    for name in ("OMP_NUM_THREADS", "DUCKKEOPS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert _right(5000)
    work = joblib.Parallel(n_jobs=2, timeout=120)
    assert work(joblib.delayed(_right)(n) for n in (5000, 4000)) == [True, True]
    counts = joblib.Parallel(n_jobs=2, timeout=120)(
        joblib.delayed(threads.thread_count)(None) for _ in range(2)
    )
    assert max(counts) <= max(1, (os.cpu_count() or 1) // 2)  # joblib's own limit is kept


class Rows:
    """A data set whose items are computed by us."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return int(_right(3000 + index))


@needs_compiler
def test_data_loader_workers() -> None:
    torch = pytest.importorskip("torch")
    assert _right(5000)
    loader = torch.utils.data.DataLoader(Rows(), num_workers=2, timeout=120)  # type: ignore[arg-type]
    assert [int(item) for item in loader] == [1] * 4


@needs_compiler
@pytest.mark.parametrize(
    "code",
    [
        "gauss(x[:20_000], x[:20_000])",
        # a daemon thread is at it
        "threading.Thread(target=gauss, args=(x, x), daemon=True).start(); time.sleep(0.3)",
        # workers that were interrupted are at their last slices
        """
def press(): time.sleep(0.3); os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
try:
    gauss(x, x)
except KeyboardInterrupt:
    pass
""",
        "atexit.register(lambda: gauss(x[:20_000], x[:20_000]))",
    ],
    ids=["idle", "daemon", "interrupted", "atexit"],
)
def test_the_interpreter_ends(code: str) -> None:
    fresh(f"with config(threads=3):\n    gauss(x[:9000], x[:9000])\n{code}\n")


# -- Ctrl-C ----------------------------------------------------------------------------------------

INTERRUPT = """
count = 0
def spin():
    global count
    while True:
        count += 1
threading.Thread(target=spin, daemon=True).start()
gauss(x[:1000], x[:1000])
best = 1e9
for attempt in range(3):
    pressed = []
    def press():
        time.sleep(0.4)
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    count = 0
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with config(threads=THREADS):
            gauss(x[:ROWS], x)
        print("not interrupted")
    except KeyboardInterrupt:
        best = min(best, time.perf_counter() - pressed[0])
    counted = count
    thread.join()
    time.sleep(0.3)  # what still runs
    before = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID), time.perf_counter()
    time.sleep(0.2)
    busy = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) - before[0]
    assert busy < 1.3 * (time.perf_counter() - before[1])  # `spin` alone
    assert len(gauss(x[:1000], x[:1000])) == 1000
assert best < 0.3, best
assert counted > 10_000, counted
"""


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("rows", "count"), [(1_000_000, 1), (1_000_000, 2), (200_000, 4)])
def test_ctrl_c_is_prompt_and_another_thread_runs(rows: int, count: int) -> None:
    fresh(INTERRUPT.replace("ROWS", str(rows)).replace("THREADS", str(count)))


INTERRUPTED = """
def on_press(number, frame):
    while frame is not None:
        if frame.f_code is gauss.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back
signal.signal(signal.SIGINT, on_press)
def press():
    for n in range(4):
        time.sleep(0.2 if n == 0 else 0.002)
        os.kill(os.getpid(), signal.SIGINT)
x = x[:100_000]
expected = gauss(x[:200], x)
gauss(x[:20_000], x)
for _ in range(3):
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with config(threads=4):
            gauss(np.repeat(x, 10, 0), x)
        print("not interrupted")
    except KeyboardInterrupt:
        pass
    thread.join()
    # takes the memory that was given back:
    junk = [np.full(400_000, np.nan, "f4") for _ in range(8)]
    assert (gauss(x[:200], x) == expected).all()
print("alive")
"""


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupting_again_and_again_frees_nothing_in_use() -> None:
    assert fresh(INTERRUPTED) == "alive\n"


CUT = """
class Cut:
    def find_spec(self, name, *_):
        if name == "mpmath.functions.zetazeros":  # in the middle of SymPy
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
sys.meta_path.insert(0, Cut())
assert "sympy" not in sys.modules
try:
    gauss(x[:50], x[:50])
    print("not interrupted")
except KeyboardInterrupt:
    pass
d = ((x[:50, None].astype("f8") - x[None, :50]) ** 2).sum(-1)
assert np.allclose(gauss(x[:50], x[:50]), np.exp(-d).sum(1), rtol=1e-5)
assert "sympy" in sys.modules
print("alive")
"""


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupting_the_first_call_leaves_no_half_imported_sympy(tmp_path: Path) -> None:
    assert fresh(CUT, DUCKKEOPS_CACHE_DIR=str(tmp_path)) == "alive\n"


NESTED = """
def again(*_):
    calls.append((gauss(x[:3000], x[:3000]) == expected).all())
calls = []
with config(threads=2):
    expected = gauss(x[:3000], x[:3000])
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    whole = gauss(x[:60_000], x[:60_000])
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert (gauss(x[:60_000], x[:60_000]) == whole).all()
assert len(calls) >= 1 and all(calls), calls
"""


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_signal_handler_may_reduce() -> None:
    fresh(NESTED)


# -- how many --------------------------------------------------------------------------------------


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("DUCKKEOPS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    threads._warn.cache_clear()
    monkeypatch.setattr(threads, "cores", lambda: 6)
    return monkeypatch


@pytest.mark.parametrize(
    ("wanted", "own", "omp", "count"),
    [
        (3, "4", "5", 3),
        (None, "4", "5", 4),
        (None, None, "5", 5),
        (None, None, "5,2", 5),  # OpenMP: of nested levels
        (None, " 7 ", None, 7),
        (None, "", "", 6),
        (None, None, None, 6),
    ],
)
def test_who_says_how_many(
    clean: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wanted: int | None,
    own: str | None,
    omp: str | None,
    count: int,
) -> None:
    for name, value in (("DUCKKEOPS_NUM_THREADS", own), ("OMP_NUM_THREADS", omp)):
        if value is not None:
            clean.setenv(name, value)
    assert threads.thread_count(wanted) == count
    assert caplog.records == []


@pytest.mark.parametrize("value", ["many", "0", "-2", "2.5", ",3"])
@pytest.mark.parametrize("name", ["DUCKKEOPS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_a_bad_number_is_named_once(
    clean: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    clean.setenv(name, value)
    assert [threads.thread_count(None) for _ in range(3)] == [6, 6, 6]
    assert [r.getMessage() for r in caplog.records] == [
        f"{name}={value!r} is no number of threads, which is whole and at least 1; 6 are used."
    ]


def test_a_bad_number_of_ours_leaves_the_word_to_openmp(
    clean: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clean.setenv("DUCKKEOPS_NUM_THREADS", "x")
    clean.setenv("OMP_NUM_THREADS", "2")
    assert threads.thread_count(None) == 2
    assert caplog.records[0].getMessage().endswith("; 2 are used.")


def test_tensors_go_by_torch(clean: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    xp = pytest.importorskip("array_api_compat").array_namespace(torch.zeros(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 3)
        clean.setenv("DUCKKEOPS_NUM_THREADS", "1")
        assert threads.thread_count(None, xp) == before + 3
        assert threads.thread_count(2, xp) == 2
        assert threads.thread_count(None) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity")
def test_affinity_is_kept() -> None:
    have = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(have)})
        assert threads.cores() == 1
    finally:
        os.sched_setaffinity(0, have)
    assert 1 <= threads.cores() <= len(have)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),  # in a container: version 2
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "10000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 1 << 16),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "900000 100000"}, 3),
        (
            "4:cpu,cpuacct:/a\n0::/",  # version 1
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ("4:cpu:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 1 << 16),
        ("0::/../..", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "nonsense"}, 1 << 16),
        ("", {}, 1 << 16),
    ],
)
def test_a_container_has_a_share(
    tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n" if groups else "")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert threads.quota(str(tmp_path)) == cores


# -- progress --------------------------------------------------------------------------------------


class Terminal:
    """A standard error that looks like a terminal, or a file."""

    def __init__(self, tty: bool):
        self.tty, self.text = tty, ""

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until its entry is changed."""
    now = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def _shown(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], tty: bool, wanted: object, whole: float
) -> str:
    stream = Terminal(tty)
    monkeypatch.setattr(sys, "stderr", stream)
    with config(progress=wanted):
        bar = progress.Progress()
        for step in range(1, 101):
            clock[0] += whole / 100
            bar.update(step / 100)
        bar.close()
    return stream.text


@pytest.mark.parametrize(
    ("tty", "wanted", "whole", "shown"),
    [
        (True, "auto", 10.0, True),
        (True, "auto", 1.5, False),
        (True, True, 1.5, True),
        (True, True, 0.4, False),
        (True, False, 10.0, False),
        (False, "auto", 10.0, False),
        (False, True, 10.0, True),
    ],
)
def test_when_a_bar_is_shown(
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    tty: bool,
    wanted: object,
    whole: float,
    shown: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    text = _shown(monkeypatch, clock, tty, wanted, whole)
    assert bool(text) == shown
    if shown and tty:
        assert re.search("\rduckkeops: 5. %, [0-9.]+ (s|ms) left ", text) and text.endswith(
            " " * 60 + "\r"
        )
    elif shown:
        lines = text.splitlines()
        assert lines[-1].startswith("duckkeops: 100 %") and len(lines) <= 11


def test_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert "duckkeops: 75 %, 10 s left" in _shown(monkeypatch, clock, True, "auto", 40.0)


def test_a_notebook_is_interactive(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    class ZMQInteractiveShell:
        pass

    class IPython:
        get_ipython = staticmethod(ZMQInteractiveShell)

    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert _shown(monkeypatch, clock, False, "auto", 10.0)


def test_the_bar_is_that_of_tqdm(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    pytest.importorskip("tqdm")
    text = _shown(monkeypatch, clock, True, "auto", 10.0)
    assert "duckkeops:  " in text and "%|" in text


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_bar_that_cannot_be_written_is_dropped(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], stream: object
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    if stream == "closed":
        stream = open(os.devnull, "w")  # noqa: SIM115
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with config(progress=True):
        bar = progress.Progress()
        for step in range(1, 5):
            clock[0] += 5
            bar.update(step / 5)
        bar.close()


@needs_compiler
def test_a_long_reduction_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.02)
    stream = Terminal(True)
    monkeypatch.setattr(sys, "stderr", stream)
    x = np.tile(X, (5, 1))
    with config(progress=True, threads=2):
        gauss(x, x)
    percents = [int(p) for p in re.findall(r"duckkeops: (\d+) %", stream.text)]
    assert len(percents) >= 3 and percents == sorted(percents)


@pytest.mark.parametrize(("whole", "said"), [(50.0, []), (600.0, ["10 min"])])
def test_more_than_a_minute_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
    whole: float,
    said: list[str],
) -> None:
    monkeypatch.setattr(progress, "_warned_seconds", progress.WARN_SECONDS / 2)
    for _ in range(2):
        _shown(monkeypatch, clock, False, "auto", whole)
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * len(said)
    assert [r.getMessage().splitlines()[0] for r in caplog.records] == [
        f"this reduction takes about {s}." for s in said
    ]


# -- estimates and memory --------------------------------------------------------------------------

ESTIMATED = {
    "gauss": (3, lambda d: np.exp(-d), "sum"),
    "wide": (
        3,
        lambda d: np.exp(-d)[..., None] * LazyArray(X[None, :4000, :1] + np.ones(16, "f4")),
        "sum",
    ),
    "argmin": (64, lambda d: d, "argmin"),
    "logsumexp": (3, lambda d: d, "logsumexp"),
    "erf": (3, lambda d: (d + 1).erf(), "sum"),
    "pow": (3, lambda d: (d + 1) ** 0.3, "sum"),
}


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ESTIMATED)
def test_estimates_are_right_within_a_factor_of_2(name: str, dtype: str) -> None:
    """By CPU time; the best of some, for other work on the machine only ever adds to it."""
    dim, formula, kind = ESTIMATED[name]
    x, y = rng.random((4096, dim)).astype(dtype), rng.random((4000, dim)).astype(dtype)
    D = formula(((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1))
    lazy = reductions.reduce(reductions.BY_NAME[kind], (D._node,), (1,))
    with config(threads=1):
        estimates = [explain.estimate(lazy).seconds for _ in range(3)]
        measured = []
        for _ in range(4):
            start = time.process_time()
            evaluate.evaluate(lazy)
            measured.append(time.process_time() - start)
    assert 0.5 < min(estimates) / min(measured) < 2, (estimates, measured)


@needs_compiler
def test_estimates_of_what_is_never_computed() -> None:
    """A day's work is told in a moment, and threads divide it."""
    x = np.broadcast_to(X[:1], (10_000_000, 3))
    D = np.exp(-((LazyArray(x)[:, None] - LazyArray(x)[None]) ** 2).sum(-1))
    start = time.perf_counter()
    with config(threads=1):
        alone = D.estimate()
    with config(threads=4):
        together = D.estimate()
    assert alone.pairs == 10**14 and alone.seconds > 1000
    assert 2 < alone.seconds / together.seconds < 8
    assert time.perf_counter() - start < 60
    assert re.fullmatch(
        r"1e\+14 pairs, about [0-9.]+ (min|h|days), 267.0 MiB of inputs and result", str(alone)
    )


@pytest.mark.parametrize("engine", ["blocks", "auto"])
def test_estimates_of_other_forms(engine: str) -> None:
    x, y = X[:300], X[300:420]
    D = ((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1)
    joined = LazyArray(x)[:, None] * np.concatenate([LazyArray(y), 2 * LazyArray(y)])[None]
    batched = LazyArray(np.stack([x, x]), batch_ndim=1)[:, :, None] * y[None, None]
    product = np.exp(-D) @ np.exp(-D).T
    with config(engine=engine):
        for lazy in (D, joined.sum(-1), batched.sum(-1), product, LazyArray(x)):
            got = lazy.estimate()
            assert 0 < got.seconds < 10 and got.pairs > 0, lazy


@needs_compiler
def test_kernels_correct_the_cost_model() -> None:
    """A scalar function is dearer than the model knows, or cheaper: the next call knows."""
    x, y = X[:2000], X[:4000]
    lazy = (((LazyArray(x)[:, None] - LazyArray(y)[None]) ** 2).sum(-1) + 1.0).i0e()
    seen: list[float] = []
    run = threads._Job.__init__

    def spy(self: threads._Job, *args: object) -> None:
        seen.append(args[4])  # type: ignore[arg-type]
        run(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, config(threads=1):
        patch.setattr(threads._Job, "__init__", spy)
        for _ in range(8):
            lazy.sum(1)
        start = time.process_time()
        lazy.sum(1)
        measured = time.process_time() - start
    assert 0.4 < seen[-1] / measured < 2.5, (seen, measured)


def test_a_result_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_bytes", lambda: 100 << 20)
    x = np.broadcast_to(X[:1, 0], (30_000_000,))
    with pytest.raises(MemoryError) as caught, config(engine="cpu"):
        (LazyArray(x)[:, None] * LazyArray(X[:2, 0])[None]).sum(1)
    assert str(caught.value).splitlines() == [
        "the result of sum over j of x0[i]*x1[j], of shape (30000000,), takes 114.4 MiB, "
        "and 100.0 MiB of memory are free.",
        "  Reduce another axis too, or a part of the rows at a time.",
    ]


MEMINFO = "MemTotal: 9000 kB\nMemAvailable: 5000 kB\nSwapFree: 1000 kB\nHugePages_Total: 0\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"proc/meminfo": MEMINFO}, 6000 * 1024),
        (
            {
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/memory.max": "2000000\n",
                "sys/fs/cgroup/memory.current": "1500000\n",
                "sys/fs/cgroup/memory.stat": "anon 900000\nactive_file 1000\ninactive_file 2000\n",
            },
            503_000,
        ),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"}, 6000 * 1024),
        ({"proc/meminfo": "nothing"}, None),
        ({}, None),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], free: int | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert plan.free_bytes(str(tmp_path)) == free


@needs_compiler
def test_interruptions_take_no_worker_away() -> None:
    """A worker that waited for a lock which Ctrl-C left taken would wait for ever."""
    code = """
from duckkeops import plan
from duckkeops.engines import threads
plan.INLINE_SECONDS = 1e-12  # even tiny reductions go to the pool
def interrupt(*arguments): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
waits = np.random.default_rng(0).uniform(1e-5, 2e-3, 10_000)
count = 0
with config(threads=3):
    gauss(x[:500], x[:500])
    end = time.monotonic() + 8
    for wait in waits:
        if time.monotonic() > end:
            break
        try:
            signal.setitimer(signal.ITIMER_REAL, wait)
            for _ in range(20):
                gauss(x[:500], x[:500])
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            count += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
assert count > 100, count
end = time.monotonic() + 10
while threads._queue.qsize() and time.monotonic() < end:
    time.sleep(0.01)
print(threads._queue.qsize())
"""
    assert int(fresh(code)) == 0  # the workers have taken all jobs out


@needs_compiler
def test_sympy_is_imported_where_ctrl_c_does_not_reach(tmp_path: Path) -> None:
    """Ctrl-C in an import may leave Python's import lock taken, and hang all other threads."""
    code = """
asked = []
class Spy:
    def find_spec(self, name, *others):
        if name == "sympy":
            asked.append(threading.current_thread() is threading.main_thread())
            if len(asked) == 2:  # to be imported, after it was looked for
                os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Spy())
try:
    gauss(x[:500], x[:500])
except KeyboardInterrupt:
    print(asked)
print(gauss(x[:500], x[:500]).shape)
"""
    answer = fresh(code, DUCKKEOPS_CACHE_DIR=str(tmp_path))
    assert answer.splitlines() == ["[False, False]", "(500,)"]
