"""The parts of the benchmarks that all suites share; what they measure is not tested by time."""

import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks import (
    agreement,
    arguments,
    gate,
    groups,
    models,
    options,
    peers,
    readme,
    report,
    session,
    step,
)
from benchmarks.peers import server


class FakeProcess:
    """Answers like the process of a peer, at once: a step takes `seconds`."""

    def __init__(self, name, seconds=0.001, asked=None):
        self.name, self.seconds, self.asked = name, seconds, [] if asked is None else asked

    def ask(self, request, **given):
        self.asked.append((self.name, request))
        return getattr(self, request)(**given)

    def program(self, optimizer):
        return {"slots": 2, "bytes_per_weight": 28}

    def check(self, mode, optimizer, seed):
        weights, gradients = server.checked_case(seed)
        changes = arguments.changes(optimizer, weights, gradients, server.CHECKED_STEPS)
        wrong = 0.1 if self.name == "raw_ops" else 0.0
        found = [(w + c + wrong).tolist() for w, c in zip(weights, changes)]
        return {"optimizer": optimizer, "weights": found}

    def case(self, shapes, seed):
        weights, _ = server.random_case(shapes[:1], seed)
        other = self.name == "optax"
        return {"checksum": 0 if other else server.checksum(weights)}

    def build(self, row, mode, optimizer, traces, window_seconds):
        if mode == "foreach":
            raise peers.PeerError("failed: no memory")
        about = {"route": "native", "traces": [], "first_step_seconds": 1.0}
        return {**about, "state_bytes": 8, "steps_per_window": 3}

    def window(self, row):
        return {"seconds": self.seconds * (2 if row.startswith("ours_limit") else 1)}

    def weights_are_finite(self, row):
        return {"finite": row != "tf_keras_function"}

    def peak_growth(self, row):
        return {"bytes": 4096}

    def drop(self):
        return {}

    def close(self):
        self.asked.append((self.name, "close"))


def starter(asked, missing=("pytorch_optimizer",)):
    def start(name, given):
        if name in missing:
            raise peers.PeerMissing("pytorch_optimizer not installed")
        slow = {"ours": 0.001, "keras": 0.004}
        return FakeProcess(name, slow.get(name, 0.002), asked), {"versions": {name: "1.0"}}

    return start


OPTIONS = options.Options(windows=3, window_seconds=0.0)
CASE = session.Case("AdamW", "two", ((3, 5), (7,)))


@pytest.fixture(scope="module")
def measured():
    asked = []
    with session.Session(OPTIONS, starter(asked)) as running:
        results = running.measure(CASE, session.rows_of(peers.PEERS))
    return results, asked


