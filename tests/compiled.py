"""Compiles kernels and the native driver without TensorFlow, and calls them."""

import concurrent.futures
import ctypes
import pathlib
import subprocess

import ml_dtypes
import numpy as np
import pytest

from tf_optim_ext import build
from tf_optim_ext.codegen import cpp

SOURCES = pathlib.Path(__file__).parent / "native"
FORMATS = [np.dtype(d) for d in (np.float32, ml_dtypes.bfloat16, np.float16)]


def find_compiler():
    """The command of the compiler; skips the test where there is none."""
    try:
        return build.find_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))


def compile_with_driver(folder, kernels, sources, output, flags=()):
    """Builds some of `SOURCES` with the driver and kernels.

    Args:
        folder: where to.
        kernels: C++ source of the kernels.
        sources: names of the files in `SOURCES`.
        output: name of the program or library to make.
        flags: more flags for it.

    Returns:
        Path of the program or library.

    Raises:
        build.BuildError: there is no compiler.
        subprocess.CalledProcessError: the compiler refused something.
    """
    compiler = build.find_compiler()
    (folder / "kernels.cc").write_text(kernels)
    commands, objects = build.compile_commands(compiler, folder / "kernels.cc", folder, None)
    # The driver's own flags, sanitizers among them.
    own = [*commands[0][: commands[0].index("-c")], *flags]
    for source in sources:
        objects.append(str(folder / f"{source}.o"))
        commands.append([*own, "-c", str(SOURCES / source), "-o", objects[-1]])

    def run(command):
        return subprocess.run(command, check=True, capture_output=True, text=True)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(run, commands))
    run([*own, "-pthread", *objects, "-o", str(folder / output)])
    return folder / output


class Library:
    """Kernels of given programs."""

    def __init__(self, folder, programs):
        kernels = cpp.emit([(f"program {i}", p) for i, p in enumerate(programs)])
        path = compile_with_driver(folder, kernels, ["library.cc"], "library.so", ["-shared"])
        self._run = ctypes.CDLL(str(path)).run

    def has(self, instruction_set):
        return self._run(instruction_set.encode(), b"", 0, 0, None, None, None, None) != 1

    def run(self, instruction_set, program, arrays, scalars):
        """Runs a program in place.

        Args:
            instruction_set: name of one that `has` holds for.
            program: one of the programs.
            arrays: contiguous arrays: weights, gradient, slots.
            scalars: dict of the values of `program.scalars`, without "size"; the state of a program
                by row as arrays with a number for each row.

        Returns:
            Dict of the new values of the scalar state.
        """
        assert len(arrays) == 2 + len(program.slots)
        assert all(a.flags.c_contiguous and a.shape == arrays[0].shape for a in arrays)
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        formats = (ctypes.c_int * len(arrays))(*(FORMATS.index(a.dtype) for a in arrays))
        shape = arrays[0].shape
        rows = shape[0] if shape else 1
        names = program.state_scalars
        state = np.zeros((len(names), rows) if program.by_row else len(names))
        h = {**scalars, "size": float("nan")}
        if program.by_row:
            for own, name in zip(state, names):
                own[:], h[name] = h[name], float("nan")
        problem = self._run(
            instruction_set.encode(),
            cpp.kernel_name(program).encode(),
            ctypes.c_int64(rows),
            ctypes.c_int64(arrays[0].size // max(rows, 1)),
            pointers,
            formats,
            (ctypes.c_double * len(program.scalars))(*(h[name] for name in program.scalars)),
            state.ctypes.data_as(ctypes.c_void_p),
        )
        assert problem == 0, problem
        return dict(zip(names, state))
