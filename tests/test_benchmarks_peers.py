"""The libraries of the benchmarks that are here, in this process; one in a process of its own."""

import json

import pytest

from benchmarks import arguments, process, session, train
from benchmarks.options import Options
from benchmarks.peers import gpu, of_tensorflow, server, training

OPTIONS = Options(repeats=2, repeat_seconds=0.0)
CASE = session.Case("AdamW", "two", ((3, 5), (7,)))
EVERYTHING = ("mask", "clip", "ema")

pytestmark = pytest.mark.long


class Here:
    """A peer without a process: threads and malloc stay as they are."""

    def __init__(self, served):
        self.served = served
        served.library.device, served.library.threads = "/CPU:0", 1

    def ask(self, request, **given):
        line = json.dumps({"request": request, **given})
        answer = json.loads(json.dumps(server.answer(self.served, line)))
        if reason := answer.get("missing") or answer.get("error"):
            raise process.PeerError(reason)
        return answer

    def close(self):
        self.ask("drop")


def start(name, options):
    return Here(of_tensorflow.Server(of_tensorflow.LIBRARIES[name]())), {}


@pytest.fixture(scope="module")
def measure():
    with session.Session(OPTIONS, start) as running:

        def measure(keys, *names, options=(), **case):
            rows = [row for row in session.rows_of(names) if row.key in keys.split()]
            one = session.Case("AdamW", "two", CASE.shapes, options, **case)
            return {row["key"]: row for row in running.measure(one, rows)["rows"]}

        yield measure


def test_a_table(measure):
    keys = "ours_eager ours_portable keras_function tf_keras_legacy_eager raw_ops_eager"
    rows = measure(keys, "ours", "keras", "tf_keras", "raw_ops")
    assert all(rows[key]["ms"] > 0 for key in keys.split())
    assert rows["ours_eager"]["route"]
    assert rows["ours_eager"]["state_bytes"] >= 2 * 4 * 22
    assert rows["keras_function"]["graph_nodes"] > 50
    assert rows["raw_ops_eager"]["note"] == "Adam: there is no AdamW"
    assert rows["stream"]["ms"] > 0


@pytest.mark.parametrize(
    "options",
    [
        EVERYTHING,
        pytest.param(("accumulate",), marks=pytest.mark.long),
        pytest.param(("clip", "accumulate"), marks=pytest.mark.long),
    ],
)
def test_options(measure, options):
    keys = "ours_eager ours_function keras_function raw_ops_eager"
    rows = measure(keys, "ours", "keras", "raw_ops", options=options)
    assert rows["raw_ops_eager"]["note"].startswith("a loop over tf.raw_ops is not measured")
    for key in keys.split()[:3]:
        assert rows[key]["note"] == ""
        assert rows[key]["state_bytes"] >= 3 * 4 * 22


def test_sparse_gradients():
    rows = [session.Row("ours", mode, kind) for kind in arguments.SPARSE for mode in ("eager",)]
    rows += [session.Row("ours", "function", "lazy"), session.Row("keras", "function")]
    case = session.Case("Adam", "50x4", ((50, 4),), rows=8, duplicates=50)
    with session.Session(OPTIONS, start) as running:
        found = running.measure(case, rows)["rows"]
    notes = {row["key"]: row["note"] for row in found}
    assert notes.pop("keras_function") == "not checked: squares duplicates one by one"
    assert set(notes.values()) == {""}
    assert all(row["ms"] > 0 for row in found)


def test_what_is_missing(measure):
    library = of_tensorflow.Ours()
    library.device = "/CPU:0"
    library.case(*server.checked_case(0))
    with pytest.raises(server.Missing, match="tf_optim_ext has no Adamm"):
        library.make("eager", "Adamm", (), 1)
    with pytest.raises(server.Missing, match="TensorFlow sees no GPU"):
        of_tensorflow.share_gpus()


def test_a_copy_on_a_gpu(monkeypatch, tmp_path):
    """With a driver that only notes what it is asked for."""
    calls = []

    class Driver:
        def __getattr__(self, name):
            return lambda *given: calls.append((name, given)) or int(name == failing)

    failing = None
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver())
    copy = gpu.Copy(28)
    assert copy.run(3) is None
    names = [name for name, _ in calls]
    assert names.count("cuMemcpyDtoDAsync_v2") == 3
    assert names[-1] == "cuCtxSynchronize"
    assert {given[2].value for name, given in calls if "Memcpy" in name} == {14}
    failing = "cuMemAlloc_v2"
    with pytest.raises(server.Missing, match="cuMemAlloc_v2 failed with code 1"):
        gpu.Copy(28)
    monkeypatch.setattr(gpu, "VERSION", tmp_path / "version")
    assert gpu.driver() == "CUDA 0.0"
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23"
    gpu.VERSION.write_text(text)
    assert gpu.driver() == "580.95.05"


def test_training():
    """A step of each kind, and weights that agree."""
    wanted = ("keras_function", "ours_function", "ours_lazy_fit", "nothing_fit")
    served = Here(training.Server(training.Library()))
    with train.TrainingSession(OPTIONS, lambda name, _: (served, {})) as running:
        rows = [row for row in train.rows_of("two towers", train.MODES) if row.key in wanted]
        network = {"task": "two towers", "batch": 8}
        found = running.train(session.Case("AdamW", "", ()), rows, network, lambda *_: None)
    rows = {row["key"]: row for row in found["rows"]}
    assert [row["note"] for row in rows.values()] == [""] * len(wanted)
    assert 0 < rows["ours_function"]["difference"] < 1e-3
    assert 1e-3 < rows["ours_lazy_fit"]["difference"] < train.TOLERANCE
    assert rows["nothing_fit"]["ms"] > 0
    assert rows["nothing_fit"]["difference"] is None
    assert rows["ours_function"]["route"]


def test_a_process():
    """The only one that is started: it has its own threads, and says what it is."""
    with session.Session(Options(repeats=1, repeat_seconds=0.0, threads=1)) as running:
        found = running.measure(CASE, [session.Row("ours", "eager")])
        about = running.about["ours"]
    assert found["rows"][0]["ms"] > 0
    assert {"tensorflow", "keras", "tf_optim_ext"} <= set(about["versions"])
    assert "native" in about