class TestSession:
    def rows(self, measured):
        return {row["key"]: row for row in measured[0]["rows"]}

    def test_every_row_is_there(self, measured):
        wanted = [f"{name}_{mode}" for name, peer in peers.PEERS.items() for mode in peer.modes]
        assert list(self.rows(measured)) == [*wanted, "limit"]

    def test_ratios_are_to_the_first_row_and_the_limit(self, measured):
        rows = self.rows(measured)
        assert rows["ours_eager"]["ratio_to_anchor"] == 1
        assert rows["keras_function"]["ratio_to_anchor"] == pytest.approx(4)
        # The loop moves 7 floats per weight, as the step.
        assert rows["limit"]["ms"] == pytest.approx(2)
        assert rows["keras_function"]["percent_of_limit"] == pytest.approx(50)
        assert rows["ours_eager"]["gigabytes_per_second"] == pytest.approx(28 * 22 / 1e-3 / 1e9)
        assert len(rows["ours_eager"]["windows_ms"]) == OPTIONS.windows

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("pytorch_optimizer_eager", "not installed"),
            ("raw_ops_eager", "void: its steps are off by"),
            ("optax_jit", "makes other weights of the seed"),
            ("torch_foreach", "no memory"),
            ("tf_keras_function", "not finite"),
        ],
    )
    def test_failures_cost_their_own_row(self, measured, key, reason):
        row = self.rows(measured)[key]
        assert row["failed"]
        assert reason in row["note"]
        assert "ms" not in row
        assert "ms" in self.rows(measured)["torch_fused"]

    def test_windows_are_interleaved(self, measured):
        order = [name for name, request in measured[1] if request == "window"]
        changes = sum(a != b for a, b in itertools.pairwise(order))
        assert changes > len(set(order)) * OPTIONS.windows / 2

    def test_processes_end(self, measured):
        started = {name for name, _ in measured[1]}
        assert started == {name for name, request in measured[1] if request == "close"}

    def test_slow_rows_get_few_windows(self):
        def start(name, given):
            return FakeProcess(name, 2.0), {}

        many = options.Options(windows=9)
        with session.Session(many, start) as running:
            results = running.measure(CASE, session.rows_of(["ours"]))
        assert {len(r["windows_ms"]) for r in results["rows"]} == {session.FEW_WINDOWS}

    def test_one_slow_window_does_not_make_a_slow_row(self):
        class Disturbed(FakeProcess):
            def window(self, row):
                windows = self.asked.count((self.name, "window"))
                return {"seconds": 2.0 if windows == 1 else 0.001}

        with session.Session(
            options.Options(windows=9), lambda n, _: (Disturbed(n), {})
        ) as running:
            results = running.measure(CASE, [session.Row("ours", "eager")])
        assert {len(r["windows_ms"]) for r in results["rows"]} == {9}


class TestNumericalCheck:
    def test_right_and_wrong(self):
        weights, gradients = server.checked_case(0)
        for name in arguments.UPDATES:
            right = [w + c for w, c in zip(weights, arguments.changes(name, weights, gradients, 5))]
            assert arguments.what_is_wrong(name, weights, gradients, right, 5) is None
            wrong = [w + 1.01 * (r - w) for w, r in zip(weights, right)]
            assert "off by 1 %" in arguments.what_is_wrong(name, weights, gradients, wrong, 5)
            nan = [*right[:-1], np.full_like(right[-1], np.nan)]
            assert "off by nan" in arguments.what_is_wrong(name, weights, gradients, nan, 5)

    def test_gradients_are_neither_equal_nor_tiny(self):
        (weights,), (gradients,) = server.random_case([(100, 100)], 0)
        assert np.unique(gradients).size > 9000
        assert np.abs(gradients).min() >= 1e-4
        np.testing.assert_array_equal(weights, server.random_case([(100, 100)], 0)[0][0])


class TestGroups:
    def test_each_has_what_the_others_are_compared_with(self):
        rows = session.rows_of(peers.PEERS)
        found = groups.groups(rows, 10**9, 10**11)
        assert len(found) > 1
        assert all(group[0].key == "ours_eager" for group in found)
        keys = {row.key for group in found for row in group}
        assert keys == {row.key for row in rows}
        alone = session.rows_of(("ours", "keras"))
        assert groups.groups(alone, 10, 10**9) == [alone]

    def test_joined_rows_come_once(self, measured):
        results = measured[0]
        rows = groups.joined([results, results])["rows"]
        assert [r["key"] for r in rows] == [r["key"] for r in results["rows"]]


class TestModels:
    def test_texts(self):
        assert models.of("2*3x5+7") == [(3, 5), (3, 5), (7,)]
        assert models.weights(models.of("bert")) == 109_482_240

    @pytest.mark.parametrize("bad", ["", "bart", "3*", "0x4", "3x4;5"])
    def test_bad_texts(self, bad):
        with pytest.raises(ValueError, match=r"allowed are matrices.*3\*4096x4096\+7"):
            models.of(bad)


