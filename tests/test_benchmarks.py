"""The benchmarks: what they check, compare, keep and show; not what they measure.

Most peers here answer at once, without a process.
"""

import copy
import io
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import (
    agreement,
    arguments,
    checks,
    embedding,
    gate,
    models,
    pictures,
    process,
    readme,
    report,
    results,
    session,
    step,
    train,
)
from benchmarks.options import Options
from benchmarks.peers import PEERS, server

pytestmark = pytest.mark.once

SLOW = {"ours": 0.001, "keras": 0.004}


class FakeProcess:
    """Answers like the process of a peer, at once; some of them make mistakes.

    The weights that it trains are off by `wrong` of the way.
    """

    def __init__(self, name, seconds=None, asked=None, wrong=0.0):
        self.name, self.seconds = name, seconds or SLOW.get(name, 0.002)
        self.asked, self.wrong = [] if asked is None else asked, wrong

    def ask(self, request, **given):
        self.asked.append((self.name, request))
        return getattr(self, request)(**given)

    def names(self):
        return {"names": ["AdamW", "Prodigy"]}

    def program(self, optimizer):
        return {"slots": 2, "passes": 1, "bytes_per_weight": 28}

    def check(self, mode, optimizer, options, seed, sparse):
        weights, turns = server.checked_case(seed, sparse)
        if sparse:
            kind = options[-1] if options else PEERS[self.name].sparse or "exact"
            right = [checks.table_after(kind, weights[0], [turn[0] for turn in turns])]
        elif optimizer in arguments.ARGUMENTS:
            right = checks.weights_after(optimizer, options, weights, turns[0], 5)
        else:
            right = weights
        wrong = 0.1 if self.name == "raw_ops" else self.wrong
        found = [w + wrong * (w - start) for w, start in zip(right, weights)]
        return {"optimizer": optimizer, "weights": [w.tolist() for w in found]}

    def case(self, **given):
        if "folder" in given:  # of `train`
            self.folder = given["folder"]
            return {}
        weights, _ = server.random_case(given["shapes"][:1], given["seed"])
        return {"checksum": 0 if self.name == "optax" else server.checksum(weights)}

    def build(self, row, mode, optimizer, options, traces, repeat_seconds):
        if mode == "foreach":
            raise process.PeerError("failed: no memory")
        if hasattr(self, "folder"):
            after = np.ones(2, np.float32) * (1 + self.wrong)
            np.savez(f"{self.folder}/{row}.npz", np.zeros(2, np.float32), after)
        traced = {"trace_seconds": 0.1, "graph_nodes": 40} if "function" in mode else {}
        about = {"trace_seconds": None, "graph_nodes": None, **traced}
        about |= {"first_step_seconds": 1.0, "state_bytes": 8}
        return {"route": "native" if self.name == "ours" else "", **about}

    def repeat(self, row):
        slow = {"nothing": 0.5, "ours_stream": 2}
        return {"seconds": self.seconds * slow.get(row.split("_")[0], 2 if row == "stream" else 1)}

    def finish(self, row):
        return {"finite": row != "tf_keras_function", "peak_growth": 4096}

    def drop(self):
        return {}

    def close(self):
        self.asked.append((self.name, "close"))


def starter(asked=None, missing=(), **given):
    def start(name, options):
        if options.device == "gpu":
            raise process.PeerMissing("TensorFlow sees no GPU")
        if name in missing:
            raise process.PeerMissing(f"{name} not installed")
        return FakeProcess(name, asked=asked, **given), {"versions": {name: "1.0"}}

    return start


OPTIONS = Options(repeats=3, repeat_seconds=0.0)
QUICK = Options(peers=tuple(PEERS)[1:], repeats=2, repeat_seconds=0.0, quick=True, threads=1)
CASE = session.Case("AdamW", "two", ((3, 5), (7,)))


def by_key(case):
    return {row["key"]: row for row in case["rows"]}


@pytest.fixture(scope="module")
def measured():
    asked = []
    with session.Session(OPTIONS, starter(asked, missing=("keras",))) as running:
        found = running.measure(CASE, session.rows_of(PEERS))
    return found, asked


