"""Builds the native library: `python -m tf_optim_ext.build` or, for users, `pip install`.

The kernels are generated from the rules and compiled once per instruction set. Only they get that
instruction set's flags: files that include TensorFlow's headers must not, because their inline
functions are shared with the rest of the process.

`python -m tf_optim_ext.build --source AdamW` prints the source of an optimizer's kernels; `--cuda`,
that of those for GPUs.

Environment variables: `CXX` (compiler, default `c++`), `TF_OPTIM_EXT_SANITIZE` (for example
`address,undefined`; for tests of the library itself).
"""

import concurrent.futures
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import tensorflow as tf

from tf_optim_ext import catalogue
from tf_optim_ext.backends.native.loader import HERE, LIBRARY, REPORT, XLA_LIBRARY
from tf_optim_ext.codegen import cpp, cuda

XLA_HEADER = "xla/ffi/api/ffi.h"
SOURCES = pathlib.Path(__file__).parent / "csrc"

# Without errno and traps the compiler may vectorise sqrt; without -ffast-math infinities, NaN and
# the order of additions stay as written.
KERNEL_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mf16c"],
}


class BuildError(Exception):
    """The library could not be built; the message says why, for the user."""


def _run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join(result.stderr.strip().splitlines()[-20:])
        raise BuildError(f"`{' '.join(command[:1])}` failed with code {result.returncode}:\n{tail}")
    return result.stdout


def find_compiler():
    """The C++ compiler as a list of words."""
    words = os.environ.get("CXX", "").split() or ["c++"]
    if shutil.which(words[0]) is None and not os.environ.get("CXX"):
        words = ["g++"]
    if shutil.which(words[0]) is None:
        raise BuildError(f"no C++ compiler: {words[0]} not found")
    return words


