"""The driver, the kernels and the sharing of work without TensorFlow, plain and sanitized: the
programs in `native`."""

import os
import subprocess

import compiled
import conftest
import pytest

from tf_optim_ext import build, catalogue
from tf_optim_ext.codegen import cpp

pytestmark = pytest.mark.once

# What differs in more than arithmetic: passes, slots, scalar state, sums over all variables, and
# kernels by row of one and two passes.
KERNELS = (
    "accumulate",
    "average",
    "reset",
    "SGD(",
    "AdamW(amsgrad=True, cautious=False, cautious_weight_decay=False",
    "AdamW(amsgrad=False, cautious=True, cautious_weight_decay=True",
    "Lamb(cautious=False",
    "MARS(cautious=False",
    "NovoGrad(grad_averaging=False, amsgrad=True, cautious=False",
    "Ftrl(square_root=False",
    "MADGRAD",
    "COCOB",
    "DAdaptAdam(cautious=False",
    "Prodigy(cautious=True",
    "ScheduleFreeSGD",
    "Lion(cautious=False, cautious_weight_decay=True, row_wise=False, catch_up=True",
    "Adagrad(row_wise=True, catch_up=True",
    "Adam(amsgrad=True, cautious=False, cautious_weight_decay=False, row_wise=True",
)
SOURCES = ("beside_test.cc", "driver_test.cc", "huge_pages_test.cc", "rows_test.cc")


def kernels():
    """Source of some kernels: all would take minutes to compile with sanitizers."""
    chosen = [next((t, p) for t, p in catalogue.all_programs() if t.startswith(k)) for k in KERNELS]
    return cpp.emit(chosen)


def find_compiler(folder, sanitizers=None):
    """The compiler; skips where there is none that could."""
    compiler = compiled.find_compiler()
    if sanitizers:
        (folder / "empty.cc").write_text("int main() { return 0; }\n")
        command = [*compiler, f"-fsanitize={sanitizers}", "empty.cc", "-o", "empty"]
        for attempt in (command, ["./empty"]):
            result = subprocess.run(
                attempt, cwd=folder, capture_output=True, text=True, check=False
            )
            if result.returncode != 0:
                pytest.skip(f"no -fsanitize={sanitizers} here: {result.stderr.strip()[-200:]}")
    return compiler


def built(folder, monkeypatch, sanitizers=None):
    """Builds the program that tests the driver."""
    find_compiler(folder, sanitizers)
    monkeypatch.delenv("TF_OPTIM_EXT_SANITIZE", raising=False)
    if sanitizers:
        monkeypatch.setenv("TF_OPTIM_EXT_SANITIZE", sanitizers)
    return compiled.compile_with_driver(folder, kernels(), SOURCES, "driver_test")


def run(program, *arguments):
    options = {"ASAN_OPTIONS": "halt_on_error=1", "TSAN_OPTIONS": "halt_on_error=1"}
    options["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1"
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,  # only what hangs takes as long, on any machine
        env={**os.environ, **options},
    )


def check_clean(result):
    assert result.returncode == 0, result.stdout + result.stderr[-5000:]
    assert "runtime error" not in result.stderr
    assert "WARNING" not in result.stderr
    assert "0 failures" in result.stdout


def check(result):
    check_clean(result)
    for name in conftest.POSSIBLE:
        assert f"{name}: " in result.stdout
    assert "huge pages" in result.stdout


@pytest.mark.long
def test_driver(tmp_path, monkeypatch):
    check(run(built(tmp_path, monkeypatch)))


@pytest.mark.long
def test_driver_with_address_and_undefined_behaviour_sanitizers(tmp_path, monkeypatch):
    program = built(tmp_path, monkeypatch, "address,undefined")
    check(run(program))
    overflow = run(program, "overflow")
    assert overflow.returncode != 0
    assert "heap-buffer-overflow" in overflow.stderr


@pytest.mark.long
def test_driver_with_thread_sanitizer(tmp_path, monkeypatch):
    program = built(tmp_path, monkeypatch, "thread")
    check(run(program))
    race = run(program, "race")
    assert race.returncode != 0
    assert "data race" in race.stderr


@pytest.mark.parametrize(
    "sanitizers", ["thread", pytest.param("address,undefined", marks=pytest.mark.long)]
)
def test_shared_work(tmp_path, sanitizers):
    program = tmp_path / "shared_work_test"
    flags = ["-std=c++17", "-O2", "-g", "-pthread", f"-fsanitize={sanitizers}"]
    source = [
        f"-I{build.SOURCES}",
        str(compiled.SOURCES / "shared_work_test.cc"),
        "-o",
        str(program),
    ]
    compiler = find_compiler(tmp_path, sanitizers)
    subprocess.run([*compiler, *flags, *source], check=True, capture_output=True)
    check_clean(run(program))
    if sanitizers == "thread":
        race = run(program, "race")
        assert race.returncode != 0
        assert "data race" in race.stderr