class TestSession:
    def test_every_row_is_there(self, measured):
        wanted = [f"{name}_{mode}" for name, peer in PEERS.items() for mode in peer.modes]
        wanted.remove("torch_sparse")
        assert list(by_key(measured[0])) == [*wanted, "stream"]

    def test_ratios_are_to_the_first_row_and_the_roofline(self, measured):
        rows = by_key(measured[0])
        assert rows["ours_eager"]["ratio"] == 1
        assert rows["torch_fused"]["ratio"] == pytest.approx(2)
        # STREAM moves 7 floats per weight, as the step.
        assert rows["stream"]["ms"] == pytest.approx(2)
        assert rows["torch_fused"]["percent_of_roofline"] == pytest.approx(100)
        assert rows["ours_eager"]["gigabytes_per_second"] == pytest.approx(28 * 22 / 1e-3 / 1e9)
        assert rows["ours_eager"]["repeats"] == OPTIONS.repeats
        assert rows["ours_function"]["graph_nodes"] == 40
        assert "graph_nodes" not in rows["ours_eager"]

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("keras_eager", "not installed"),
            ("raw_ops_eager", "void: its steps are off by 10 %"),
            ("optax_jit", "makes other weights of the seed"),
            ("torch_foreach", "no memory"),
            ("tf_keras_function", "not finite"),
        ],
    )
    def test_failures_cost_their_own_row(self, measured, key, reason):
        row = by_key(measured[0])[key]
        assert row["failed"]
        assert reason in row["note"]
        assert "ms" not in row
        assert "ms" in by_key(measured[0])["torch_fused"]

    def test_repeats_are_interleaved_and_processes_end(self, measured):
        order = [name for name, request in measured[1] if request == "repeat"]
        changes = sum(one != other for one, other in itertools.pairwise(order))
        assert changes > len(set(order)) * OPTIONS.repeats / 2
        started = {name for name, _ in measured[1]}
        assert started == {name for name, request in measured[1] if request == "close"}

    def test_slow_rows_get_few_repeats_but_not_for_one_slow_repeat(self):
        class Disturbed(FakeProcess):
            def repeat(self, row):
                repeats = self.asked.count((self.name, "repeat"))
                return {"seconds": 2.0 if repeats == 1 or self.name == "keras" else 0.001}

        nine = Options(repeats=9)
        with session.Session(nine, lambda name, _: (Disturbed(name), {})) as running:
            rows = [session.Row("ours", "eager"), session.Row("keras", "eager")]
            found = by_key(running.measure(CASE, rows))
        assert found["ours_eager"]["repeats"] == 9
        assert found["keras_eager"]["repeats"] == session.FEW_REPEATS


class TestChecks:
    @pytest.mark.parametrize("options", [(), ("clip",), ("mask", "ema"), ("accumulate",)])
    @pytest.mark.parametrize("name", arguments.ARGUMENTS)
    def test_right_and_wrong(self, name, options):
        weights, (gradients,) = server.checked_case(0)
        wanted = checks.weights_after(name, options, weights, gradients, 5)
        assert checks.what_is_wrong(weights, wanted, wanted) is None
        wrong = [w + 1.01 * (right - w) for w, right in zip(weights, wanted)]
        assert checks.what_is_wrong(weights, wrong, wanted).endswith("off by 1 %")
        nan = [*wanted[:-1], np.full_like(wanted[-1], np.nan)]
        assert checks.what_is_wrong(weights, nan, wanted).endswith("off by nan %")

    def test_each_option_is_seen(self):
        weights, (gradients,) = server.checked_case(0)
        bare = checks.weights_after("AdamW", (), weights, gradients, 5)
        for option in ("ema", "mask"):
            other = checks.weights_after("AdamW", (option,), weights, gradients, 5)
            assert checks.what_is_wrong(weights, bare, other)
        bare = checks.weights_after("SGD", (), weights, gradients, 5)
        assert checks.what_is_wrong(
            weights, bare, checks.weights_after("SGD", ("clip",), weights, gradients, 5)
        )

    @pytest.mark.parametrize("kind", arguments.SPARSE)
    def test_kinds_of_sparse_steps_are_known_apart(self, kind):
        (table,), turns = server.checked_case(3, sparse=True)
        gradients = [gradient for (gradient,) in turns]
        found = checks.table_after(kind, table, gradients)
        for other in arguments.SPARSE:
            wrong = checks.what_is_wrong(
                [table], [found], [checks.table_after(other, table, gradients)]
            )
            assert (wrong is None) == (other == kind)

    def test_gradients(self):
        (weights,), ((gradients,),) = server.random_case([(100, 100)], 0)
        assert np.unique(gradients).size > 9000
        assert np.abs(gradients).min() >= 1e-4
        np.testing.assert_array_equal(weights, server.random_case([(100, 100)], 0)[0][0])
        _, turns = server.random_case([(50, 4)], 0, rows=16, duplicates=50)
        assert len(turns) == server.TURNS
        for ((ids, values),) in turns:
            assert len(np.unique(ids)) == 8
            assert values.shape == (16, 4)

    def test_bytes_of_options(self):
        assert arguments.bytes_per_weight(28, ("mask",)) == 28
        assert arguments.bytes_per_weight(28, ("clip", "ema")) == 40
        assert 4 * arguments.bytes_per_weight(28, ("accumulate",)) == 3 * 12 + 36


