"""Suites of the benchmarks: training, memory, tracing and scaling, mostly without real peers."""

import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import (
    arguments,
    cpus,
    groups,
    import_time,
    memory,
    optimizers,
    peers,
    report,
    scaling,
    step,
    trace,
    train,
)
from benchmarks.options import Options
from benchmarks.peers import server
from benchmarks.session import Row, rows_of

QUICK = Options(
    peers=("keras", "tf_keras", "torch"), windows=2, window_seconds=0.0, quick=True, threads=1
)
ROOT = Path(__file__).parent.parent


class Process:
    """Answers at once, as a peer that takes a millisecond for each row of its name."""

    def __init__(self, name, slow_by=1.0, wrong=False):
        self.name, self.slow_by, self.wrong = name, slow_by, wrong
        self.asked = []

    def ask(self, request, **given):
        self.asked.append((request, given))
        return getattr(self, request)(**given)

    def close(self):
        self.asked.append(("close", {}))

    def program(self, optimizer):
        return {"slots": 2, "bytes_per_weight": 28}

    def check(self, mode, optimizer, seed):
        weights, gradients = server.checked_case(seed)
        steps = server.CHECKED_STEPS + (1 if self.wrong else 0)
        changes = arguments.changes(optimizer, weights, gradients, steps)
        found = [(w + c).tolist() for w, c in zip(weights, changes)]
        return {"weights": found, "optimizer": optimizer}

    def case(self, shapes, seed):
        self.weights = sum(int(np.prod(shape)) for shape in shapes)
        weights, _ = server.random_case([tuple(shape) for shape in shapes[:1]], seed)
        return {"checksum": server.checksum(weights)}

    def build(self, row, mode, optimizer, traces, window_seconds):
        traced = mode.endswith("function")
        return {
            "route": "native (test)" if self.name == "ours" else "",
            "traces": [{"seconds": 0.1, "nodes": 40}] * (traces if traced else 0),
            "first_step_seconds": 0.2,
            "state_bytes": 8 * self.weights,
            "steps_per_window": 3,
        }

    def window(self, row):
        return {"seconds": 1e-3 * self.slow_by}

    def weights_are_finite(self, row):
        return {"finite": True}

    def peak_growth(self, row):
        return {"bytes": 0 if self.name == "ours" else 4 * self.weights}

    def drop(self):
        return {}


class TrainingProcess(Process):
    """Trains two weights; the files of a wrong one are off by a tenth of the way."""

    def build(self, row, library, weights, **_):
        before = np.zeros(2, np.float32)
        after = np.ones(2, np.float32) * (1.1 if self.wrong else 1.0)
        np.savez(weights, before, after)
        return {
            "route": "native (test)" if library == "ours" else "",
            "first_step_seconds": 0.1,
            "steps_per_window": 2,
            "variables": 1,
            "weights": 2,
        }

    def window(self, row):
        slow_by = {"nothing": 1.0, "ours": 2.0, "keras": 6.0}[row.split("_")[0]]
        return {"seconds": 1e-3 * slow_by}


def starter(process=Process, missing=(), **given):
    """Starts fake processes; `missing` do not start."""
    started = {}

    def start(name, options):
        if name in missing:
            raise peers.PeerMissing(f"{name} not installed")
        started[name] = process(name, **given)
        return started[name], {"versions": {name: "1"}}

    start.processes = started
    return start


def no_gpu(name, options):
    assert options.device == "gpu"
    raise peers.PeerMissing("TensorFlow sees no GPU")


def console():
    return Console(file=io.StringIO(), width=200)


def printed(suite, results):
    shown = console()
    for table in suite.tables(json.loads(json.dumps(results))):
        shown.print(table)
    return shown.file.getvalue()


def drawn(suite, results, folder):
    """The pictures of a suite, which must be made from JSON alone."""
    pictures = suite.draw(json.loads(json.dumps(results)), folder)
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
    return pictures


def measured(suite, start, options=QUICK):
    if suite is trace:
        return trace.measure(options, console(), start, lambda variables: 0.02)
    return suite.measure(options, console(), start)


SUITES = pytest.mark.parametrize(
    "suite", [step, optimizers, memory, trace, scaling], ids=lambda s: s.__name__
)


