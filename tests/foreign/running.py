"""Runs tests that others wrote for their optimizers with ours in the place of theirs.

Nothing of them is copied: their modules are imported from where they are, after the names that they
import were bound to our classes. That changes whole modules of Keras, so it happens in a process of
its own; `Suite.run` starts it, `main` is what runs there.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest

TESTS = pathlib.Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Known:
    """Failures that have one reason.

    Attributes:
        kind: one of `KINDS`.
        why: what it is about, in a sentence.
        error: regular expression that the error text of each must have.
        tests: ids of the tests, `module::Class::test`; without `[...]`, all with parameters.
    """

    kind: str
    why: str
    error: str
    tests: tuple[str, ...]


KINDS = {
    "private": "uses an attribute or a method that is private to Keras",
    "wording": "wants the words of an error or a warning",
    "stricter": "ours refuses, or warns of, what Keras accepts, and the documentation says so",
    "different": "wants numbers or names that differ from ours by design, as documentation says",
    "defect": "asserts a defect of theirs, or runs into one, with their own classes, too",
    "setting": "needs what is not here: a package, a device, a file of their repository",
    "other": "is for a class or interface that this package does not stand in for",
    "todo": "a defect of ours, not mended yet",
}


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tests of one project.

    Attributes:
        name: of the module in this folder that has `install()`, which puts our classes in place.
        processes: the modules to run, or files; those of one tuple share a process.
        known: the failures that are known.
    """

    name: str
    processes: tuple[tuple[str, ...], ...]
    known: tuple[Known, ...]

    def run(self, modules, package, **environment):
        """Runs modules in a process of their own.

        Returns:
            Dict from the id of a test to "passed", "skipped", or the text of its error.
        """
        with tempfile.TemporaryDirectory() as folder:
            results = pathlib.Path(folder) / "results.json"
            path = f"{package}{os.pathsep}{TESTS}"
            module = f"foreign.{self.name}"
            command = [sys.executable, "-m", "foreign.running", module, str(results), *modules]
            run = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": path, "TMPDIR": folder, **environment},
            )
            if not results.exists():
                raise RuntimeError(f"{' '.join(command)}\n{run.stdout[-4000:]}{run.stderr[-4000:]}")
            return json.loads(results.read_text())

    def complaints(self, outcomes, modules):
        """What is not as `known` says: a list of texts."""
        expected = {}
        for known in self.known:
            for test in known.tests:
                if test.split("::")[0] in modules:
                    assert test not in expected, f"{test} is listed twice"
                    expected[test] = known
        found, seen = [], set()
        for test, outcome in outcomes.items():
            name = test if test in expected else test.split("[")[0]
            known = expected.get(name)
            seen.add(name)
            if outcome in ("passed", "skipped"):
                if known and known.kind != "setting":  # another machine may have it
                    found.append(f"{test} {outcome}, but is listed as a failure ({known.kind})")
            elif known is None:
                found.append(f"{test} fails, and is not listed:\n{outcome}")
            elif not re.search(known.error, outcome):
                found.append(f"{test} fails for another reason than {known.error!r}:\n{outcome}")
        gone = [test for test in expected if test not in seen]
        return found + [f"{test} is listed as a failure, but was not run" for test in gone]


class _Outcomes:
    """A plugin of pytest that keeps the outcome of each test."""

    def __init__(self):
        self.of = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        parts = [item.module.__name__, *item.nodeid.split("::")[1:]]
        test = re.sub("0x[0-9a-f]+", "0x", "::".join(parts))
        if report.failed:
            where = call.excinfo.traceback[-1]
            text = f"{call.excinfo.typename}: {call.excinfo.value}"
            self.of[test] = f"{text[:3000]}\n  at {where.path.name}:{where.lineno + 1}"
        elif report.skipped:
            self.of[test] = "skipped"
        else:
            self.of.setdefault(test, "passed")
        return report

    def pytest_collectreport(self, report):
        if report.failed:
            self.of[str(report.nodeid)] = f"not imported: {report.longreprtext[-3000:]}"


def replace_everywhere(replacements, prefix):
    """Binds every global of the modules of a package that is one of some objects to another.

    Args:
        replacements: list of pairs of a class and what is to be in its place.
        prefix: name of the package.
    """
    by_id = {id(theirs): ours for theirs, ours in replacements}
    for name, module in list(sys.modules.items()):
        if name == prefix or name.startswith(f"{prefix}."):
            for attribute, value in list(vars(module).items()):
                if id(value) in by_id:
                    setattr(module, attribute, by_id[id(value)])


def rewritten(path, replacements):
    """A copy of a file in the current folder, with some texts replaced; returns its name.

    Args:
        path: of the file.
        replacements: list of pairs of a regular expression and what replaces it.
    """
    text = path.read_text()
    for pattern, replacement in replacements:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    pathlib.Path(path.name).write_text(text)
    return path.name


def main(module, results, *modules):
    files = importlib.import_module(module).install(modules)
    outcomes = _Outcomes()
    configuration = pathlib.Path("pytest.ini")
    configuration.write_text("[pytest]\n")
    options = ["-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main([*options, "-c", str(configuration), *files], plugins=[outcomes])
    pathlib.Path(results).write_text(json.dumps(outcomes.of, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