class TestGroups:
    def test_each_has_what_the_others_are_compared_with(self):
        rows = session.rows_of(PEERS)
        assert session.groups(rows, 1, 10**9) == [rows]
        found = session.groups(rows, 10**9, 10**11)
        assert len(found) > 1
        assert all(group[0].key == "ours_eager" for group in found)
        assert {row.key for group in found for row in group} == {row.key for row in rows}
        alone = session.rows_of(("ours", "keras"))
        assert session.groups(alone, 10, 10**9) == [alone]

    def test_joined_rows_come_once(self, measured):
        rows = session.joined([measured[0], measured[0]])["rows"]
        assert [r["key"] for r in rows] == [r["key"] for r in measured[0]["rows"]]


def parsed(given):
    values = copy.deepcopy(command.FLAGS)
    values(["benchmarks", *given])
    return values, command.options(values)


class TestFlags:
    def test_lists_numbers_and_interpreters(self):
        values, options = parsed(
            ["--suite", "step", "--quick", "--shapes=2*3x5+7,mlp", "--step_options", "mask+clip"]
            + ["--python=torch=/a=b", "--peers=", "--nokeep_memory", "--device", "gpu"]
        )
        assert values.suite == ("step",)
        assert options.shapes == ("2*3x5+7", "mlp")
        assert options.step_options == ("mask+clip",)
        assert dict(options.python) == {"torch": "/a=b"}
        assert options.peers == () and not options.keep_memory and options.device == "gpu"
        assert options.repeats == 3
        assert parsed(["--quick", "--repeats=5"])[1].repeats == 5
        assert parsed([])[1].peers == tuple(PEERS)[1:]

    @pytest.mark.parametrize(
        "bad",
        ["--suite=stop", "--shapes=bart", "--step_options=clap", "--python=tarch=/a", "--peers=x"]
        + ["--tables=0x4", "--duplicates=100"],
    )
    def test_what_is_wrong_is_said(self, bad):
        with pytest.raises(flags.Error, match=bad.partition("=")[0].removeprefix("--")):
            parsed([bad])

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["--draw", "--out=nothing", "--suite=step"], ""),
            (["--help"], "--repeat_seconds"),
            (["--suite=stop"], "--suite=stop"),
            (["stop"], "Unexpected arguments"),
        ],
        ids=["draw", "help", "wrong", "unexpected"],
    )
    def test_the_command(self, given, said):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *given], capture_output=True, text=True
        )
        assert done.returncode == (given[0] != "--draw")
        assert said in done.stderr and "Traceback" not in done.stderr

    def test_models(self):
        assert models.of("2*3x5+7") == [(3, 5), (3, 5), (7,)]
        assert models.weights(models.of("bert")) == 109_482_240
        for bad in ("", "bart", "3*", "0x4", "3x4;5"):
            with pytest.raises(ValueError, match=r"allowed are matrices.*3\*4096x4096\+7"):
                models.of(bad)


def console():
    return Console(file=io.StringIO(), width=200)


def printed(suite, found):
    shown = console()
    for table in suite.tables(json.loads(json.dumps(found))):
        shown.print(table)
    return " ".join(shown.file.getvalue().split())


def drawn(suite, found, folder):
    """The pictures of a suite, which must be made from JSON alone."""
    pictures = suite.draw(json.loads(json.dumps(found)), folder, "")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    return pictures