class TestProcess:
    """With the one peer that needs no other library than TensorFlow."""

    @pytest.fixture(scope="class")
    def rows(self):
        given = options.Options(windows=2, window_seconds=0.0, peers=("raw_ops",))
        with session.Session(given) as running:
            rows = [session.Row("ours", "eager"), session.Row("raw_ops", "eager")]
            found = running.measure(CASE, rows)
            assert running.about["ours"]["versions"]["tensorflow"]
        return {row["key"]: row for row in found["rows"]}

    def test_is_measured(self, rows):
        assert rows["ours_eager"]["ms"] > 0
        assert rows["ours_eager"]["route"]
        assert rows["ours_eager"]["state_bytes"] >= 2 * 4 * 22

    def test_says_what_runs_instead(self, rows):
        assert rows["raw_ops_eager"]["note"] == "Adam: there is no AdamW"
        assert rows["raw_ops_eager"]["ms"] > 0

    def test_gpu_where_there_is_none(self):
        with session.Session(options.Options(device="gpu", windows=1)) as running:
            results = running.measure(CASE, [session.Row("ours", "eager")])
        (row,) = results["rows"]
        assert row["failed"]
        assert row["note"] == "TensorFlow sees no GPU"

    def test_a_process_that_ends(self):
        process = peers.Process("It", ["python3", "-c", "import sys; sys.exit('no luck')"])
        with pytest.raises(peers.PeerError, match="It's process ended: no luck"):
            process.ask("start")
        process.close()
        with pytest.raises(peers.PeerError, match="does not start"):
            peers.Process("It", ["/no/such/interpreter"])


class TestGate:
    @pytest.fixture
    def ratios(self):
        floors = json.loads(gate.FLOORS.read_text())
        return [{**floor, "ratio": None, "note": ""} for floor in floors["quick"]]

    def test_rows_exist(self):
        content = json.loads(gate.FLOORS.read_text())
        keys = {row.key for row in session.rows_of(peers.PEERS)} | {"limit"}
        for floor in (*content["quick"], *content["full"]):
            assert {floor["slow"], floor["fast"]} <= keys
            models.of(floor["shapes"])

    def test_names_the_offender(self, ratios):
        for ratio in ratios:
            gate.take(ratio, {ratio["slow"]: {"ms": 1000.0}, ratio["fast"]: {"ms": 1.0}})
        assert gate.failures(ratios) == []
        gate.take(ratios[1], {ratios[1]["slow"]: {"ms": 1.0}, ratios[1]["fast"]: {"ms": 1.0}})
        (failure,) = gate.failures(ratios)
        assert failure.startswith(f"AdamW on {ratios[1]['shapes']}: {ratios[1]['slow']} /")
        assert "is 1.00, must be" in failure

    def test_what_was_not_measured_fails(self, ratios):
        gate.take(ratios[0], {ratios[0]["fast"]: {"note": "no native library"}})
        assert "was not measured: no native library" in gate.failures(ratios)[0]

    def test_measures_once_more_what_is_below(self, tmp_path):
        floors = tmp_path / "floors.json"
        names = {"optimizer": "AdamW", "slow": "keras_eager", "fast": "ours_eager"}
        ratios = [{**names, "shapes": "7", "floor": 3.0}, {**names, "shapes": "8", "floor": 5.0}]
        settings = {"quick": {"windows": 2, "window_seconds": 0.0}}
        floors.write_text(json.dumps({"settings": settings, "quick": ratios}))
        asked = []
        quick = options.Options(quick=True)
        (failure,) = gate.run(quick, Console(record=True), floors, starter(asked))
        assert failure == "AdamW on 8: keras_eager / ours_eager is 4.00, must be 5.0 or more"
        assert asked.count(("keras", "case")) == 3

    def test_table(self, ratios):
        console = Console(width=140, record=True)
        console.print(gate.table(ratios))
        assert ratios[0]["slow"] in console.export_text()


