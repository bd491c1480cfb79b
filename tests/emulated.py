"""Steps on GPUs, run on the CPU: kernels by `cuda_shim.h`, and `cuda_stub.cc` for the driver."""

import ctypes
import functools
import hashlib
import pathlib
import re
import subprocess
import tempfile

import tensorflow as tf

from tf_optim_ext import build
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import cuda, nvrtc
from tf_optim_ext.codegen import cuda as lowering
from tf_optim_ext.engine import route, targets

HERE = pathlib.Path(__file__).parent
KERNEL = re.compile(r'extern "C" __global__ void (?:\S+ )?(\w+)\(const __grid_constant__ (\w+)')
OPS = {
    "tf_optim_ext_step": "TfOptimExtStep",
    "tf_optim_ext_squared_norms": "TfOptimExtSquaredNorms",
}
FLAGS = ("-O1", "-w", "-shared", "-fPIC", "-std=c++17", "-ffp-contract=off", "-fno-math-errno")


@functools.cache
def _folder():
    folder = tempfile.TemporaryDirectory()
    return folder, pathlib.Path(folder.name)


def _run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@functools.cache
def stub():
    """The driver's place; None if there is a driver."""
    try:
        ctypes.CDLL(cuda.DRIVER)
    except OSError:
        pass
    else:
        return None
    path = _folder()[1] / "libcuda.so.1"
    flags = [
        "-std=c++17",
        "-shared",
        "-fPIC",
        "-O1",
        f"-I{build.SOURCES}",
        f"-Wl,-soname,{path.name}",
    ]
    _run([*build.find_compiler(), *flags, HERE / "cuda_stub.cc", "-o", path, "-ldl"])
    library = ctypes.CDLL(str(path))  # under the name by which others look for it
    library.stub_calls.restype = ctypes.c_char_p
    return library


def compiled(source, architecture=90, options=lowering.OPTIONS):
    """What the stub takes for machine code."""
    name = hashlib.sha256(source.encode()).hexdigest()[:24]
    path = _folder()[1] / f"{name}.so"
    if not path.exists():
        runs = [
            f'extern "C" void run_{kernel}(unsigned blocks, void** parameters) {{\n'
            "  // In the reverse order, which is as good as any.\n"
            "  for (blockIdx.x = blocks; blockIdx.x-- > 0;)\n"
            f"    {kernel}(*static_cast<const {table}*>(parameters[0]));\n}}\n"
            for kernel, table in KERNEL.findall(source)
        ]
        text = (HERE / "cuda_shim.h").read_text() + source + "\n".join(runs)
        path.with_suffix(".cc").write_text(text)
        _run([*build.find_compiler(), *FLAGS, path.with_suffix(".cc"), "-o", path])
    return str(path).encode()


def _labelled(op, function):
    """The function of an op that runs the kernel for GPUs."""

    def run(**arguments):
        if tf.executing_eagerly():  # which has no labels
            return tf.function(lambda: run(**arguments), autograph=False)()
        graph = tf.compat.v1.get_default_graph()
        with graph._kernel_label_map({op: "cuda"}):
            result = function(**arguments)
        return result if tf.is_tensor(result) else None

    return run


def emulate(monkeypatch, large_tables=False):
    """Weights are taken for those on a GPU, and steps over them go there; returns `stub()`."""
    monkeypatch.setattr(targets.Targets, "are_on_gpus", True)
    monkeypatch.setattr(targets.Targets, "obstacle", "weights on GPU:0")
    monkeypatch.setattr(targets, "elsewhere", lambda device: "weights on GPU:0")
    for module in (targets, route):
        monkeypatch.setattr(module, "is_gpu", lambda device: True)
    monkeypatch.setattr(native, "why_not_on_gpu", lambda device: None)
    monkeypatch.setattr(cuda, "_architecture", lambda device: (90, None))
    monkeypatch.setattr(cuda, "_takes_large_tables", lambda: large_tables)
    monkeypatch.setattr(cuda, "_results", {})
    monkeypatch.setattr(nvrtc, "compiled", compiled)
    ops = native.library().ops
    for name, op in OPS.items():
        monkeypatch.setattr(ops, name, _labelled(op, getattr(ops, name)))
    library = stub()
    library.stub_forget()
    return library