@pytest.mark.parametrize("suite", [step, embedding, train], ids=lambda suite: suite.__name__)
class TestSuites:
    def test_all_rows_are_there(self, suite, tmp_path):
        found = suite.measure(QUICK, console(), starter())
        assert suite.failures(found) == []
        text = printed(suite, found)
        assert "tf_optim_ext" in text and "Keras, tf.function" in text
        assert bool(drawn(suite, found, tmp_path)) == (suite is not embedding)

    def test_a_missing_peer_costs_its_rows_only(self, suite, tmp_path):
        found = suite.measure(QUICK, console(), starter(missing=("keras",)))
        rows = [row for case in found["cases"] for row in case["rows"]]
        assert "keras not installed" in {row["note"] for row in rows if row["failed"]}
        assert any("ms" in row for row in rows)
        assert suite.failures(found) == []
        assert "keras not installed" in printed(suite, found)
        drawn(suite, found, tmp_path)

    def test_wrong_weights_make_a_row_void(self, suite, tmp_path):
        def start(name, options):
            return FakeProcess(name, wrong=0.2 if name == "ours" else 0.0), {}

        found = suite.measure(QUICK, console(), start)
        assert "void: its" in " ".join(suite.failures(found))
        printed(suite, found)
        drawn(suite, found, tmp_path)

    def test_without_a_gpu_rows_say_so(self, suite, tmp_path):
        gpu = Options(**{**vars(QUICK), "device": "gpu"})
        found = suite.measure(gpu, console(), starter())
        assert "TensorFlow sees no GPU" in " ".join(suite.failures(found))
        assert "TensorFlow sees no GPU" in printed(suite, found)
        assert drawn(suite, found, tmp_path) == []


class TestStep:
    def test_sweeps(self):
        assert step.chosen(Options()) == tuple(step.SWEEPS)
        assert step.chosen(Options(shapes=("mlp",))) == ("models",)
        assert step.chosen(Options(shapes=("mlp",), step_options=("clip",))) == ("options",)
        assert step.chosen(Options(sweeps=("bytes",), shapes=("mlp",))) == ("bytes",)
        with pytest.raises(SystemExit, match="none of models"):
            step.chosen(Options(sweeps=("byte",)))

    def test_cases(self):
        found = step.measure(QUICK, console(), starter())["cases"]
        options = [case["options"] for case in found if case["sweep"] == "options"]
        assert options == [[], *(t.split("+") for t in step.SWEEPS["options"].step_options[1:])]
        moved = [case["bytes_per_weight"] for case in found if case["sweep"] == "options"]
        assert moved == [28, 28, 32, 40, 18]
        assert {c["weights"] for c in found if c["sweep"] == "variables"} == {10**6}
        family = [case for case in found if case["sweep"] == "family"]
        assert [case["optimizer"] for case in family] == ["AdamW", "Prodigy"]
        assert by_key(family[1])["ours_eager"]["note"] == "not checked: no reference"

    def test_slow_rows_are_left_out_and_say_so(self):
        case = session.Case("AdamW", "many", ((3,),) * 2000)
        rows = step.wanted_rows(step.SWEEPS["variables"], case, QUICK)
        notes = {row.key: row.note for row in rows}
        assert notes["keras_function"] == "left out: would take too long"
        assert notes["ours_function"] == ""

    def test_shapes_stop_where_memory_ends(self, monkeypatch):
        monkeypatch.setattr(step.timing, "available_memory", lambda: 40 << 20)
        found = list(step.cases(step.SWEEPS["bytes"], Options(), starter()))
        assert 0 < len(found) < len(step.SWEEPS["bytes"].shapes)

    def test_a_gradient_with_more_distinct_rows_than_its_table_is_refused(self):
        wide = Options(tables=("50x4",), rows=("64",), duplicates=("0",))
        with pytest.raises(ValueError, match="too many for 50x4"):
            list(embedding.cases(wide))