class TestReport:
    def test_table_and_pictures(self, measured, tmp_path):
        results = {"cases": [measured[0]]}
        console = Console(width=160, record=True)
        for table in step.tables(results):
            console.print(table)
        shown = console.export_text()
        assert "pytorch_optimizer not installed" in shown
        assert "memory limit" in shown
        for picture in step.draw(results, tmp_path):
            assert picture.read_bytes().startswith(b"\x89PNG")

    def test_failures_of_ours(self, measured):
        assert step.failures({"cases": [measured[0]]}) == []
        row = {**measured[0]["rows"][0], "failed": True, "note": "void"}
        assert step.failures({"cases": [{**measured[0], "rows": [row]}]}) == [
            "AdamW on two, tf_optim_ext, eager: void"
        ]

    def test_results_state_everything(self, measured, tmp_path):
        path = tmp_path / "deep" / "step.json"
        report.write(path, OPTIONS, {"cases": [measured[0]]})
        content = json.loads(path.read_text())
        assert {"date", "commit", "cpu", "cpus_in_use", "command", "settings"} <= set(content)
        assert content["settings"]["windows"] == 3


class TestReadme:
    @pytest.mark.parametrize("path", readme.DOCUMENTS, ids=lambda path: path.name)
    def test_is_what_the_results_say(self, path):
        content = path.read_text()
        assert readme.updated(content, readme.DOCUMENTS[path]()) == content

    def test_marks(self):
        content = f"a\n{readme.BEGIN}old\n{readme.END}b\n"
        assert readme.updated(content, "new") == f"a\n{readme.BEGIN}new\n{readme.END}b\n"


class TestAgreement:
    @pytest.fixture
    def run(self):
        def make(factor=1.0, spread=0.1):
            def row(key, ms):
                # The quartiles are the second and the fourth.
                windows = [ms * (1 + k * spread) for k in (-2, -1, 0, 1, 2)]
                ratio = {"ms": ms, "ratio_to_anchor": ms / 2.0}
                return {"key": key, "label": key, "windows_ms": windows, **ratio}

            rows = [row("ours_eager", 2.0), row("other", 10.0 * factor), row("limit", 1.0)]
            missing = {"key": "missing", "label": "missing"}
            return {"cases": [{"optimizer": "AdamW", "model": "mlp", "rows": [*rows, missing]}]}

        return make

    def test_ratios_have_the_spread_of_both_rows(self, run):
        ratio = agreement.ratios(run())["AdamW", "mlp", "other"]
        assert ratio.median == pytest.approx(5.0)
        assert ratio.low == pytest.approx(5.0 * 0.9 / 1.1)
        assert ratio.high == pytest.approx(5.0 * 1.1 / 0.9)

    def test_the_limit_is_scaled(self, run):
        results = run()
        limit = results["cases"][0]["rows"][2]
        limit.update(ms=3.0, ratio_to_anchor=1.5)  # of windows about 1
        ratio = agreement.ratios(results)["AdamW", "mlp", "limit"]
        assert (ratio.low, ratio.high) == pytest.approx((1.5 * 0.9 / 1.1, 1.5 * 1.1 / 0.9))

    def test_who_agrees(self, run):
        assert agreement.sentence(run(), run(1.4)).startswith("2 of the 2 ratios")
        assert agreement.sentence(run(), run(1.6)).startswith("1 of the 2 ratios")
        assert agreement.sentence(run(), run(1.4, 0.01)).startswith("1 of the 2 ratios")
        assert agreement.table(run(), run()).row_count == 2

    def test_the_documentation_says_what_the_results_say(self):
        runs = [
            json.loads((report.RESULTS / f"{name}.json").read_text())
            for name in ("step", "step_again")
        ]
        text = " ".join((readme.ROOT / "docs" / "performance.md").read_text().split())
        assert agreement.sentence(*runs) in text


def test_commands_in_results_name_no_paths():
    given = ["--suite=step", "--out", "/somewhere", "--python=torch=/elsewhere/python", "--quick"]
    assert report._command(given) == "python -m benchmarks --suite=step --quick"