def instruction_sets():
    """Names of the instruction sets that make sense on this machine's architecture."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return list(INSTRUCTION_SETS) if x86 else ["baseline"]


def compile_commands(compiler, kernels, folder, tensorflow_flags):
    """Commands that compile the objects of the library, and the objects."""
    common = [*compiler, "-std=c++17", "-fPIC", "-fvisibility=hidden", f"-I{SOURCES}"]
    sanitizers = os.environ.get("TF_OPTIM_EXT_SANITIZE")
    if sanitizers:
        common += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    x86 = ["-DTF_OPTIM_EXT_X86"] if len(instruction_sets()) > 1 else []
    commands, objects = [], []

    def add(source, name, flags):
        objects.append(str(folder / f"{name}.o"))
        commands.append([*common, *flags, "-c", str(source), "-o", objects[-1]])

    if tensorflow_flags is not None:
        for name in ("op", "cuda_op", "gradient_ops"):
            add(SOURCES / f"{name}.cc", name, ["-O2", "-w", *tensorflow_flags])
    for name in ("driver", "row_sums", "huge_pages", "cuda_driver", "cuda_launch"):
        add(SOURCES / f"{name}.cc", name, ["-O2", "-Wall", "-Wextra", *x86])
    for name in instruction_sets():
        define = f"-DTF_OPTIM_EXT_ISA={name}"
        warnings = ["-Wall", "-Wextra", "-Wno-unused"]
        add(kernels, name, [*KERNEL_FLAGS, *INSTRUCTION_SETS[name], *warnings, define])
    return commands, objects


def compile_for_xla(output):
    """Compiles the library for steps under XLA, without linking it with the other one.

    It needs headers and symbols of TensorFlow that are not public, so this may fail where
    `build` does not.

    Raises:
        BuildError: with the reason.
    """
    if os.environ.get("TF_OPTIM_EXT_SANITIZE"):
        raise BuildError("not built with sanitizers")
    include = pathlib.Path(tf.sysconfig.get_include())
    if not (include / XLA_HEADER).exists():
        raise BuildError(f"TensorFlow {tf.__version__} comes without {XLA_HEADER}")
    external = include / "external"
    folders = [SOURCES, external / "highwayhash", external / "farmhash_archive" / "src"]
    flags = ["-std=c++17", "-O2", "-w", "-fPIC", "-fvisibility=hidden"]
    flags += [*tf.sysconfig.get_compile_flags(), *(f"-I{folder}" for folder in folders)]
    output = pathlib.Path(output)
    parts = []
    for name in ("xla_step", "xla_cuda_step"):
        parts.append(str(output.with_name(f"{name}_part.o")))
        _run([*find_compiler(), *flags, "-c", str(SOURCES / f"{name}.cc"), "-o", parts[-1]])
    _run([*find_compiler(), "-nostdlib", "-r", *parts, "-o", str(output)])


def link_for_xla(compiled, target):
    """Links what `compile_for_xla` made with the other library, in the folder `target`.

    Raises:
        BuildError: with the reason.
    """
    tensorflow = ["-L" + tf.sysconfig.get_lib(), "-l:libtensorflow_cc.so.2"]
    this_library = [f"-L{target}", f"-l:{LIBRARY}", "-Wl,-rpath,$ORIGIN", "-Wl,--no-undefined"]
    output = ["-shared", str(compiled), "-o", str(target / XLA_LIBRARY)]
    _run([*find_compiler(), *output, *this_library, *tensorflow, *tf.sysconfig.get_link_flags()])


def build(target):
    """Builds the library into the folder `target`.

    Raises:
        BuildError: with the reason.
    """
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        kernels = folder / "kernels.cc"
        kernels.write_text(cpp.emit(catalogue.all_programs()))
        commands, objects = compile_commands(
            compiler, kernels, folder, tf.sysconfig.get_compile_flags()
        )
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        link = [*compiler, "-shared", "-o", str(pathlib.Path(target) / LIBRARY), *objects]
        sanitizers = os.environ.get("TF_OPTIM_EXT_SANITIZE")
        if sanitizers:
            link.append(f"-fsanitize={sanitizers}")
        _run([*link, *tf.sysconfig.get_link_flags(), "-lpthread", "-ldl"])
    return {
        "tensorflow": tf.__version__,
        "compiler": _run([*compiler, "--version"]).splitlines()[0],
        "instruction_sets": instruction_sets(),
    }


def build_or_report(target):
    """Builds both libraries into `target` and leaves a report there; without those that fail.

    Returns:
        The reason why there is no library, or None.
    """
    target = pathlib.Path(target)
    for name in (LIBRARY, XLA_LIBRARY):
        (target / name).unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        compiled = pathlib.Path(folder) / "xla_step.o"
        compilation = pool.submit(compile_for_xla, compiled)
        try:
            report = {"error": None, **build(target)}
        except BuildError as error:
            report = {"error": str(error)}
        else:
            report["xla_error"] = None
            try:
                compilation.result()
                link_for_xla(compiled, target)
            except BuildError as error:
                report["xla_error"] = str(error)
        # To load a file that was cut off would crash the process.
        for name, key in ((LIBRARY, "bytes"), (XLA_LIBRARY, "xla_bytes")):
            if (target / name).exists():
                report[key] = (target / name).stat().st_size
    (target / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return report["error"]


def sources(names):
    """The kernels of optimizers, given the names of their classes."""
    programs = [each for each in catalogue.all_programs() if each[0].split("(")[0] in names]
    return "\n\n".join(cpp.emit_program(program, title) for title, program in programs)


def cuda_sources(names):
    """The same for GPUs, of those that there are."""
    programs = [each for each in catalogue.all_programs() if each[0].split("(")[0] in names]
    return "\n\n".join(
        f"// {title}\n{cuda.emit(program)}"
        for title, program in programs
        if not cuda.why_not(program)
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--source"]:
        print(sources(sys.argv[2:]))
    elif sys.argv[1:2] == ["--cuda"]:
        print(cuda_sources(sys.argv[2:]))
    else:
        problem = build_or_report(HERE)
        sys.exit(f"not built: {problem}" if problem else 0)
