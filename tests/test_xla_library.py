"""The library for steps inside of XLA: how it is built, found, and refused.

What it computes is tested by `test_compatibility.py`, in a process that asks for it.
"""

import json

import pytest

from tf_optim_ext import native
from tf_optim_ext.native import build


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that the loader takes for its own, with a report of two libraries."""
    monkeypatch.setattr(native, "HERE", tmp_path)
    monkeypatch.setattr(native, "why_not", lambda: None)
    monkeypatch.setenv("TF_OPTIM_EXT_XLA", "on")
    native.why_not_inside_xla.cache_clear()
    write_report(tmp_path, xla_error=None, xla_bytes=3)
    yield tmp_path
    native.why_not_inside_xla.cache_clear()


def write_report(folder, **entries):
    (folder / build.REPORT).write_text(json.dumps({"error": None, **entries}))


class TestLoading:
    def test_off_unless_asked_for(self, folder, monkeypatch):
        monkeypatch.delenv("TF_OPTIM_EXT_XLA")
        assert native.why_not_inside_xla() == "TF_OPTIM_EXT_XLA is not on"

    def test_without_the_native_library(self, folder, monkeypatch):
        monkeypatch.setattr(native, "why_not", lambda: "no compiler")
        assert native.why_not_inside_xla() == "no compiler"

    def test_not_built(self, folder):
        write_report(folder, xla_error="no such header")
        assert native.why_not_inside_xla() == "library for XLA not built: no such header"

    def test_missing(self, folder):
        assert "is damaged; reinstall tf_optim_ext" in native.why_not_inside_xla()

    def test_cut_off(self, folder):
        (folder / build.XLA_LIBRARY).write_bytes(b"\x7fE")
        assert "is damaged; reinstall tf_optim_ext" in native.why_not_inside_xla()

    def test_no_library_at_all(self, folder):
        (folder / build.XLA_LIBRARY).write_bytes(b"abc")
        assert "library for XLA does not load" in native.why_not_inside_xla()


class TestBuilding:
    @pytest.fixture(autouse=True)
    def _without_compiling(self, monkeypatch):
        def make(target):
            (target / build.LIBRARY).write_bytes(b"main")
            return {"tensorflow": "2.21.0"}

        monkeypatch.setattr(build, "build", make)
        monkeypatch.setattr(build, "compile_for_xla", lambda output: output.write_bytes(b"o"))
        monkeypatch.setattr(
            build,
            "link_for_xla",
            lambda compiled, target: (target / build.XLA_LIBRARY).write_bytes(b"for xla"),
        )

    def report(self, folder):
        return json.loads((folder / build.REPORT).read_text())

    def test_both(self, tmp_path):
        assert build.build_or_report(tmp_path) is None
        report = self.report(tmp_path)
        assert (report["error"], report["xla_error"]) == (None, None)
        assert (report["bytes"], report["xla_bytes"]) == (4, 7)

    @pytest.mark.parametrize("what", ["compile_for_xla", "link_for_xla"])
    def test_only_the_first(self, tmp_path, monkeypatch, what):
        def fail(*arguments):
            raise build.BuildError("no such header")

        (tmp_path / build.XLA_LIBRARY).write_bytes(b"of an earlier version")
        monkeypatch.setattr(build, what, fail)
        assert build.build_or_report(tmp_path) is None
        report = self.report(tmp_path)
        assert (report["error"], report["xla_error"]) == (None, "no such header")
        assert "xla_bytes" not in report
        assert not (tmp_path / build.XLA_LIBRARY).exists()

    def test_none(self, tmp_path, monkeypatch):
        def fail(target):
            raise build.BuildError("no compiler")

        monkeypatch.setattr(build, "build", fail)
        assert build.build_or_report(tmp_path) == "no compiler"
        assert self.report(tmp_path) == {"error": "no compiler"}