class TestSuitesOfSteps:
    @SUITES
    def test_all_rows_are_there(self, suite, tmp_path):
        results = measured(suite, starter())
        assert suite.failures(results) == []
        text = printed(suite, results)
        assert "tf_optim_ext, tf.function" in text
        assert "Keras, tf.function" in text
        assert drawn(suite, results, tmp_path)

    @SUITES
    def test_a_missing_peer_costs_its_rows_only(self, suite, tmp_path):
        results = measured(suite, starter(missing=("keras",)))
        rows = [row for case in results["cases"] for row in case["rows"]]
        failed = {row["note"] for row in rows if row["failed"] and row["label"].startswith("Keras")}
        assert "keras not installed" in failed
        assert any("ms" in row for row in rows)
        assert suite.failures(results) == []
        assert "keras not installed" in printed(suite, results).replace("\n", " ")
        drawn(suite, results, tmp_path)

    @SUITES
    def test_wrong_weights_make_a_row_void(self, suite, tmp_path):
        results = measured(suite, starter(wrong=True))
        assert "void: its steps are off by" in " ".join(suite.failures(results))
        printed(suite, results)
        drawn(suite, results, tmp_path)

    @SUITES
    def test_nothing_measured_is_no_picture(self, suite, tmp_path):
        missing = ("ours", "keras", "tf_keras", "torch")
        results = measured(suite, starter(missing=missing))
        assert drawn(suite, results, tmp_path) == []

    @SUITES
    def test_without_a_gpu_rows_say_so(self, suite, tmp_path):
        options = Options(**{**vars(QUICK), "device": "gpu"})
        results = measured(suite, no_gpu, options)
        assert "TensorFlow sees no GPU" in printed(suite, results)
        assert "TensorFlow sees no GPU" in " ".join(suite.failures(results))
        assert all("ms" not in row for case in results["cases"] for row in case["rows"])
        drawn(suite, results, tmp_path)


class TestMemory:
    def test_bytes_per_weight(self):
        results = measured(memory, starter())
        (case,) = results["cases"]
        rows = {row["key"]: row for row in case["rows"]}
        assert memory.per_weight(case, rows["ours_eager"]) == (8.0, 0.0)
        assert memory.per_weight(case, rows["keras_function"]) == (8.0, 4.0)

    def test_unknown_growth(self, tmp_path):
        results = measured(memory, starter())
        for row in results["cases"][0]["rows"]:
            row["peak_memory_growth_bytes"] = None
        printed(memory, results)
        drawn(memory, results, tmp_path)

    def test_variants_are_of_the_class(self):
        assert arguments.class_of("Adagrad (row_wise)") == "Adagrad"
        assert arguments.of("Adagrad (row_wise)")["row_wise"] is True
        assert arguments.class_of("AdamW") == "AdamW"


class TestTrace:
    def test_numbers(self):
        results = measured(trace, starter())
        (row,) = [r for r in results["cases"][0]["rows"] if r["key"] == "ours_function"]
        assert trace.trace_seconds(row) == pytest.approx(0.1)
        assert trace.nodes(row) == 40

    def test_first_import_does_not_count(self):
        times = iter([9.0, 8.0, 0.02, 0.01])
        imports = import_time.measure(True, lambda label, count: None, lambda _: next(times))
        assert [variant["ms"] for variant in imports] == [[20.0], [10.0]]

    def test_failing_import(self):
        def fail(variables):
            raise RuntimeError("no such thing")

        results = trace.measure(QUICK, console(), starter(), fail)
        assert "import without: no such thing" in trace.failures(results)
        assert "no such thing" in printed(trace, results)

    def test_failing_process_is_an_error(self, monkeypatch):
        monkeypatch.setattr(import_time, "CODE", "raise ValueError('no such thing')")
        with pytest.raises(RuntimeError, match="no such thing"):
            import_time.seconds({})

    def test_process_gets_variables(self, monkeypatch):
        monkeypatch.setattr(import_time, "CODE", "import os; print(os.environ['GIVEN'])")
        assert import_time.seconds({"GIVEN": "0.25"}) == 0.25