class TestTrain:
    def test_numbers(self):
        found = train.measure(QUICK, console(), starter())
        rows = by_key(found["cases"][1])
        assert "ours_lazy_fit" in rows
        assert rows["ours_fit"]["speedup"] == pytest.approx(4)
        assert rows["keras_fit"]["ms_of_optimizer"] == pytest.approx(2)
        assert "ms_of_optimizer" not in rows["nothing_fit"]

    def test_difference(self, tmp_path):
        def saved(name, before, after):
            path = tmp_path / f"{name}.npz"
            np.savez(path, np.float32(before), np.float32(after))
            return path

        wanted = saved("wanted", [0, 0], [3, 4])
        assert train.difference(wanted, wanted) == 0
        assert train.difference(saved("near", [0, 0], [3, 4.5]), wanted) == pytest.approx(0.1)
        assert train.difference(saved("other", [1, 0], [3, 4]), wanted) == float("inf")


class TestGate:
    @pytest.fixture
    def ratios(self):
        content = json.loads(gate.THRESHOLDS.read_text())
        return [{**ratio, "ratio": None, "note": ""} for ratio in content["quick"]]

    def test_rows_exist(self):
        content = json.loads(gate.THRESHOLDS.read_text())
        keys = {row.key for row in session.rows_of(PEERS)} | {session.STREAM}
        for ratio in (*content["quick"], *content["full"]):
            assert {ratio["slow"], ratio["fast"]} <= keys
            models.of(ratio["shapes"])

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
        path = tmp_path / "thresholds.json"
        names = {"optimizer": "AdamW", "slow": "keras_eager", "fast": "ours_eager"}
        ratios = [{**names, "shapes": s, "threshold": t} for s, t in (("7", 3.0), ("8", 5.0))]
        settings = {"quick": {"repeats": 2, "repeat_seconds": 0.0}}
        path.write_text(json.dumps({"settings": settings, "quick": ratios}))
        asked, shown = [], console()
        (failure,) = gate.run(Options(quick=True), shown, path, starter(asked))
        assert failure == "AdamW on 8: keras_eager / ours_eager is 4.00, must be 5.0 or more"
        assert asked.count(("keras", "case")) == 3
        assert "keras_eager" in shown.file.getvalue()


class TestResults:
    def test_new_cases_take_the_place_of_the_same_ones(self, measured, tmp_path, monkeypatch):
        path = tmp_path / "deep" / "step.json"
        case = {"sweep": "models", **measured[0]}
        other = {**case, "options": ["clip"]}
        dates = iter(("2001", "2002", "2003"))
        monkeypatch.setattr(results.time, "strftime", lambda *_: next(dates))
        results.add(path, OPTIONS, {"peers": {}, "cases": [case, other]})
        results.add(path, OPTIONS, {"peers": {"ours": {"gpu": "a card"}}, "cases": [case]})
        content = results.load(path)
        assert [(c["run"], c["options"]) for c in content["cases"]] == [
            ("2001", ["clip"]),
            ("2002", []),
        ]
        failed = {**case, "rows": [{"key": "ours_eager", "failed": True}]}
        again = results.merged(content, {}, {"cases": [failed]})
        assert again["cases"] == content["cases"]
        run = content["runs"]["2002"]
        assert {"revision", "command", "settings", "versions", "machine"} <= set(run)
        assert run["machine"]["gpu"] == "a card"

    def test_another_protocol_is_not_merged(self, tmp_path):
        old = {"runs": {"2001": {}}, "cases": [{"run": "2001", "task": "a"}], "protocol": 1}
        new = {"cases": [{"task": "b"}]}
        assert len(results.merged(old, {}, new | {"protocol": 1})["cases"]) == 2
        assert len(results.merged(old, {}, new | {"protocol": 2})["cases"]) == 1
        for task in "ab":
            found = {"cases": [{"task": task}], "protocol": {"seeds": (1, 2)}}
            results.add(tmp_path / "quality.json", OPTIONS, {"peers": {}, **found})
        assert len(results.load(tmp_path / "quality.json")["cases"]) == 2

    def test_summary(self):
        found = results.summary([0.003, 0.001, 0.002, 0.004, 0.005])
        assert found == {"ms": 3.0, "quartiles_ms": [2.0, 4.0], "repeats": 5}

    def test_gpu_results_lie_beside_those_of_cpus(self, tmp_path):
        assert results.path_of(tmp_path, "step", "cpu").name == "step.json"
        assert results.path_of(tmp_path, "step", "gpu").name == "step_gpu.json"

    def test_commands_name_no_paths(self):
        given = ["--suite=step", "--out", "/some", "--python=torch=/else/python", "--quick"]
        assert results._command(given) == "python -m benchmarks --suite=step --quick"

    # `test_benchmark_quality.py` tests those of the other suite.
    @pytest.mark.parametrize(
        "path", sorted(results.RESULTS.glob("[!q]*.json")), ids=lambda path: path.stem
    )
    def test_kept_ones(self, path, tmp_path, monkeypatch):
        """They can be read and drawn, nothing of ours failed, and no repeats are kept."""
        # Writing the pictures takes most of the time, and is tested above.
        monkeypatch.setattr(pictures, "save", lambda figure, path: pictures.plt.close() or path)
        name, _, variant = path.stem.partition("_")
        suite = {"step": step, "embedding": embedding, "train": train}[name]
        content = json.loads(path.read_text())
        assert {case["run"] for case in content["cases"]} == set(content["runs"])
        assert printed(suite, content)
        assert suite.failures(content) == []
        suffix = "_gpu" if variant == "gpu" else ""
        for picture in suite.draw(content, tmp_path, suffix):
            assert (results.RESULTS / picture.name).exists()
        rows = [row for case in content["cases"] for row in case["rows"] if "ms" in row]
        assert all(len(row["quartiles_ms"]) == 2 and row["repeats"] > 0 for row in rows)

    def test_failures_of_ours(self, measured):
        assert report.failures({"cases": [measured[0]]}) == []
        row = {**measured[0]["rows"][0], "failed": True, "note": "void"}
        assert report.failures({"cases": [{**measured[0], "rows": [row]}]}) == [
            "AdamW on two, tf_optim_ext, eager: void"
        ]

    def test_command_line_without_a_gpu(self, monkeypatch):
        """What fails is said, with an exit status; nothing crashes."""
        measure = step.measure
        monkeypatch.setattr(step, "measure", lambda *given: measure(*given, starter()))
        monkeypatch.setattr(results, "allowed_cpus", lambda: None)
        with pytest.raises(SystemExit, match=r"benchmarks: AdamW on .*TensorFlow sees no GPU"):
            command.execute(parsed(["--suite=step", "--quick", "--device=gpu", "--peers="])[0])


