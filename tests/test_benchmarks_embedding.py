"""The suites of embedding tables and of the whole family: what they check, split and show."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks import embedding, embedding_report, embedding_rows, family
from benchmarks import embedding_cases as cases
from benchmarks.options import Options

SMALL = Options(tables=("50x4",), rows=("8", "16"), repeats=("0", "50"), peers=("torch",))


def printed(tables):
    console = Console(width=200, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def row(key, ms, ratio, group=0, **more):
    return {
        "key": key,
        "label": embedding_rows.Row("tensorflow", key).label,
        "group": group,
        "route": "native (avx2)",
        "note": "",
        "failed": False,
        "ms": ms,
        "ms_quartiles": [ms, ms],
        "ratio_to_anchor": ratio,
        "peak_memory_growth_bytes": 2**20,
        **more,
    }


def failed(key, note):
    label = embedding_rows.Row("torch", key).label
    return {"key": key, "label": label, "group": 0, "route": "", "note": note, "failed": True}


def results_of(sizes, rows):
    wanted = [cases.Case(*size, rows=count, repeats=0) for size in sizes for count in (256, 4096)]
    found = [
        embedding.case_result(embedding.table_case(case, Options(), 1 << 40), [{"rows": rows}])
        for case in wanted
    ]
    goals = [goal.json for goal in embedding_report.goals(found)]
    return {"cases": found, "scaling": embedding_report.scaling(found), "goals": goals}


def test_cases_are_all_combinations_and_those_of_a_table_are_neighbours():
    found = embedding.wanted_cases(SMALL)
    assert [(case.rows, case.repeats) for case in found] == [(8, 0), (16, 0), (8, 50), (16, 50)]
    quick = embedding.wanted_cases(Options(quick=True, rows=("7",)))
    assert [(case.table_rows, case.rows) for case in quick] == [(20_000, 7)]


def test_a_gradient_with_more_distinct_rows_than_its_table_is_refused():
    with pytest.raises(ValueError, match=r"50 x 4, 64 rows.*Give --tables with more rows"):
        embedding.wanted_cases(Options(tables=("50x4",), rows=("64",), repeats=("0",)))


def test_gradients_repeat_as_many_rows_as_they_say():
    case = cases.Case(50, 4, 16, 50)
    given = cases.gradients(case, 0)
    assert len(given) == cases.GRADIENTS
    for ids, values in given:
        assert len(np.unique(ids)) == 8
        assert values.shape == (16, 4)
        assert np.abs(values).min() >= 1e-4
    assert cases.checksum(given) == cases.checksum(cases.gradients(case, 0))
    assert cases.checksum(given) != cases.checksum(cases.gradients(case, 1))


@pytest.mark.parametrize("kind", ["exact", "lazy", "catch_up", "row_wise"])
def test_the_check_knows_the_kinds_of_adam_apart(kind):
    given = cases.gradients(cases.CHECKED, 3)
    found = cases.adam(kind, cases.small_table(3), given).astype(np.float32)
    for reference in ("exact", "lazy", "catch_up", "row_wise"):
        wrong = cases.what_is_wrong(reference, found, 3)
        assert wrong is None if reference == kind else wrong.startswith("void: off by")


def test_groups_fit_the_budget_and_keep_every_kind_once():
    kinds = embedding_rows.wanted_kinds(Options(peers=("keras", "tf_keras", "torch")))
    assert embedding_rows.groups(kinds, 1, 1000) == [kinds]
    budget = 12
    found = embedding_rows.groups(kinds, 1, budget)
    assert sorted(kind for group in found for kind in group) == sorted(kinds)
    assert len(found) > 1
    for group in found:
        needed = {*group, "lazy"}
        assert sum(embedding_rows.KINDS[kind].memory for kind in needed) <= budget
        assert embedding_rows.rows_of(group, Options())[0].key == embedding_rows.ANCHOR


def test_peers_and_their_eager_steps_can_be_left_out():
    keys = [r.key for r in embedding_rows.rows_of(["keras", "torch"], Options(eager_peers=False))]
    assert keys == ["lazy_eager", "keras_function", "torch"]
    assert "keras" not in embedding_rows.wanted_kinds(Options(peers=("torch",)))


class FakeProcess:
    """Answers as a server would; what it says of its table may be wrong."""

    def __init__(self, shift=0.0, checksum=None):
        self.shift, self.checksum = shift, checksum

    def ask(self, request, **given):
        if request == "check_table":
            kind = embedding_rows.split(given["mode"])[0]
            reference = embedding_rows.KINDS[kind].reference or "exact"
            gradients = cases.gradients(cases.CHECKED, given["seed"])
            table = cases.adam(reference, cases.small_table(given["seed"]), gradients)
            return {"table": (table + self.shift).tolist()}
        if request == "table":
            found = cases.checksum(cases.gradients(cases.Case(**given["case"]), given["seed"]))
            return {"checksum": self.checksum or found}
        answers = {
            "build": {
                "route": "tensorflow: no library",
                "traces": [],
                "first_step_seconds": 1.0,
                "state_bytes": 0,
                "steps_per_window": 1,
            },
            "window": {"seconds": 0.25},
            "weights_are_finite": {"finite": True},
            "peak_growth": {"bytes": 0},
        }
        return answers.get(request, {})

    def close(self):
        pass


def measured(monkeypatch, process):
    monkeypatch.setattr(embedding, "start", lambda name, options: (process, {}))
    options = Options(windows=2)
    case = embedding.table_case(cases.Case(50, 4, 8, 50), options, 1 << 40)
    with embedding.Session(options) as session:
        rows = embedding_rows.rows_of(["lazy", "keras"], options)
        part = session.measure(case, rows)
    return {found["key"]: found for found in embedding.case_result(case, [part])["rows_of_table"]}


def test_rows_are_timed_and_say_where_they_ran(monkeypatch):
    found = measured(monkeypatch, FakeProcess())
    assert list(found) == ["lazy_eager", "lazy_function", "keras_eager", "keras_function"]
    assert found["lazy_eager"]["ms"] == 250.0
    assert found["lazy_eager"]["note"] == "expected: native"
    assert found["keras_eager"]["note"].startswith("not checked")
    assert not any(row["failed"] for row in found.values())


def test_a_row_with_a_wrong_table_is_void(monkeypatch):
    found = measured(monkeypatch, FakeProcess(shift=1e-3))
    assert found["lazy_eager"]["failed"]
    assert found["lazy_eager"]["note"].startswith("void: off by 0.001")
    assert "ms" not in found["lazy_eager"]
    assert not found["keras_eager"]["failed"]


def test_rows_with_other_gradients_are_void(monkeypatch):
    found = measured(monkeypatch, FakeProcess(checksum=1))
    assert all("other gradients" in row["note"] for row in found.values())


def test_tables_picture_and_failures(tmp_path):
    rows = [row("lazy_eager", 2.0, 1.0), row("keras_function", 500.0, 250.0)]
    rows += [row("exact_eager", 40.0, 20.0), failed("torch", "torch not installed")]
    results = json.loads(json.dumps(results_of([(1_000_000, 64), (2_000_000, 32)], rows)))
    text = printed(embedding.tables(results))
    for expected in ("250.00", "torch not installed", "2.00 x", "250.0x", "12.5x", "below 4 MiB"):
        assert expected in text
    assert [goal["verdict"] for goal in results["goals"]] == ["met", "not measured", "met", "met"]
    assert embedding.failures(results) == []
    (picture,) = embedding.draw(results, tmp_path)
    assert picture.stat().st_size > 10_000
    results["cases"][0]["rows_of_table"].append(failed("lazy_function", "void"))
    assert len(embedding.failures(results)) == 1


def test_rows_of_the_family_that_fail_are_named():
    good = {"route": "native (avx2)", "part_of_limit": 0.9}
    rows = {"Adam": good, "Lion": {**good, "route": "tensorflow: portable"}}
    rows["SGD"] = {"failed": True, "note": "failed: OutOfMemory"}
    found = family.failures({"device": "cpu", "rows": rows})
    assert len(found) == 2
    assert "Lion" in found[0]
    assert "OutOfMemory" in found[1]