class TestGroups:
    def test_all_together_if_they_fit(self):
        rows = rows_of(("ours", "keras", "torch"))
        assert groups.groups(rows, 1, 10**9) == [rows]

    def test_each_group_has_the_anchor(self):
        rows = rows_of(("ours", "keras", "torch"))
        found = groups.groups(rows, 10**6, 1)
        assert [{row.peer for row in group} for group in found] == [
            {"ours", "keras"},
            {"ours", "torch"},
        ]
        assert [group[0].key for group in found] == ["ours_eager", "ours_eager"]
        assert [row.key for row in found[1]].count("ours_eager") == 1

    def test_joined_table_has_each_row_once(self):
        parts = [{"rows": [{"key": "a", "n": 1}, {"key": "b"}]}, {"rows": [{"key": "a", "n": 2}]}]
        found = groups.joined(parts)
        assert found["groups"] == 2
        assert [row["key"] for row in found["rows"]] == ["a", "b"]
        assert found["rows"][0]["n"] == 1

    def test_memory_counts_processes_and_rows(self):
        assert groups.copies([Row("ours", "eager"), Row("ours", "function")]) == 9
        assert groups.copies([Row("ours", "eager"), Row("keras", "function")]) == 14


class TestScaling:
    def test_kinds(self):
        results = measured(scaling, starter())
        kinds = [case["kind"] for case in results["cases"]]
        assert set(kinds) == {"threads", "variables", "bytes"}
        counts = [c["variables"] for c in results["cases"] if c["kind"] == "variables"]
        assert counts == list(scaling.QUICK_COUNTS)
        assert {c["weights"] for c in results["cases"] if c["kind"] == "variables"} == {10**6}

    def test_slow_rows_are_left_out_and_say_so(self):
        results = measured(scaling, starter())
        (case,) = [c for c in results["cases"] if c["variables"] == 1000]
        keras = next(row for row in case["rows"] if row["key"] == "keras_function")
        assert "ms" not in keras
        assert keras["note"] == "left out: would take too long"

    def test_goal(self):
        def case(variables, ms):
            rows = [{"key": "ours_eager", "label": "ours", "ms": ms}]
            kind = {"kind": "variables", "variables": variables, "optimizer": "AdamW"}
            return {**kind, "rows": rows}

        (goal,) = scaling.goals([case(1, 2.0), case(100, 9.0), case(1000, 5.0)])
        assert goal["ratio"] == 2.5
        assert scaling.goals([case(1, 2.0)]) == []

    def test_goal_is_printed(self):
        text = printed(scaling, measured(scaling, starter()))
        assert "1,000 variables of 1,000 weights against 1 of 1,000,000" in text
        assert "reached" in text

    def test_sizes_stop_where_memory_ends(self, monkeypatch):
        monkeypatch.setattr(scaling.timing, "available_memory", lambda: 40 << 20)
        full = Options(**{**vars(QUICK), "quick": False})
        sizes = [
            c.weights * 4 for kind, c in scaling._other_cases("AdamW", full) if kind == "bytes"
        ]
        assert sizes
        assert max(sizes) < 4 << 20
        monkeypatch.setattr(scaling.timing, "available_memory", lambda: 1 << 45)
        sizes = [
            c.weights * 4 for kind, c in scaling._other_cases("AdamW", full) if kind == "bytes"
        ]
        assert len(sizes) == len(scaling.SIZES)

    @pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
    def test_threads(self, most, counts):
        assert scaling.thread_counts(most) == counts

    @pytest.mark.skipif(cpus.ALL is None, reason="the system binds no processes to CPUs")
    def test_cpus_are_bound_for_a_while(self):
        before = os.sched_getaffinity(0)
        with cpus.bound(1):
            assert os.sched_getaffinity(0) == {cpus.ALL[0]}
        assert os.sched_getaffinity(0) == before