class TestDocuments:
    @pytest.mark.parametrize("path", readme.DOCUMENTS, ids=lambda path: path.name)
    def test_say_what_the_results_say(self, path):
        content = path.read_text()
        assert readme.updated(content, readme.DOCUMENTS[path]()) == content

    def test_marks(self):
        content = f"a\n{readme.BEGIN}old\n{readme.END}b\n"
        assert readme.updated(content, "new") == f"a\n{readme.BEGIN}new\n{readme.END}b\n"

    def test_agreement(self):
        def run(factor=1.0, spread=0.1):
            def row(key, ms):
                quartiles = [ms * (1 - spread), ms * (1 + spread)]
                return {"label": key, "ms": ms, "quartiles_ms": quartiles}

            rows = [row("first", 2.0), row("other", 10.0 * factor), {"label": "missing"}]
            names = {"sweep": "models", "optimizer": "AdamW", "model": "mlp", "options": []}
            return {"cases": [{**names, "rows": rows}]}

        low, high = agreement.spreads(run())["models", "AdamW", "mlp", "other"]
        assert (low, high) == pytest.approx((5.0 * 0.9 / 1.1, 5.0 * 1.1 / 0.9))
        assert agreement.sentence(run(), run(1.4)).startswith("1 of the 1 ratios")
        assert agreement.sentence(run(), run(1.6)).startswith("0 of the 1 ratios")
        runs = [results.load(results.RESULTS / f"{name}.json") for name in ("step", "step_again")]
        text = " ".join((readme.ROOT / "docs" / "performance.md").read_text().split())
        assert agreement.sentence(*runs) in text


class TestProcess:
    def test_a_process_that_ends(self):
        ends = [sys.executable, "-c", "import sys; sys.exit('no luck')"]
        failing = process.Process("It", ends)
        with pytest.raises(process.PeerError, match="It's process ended: no luck"):
            failing.ask("start")
        failing.close()
        with pytest.raises(process.PeerError, match="does not start"):
            process.Process("It", ["/no/such/interpreter"])