class TestTrain:
    def test_rows_and_numbers(self, tmp_path):
        results = train.measure(QUICK, console(), starter(TrainingProcess))
        assert train.failures(results) == []
        towers = results["cases"][1]
        rows = {row["key"]: row for row in towers["rows"]}
        assert "ours_lazy_fit" in rows
        assert rows["ours_fit"]["speedup"] == pytest.approx(3)
        assert rows["ours_fit"]["ms_of_optimizer"] == pytest.approx(1)
        assert rows["keras_fit"]["ms_of_optimizer"] == pytest.approx(5)
        assert rows["nothing_fit"]["ms_of_optimizer"] is None
        assert rows["ours_fit"]["route"] == "native (test)"
        assert "native (test)" in printed(train, results)
        assert len(drawn(train, results, tmp_path)) == 2

    def test_weights_that_do_not_agree_make_a_row_void(self, tmp_path):
        def start(name, options):
            return TrainingProcess(name, wrong=name == "ours"), {}

        results = train.measure(QUICK, console(), start)
        failed = train.failures(results)
        assert len(failed) == 6
        assert "void: after some steps its weights are 10 % of the way off" in failed[0]
        assert "void" in printed(train, results)
        drawn(train, results, tmp_path)

    def test_without_keras_there_is_nothing_to_check_with(self, tmp_path):
        results = train.measure(QUICK, console(), starter(TrainingProcess, missing=("keras",)))
        rows = {row["key"]: row for row in results["cases"][0]["rows"]}
        assert rows["keras_fit"]["note"] == "keras not installed"
        assert rows["ours_fit"]["note"].startswith("not checked")
        assert rows["ours_fit"]["ms_of_optimizer"] is None
        assert train.failures(results) == []
        printed(train, results)
        drawn(train, results, tmp_path)

    def test_without_a_gpu_rows_say_so(self, tmp_path):
        results = train.measure(Options(**{**vars(QUICK), "device": "gpu"}), console(), no_gpu)
        assert "TensorFlow sees no GPU" in printed(train, results)
        assert "TensorFlow sees no GPU" in " ".join(train.failures(results))
        assert train.draw(results, tmp_path) == []

    def test_processes_end(self):
        start = starter(TrainingProcess)
        train.measure(QUICK, console(), start)
        assert [p.asked[-1][0] for p in start.processes.values()] == ["close", "close"]

    def test_difference(self, tmp_path):
        def saved(name, before, after):
            path = tmp_path / f"{name}.npz"
            np.savez(path, np.float32(before), np.float32(after))
            return path

        wanted = saved("wanted", [0, 0], [3, 4])
        assert train.difference(wanted, wanted) == 0
        assert train.difference(saved("near", [0, 0], [3, 4.5]), wanted) == pytest.approx(0.1)
        assert train.difference(saved("other", [1, 0], [3, 4]), wanted) == float("inf")

    def test_a_real_process(self):
        """One process, for both libraries: a step of each kind, and weights that agree."""
        process = peers.Process("test", [sys.executable, "-m", *train.COMMAND])
        options = Options(windows=1, window_seconds=0.0)
        try:
            process.ask("start", threads=1, device="cpu", keep_memory=True)
            with train.Session(options, lambda name, _: (process, {})) as session:
                case = train.Case("two towers", 8, "AdamW")
                wanted = ("keras_function", "ours_function", "ours_lazy_fit", "nothing_fit")
                rows = [row for row in case.rows(train.MODES) if row.key in wanted]
                found = train.measured(session, case, rows)
        finally:
            process.close()
        rows = {row["key"]: row for row in found["rows"]}
        assert [row["note"] for row in rows.values()] == [""] * len(wanted)
        assert 0 < rows["ours_function"]["difference"] < 1e-3
        assert 1e-3 < rows["ours_lazy_fit"]["difference"] < train.TOLERANCE
        assert rows["nothing_fit"]["ms"] > 0
        assert rows["nothing_fit"]["difference"] is None
        assert rows["ours_function"]["route"]


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_kept_results(path, tmp_path):
    """They can be read, nothing of ours failed, and their pictures are kept beside them."""
    name, _, variant = path.stem.partition("_")
    suite = importlib.import_module(f"benchmarks.{name}")
    results = json.loads(path.read_text())
    assert printed(suite, results)
    assert getattr(suite, "failures", lambda _: [])(results) == []
    pictures = drawn(suite, results, tmp_path)
    assert pictures
    assert variant or all((report.RESULTS / picture.name).exists() for picture in pictures)


def test_command_line_without_a_gpu():
    """What fails is said, with an exit status; nothing crashes."""
    code = (
        "import sys, benchmarks.__main__ as m; from absl import app\n"
        "from benchmarks import memory, peers\n"
        "def no_gpu(name, options): raise peers.PeerMissing('TensorFlow sees no GPU')\n"
        "measure = memory.measure\n"
        "memory.measure = lambda options, console: measure(options, console, no_gpu)\n"
        "sys.argv = ['benchmarks', '--suite=memory', '--quick', '--device=gpu', '--peers=']\n"
        "app.run(m.main)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "TensorFlow sees no GPU" in done.stdout
    assert "benchmarks: AdamW on" in done.stderr
    assert "Traceback" not in done.stderr
