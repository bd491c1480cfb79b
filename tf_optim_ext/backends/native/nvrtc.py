"""NVIDIA's run-time compiler, if there is one, and a cache of what it made.

Nothing of CUDA is needed to build or to install this package: the compiler comes with TensorFlow's
`[and-cuda]`, or with a toolkit.
"""

import ctypes
import functools
import glob
import hashlib
import os
import pathlib
import sys
import tempfile

VERSIONS = (12, 13)
_DIGEST = hashlib.sha256().digest_size


class CompileError(Exception):
    """What the compiler says."""


class Compiler:
    """NVRTC.

    Attributes:
        version: for example (12, 9).
    """

    def __init__(self, path):
        self._library = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def compile(self, source, architecture, options):
        """Machine code of a source.

        Args:
            source: text of CUDA C++.
            architecture: for example 90, for devices of compute capability 9.0.
            options: for the compiler.

        Raises:
            CompileError: with the compiler's log.
        """
        program = ctypes.c_void_p()
        handle = ctypes.byref(program)
        self._call("nvrtcCreateProgram", handle, source.encode(), b"step.cu", 0, None, None)
        try:
            words = [f"--gpu-architecture=sm_{architecture}".encode()]
            words += [option.encode() for option in options]
            array = (ctypes.c_char_p * len(words))(*words)
            code = self._library.nvrtcCompileProgram(program, len(words), array)
            if code != 0:
                log = self._text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program)
                text = log.rstrip(b"\0").decode(errors="replace").strip()
                raise CompileError(f"{self._error(code)} for sm_{architecture}: {text}")
            return self._text("nvrtcGetCUBINSize", "nvrtcGetCUBIN", program)
        finally:
            self._library.nvrtcDestroyProgram(handle)

    def _text(self, size_function, function, program):
        size = ctypes.c_size_t()
        self._call(size_function, program, ctypes.byref(size))
        text = ctypes.create_string_buffer(max(1, size.value))
        self._call(function, program, text)
        return text.raw[: size.value]

    def _call(self, function, *args):
        code = getattr(self._library, function)(*args)
        if code != 0:
            raise CompileError(f"{function}: {self._error(code)}")

    def _error(self, code):
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return self._library.nvrtcGetErrorString(code).decode()


def _places():
    """Where NVRTC may be: NVIDIA's packages, what the loader knows, toolkits."""
    for version in VERSIONS:
        name = f"libnvrtc.so.{version}"
        for folder in sys.path:
            for package in ("cuda_nvrtc", f"cu{version}"):
                yield from glob.glob(os.path.join(folder, "nvidia", package, "lib", name))
        yield name
        for toolkit in (os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"):
            yield from glob.glob(os.path.join(toolkit, "lib64", name))


@functools.cache
def find():
    """Returns a `Compiler` or None, and why it is None."""
    reasons: list[str] = []
    for path in _places():
        try:
            return Compiler(path), None
        except (OSError, AttributeError, CompileError) as error:
            reasons.append(str(error).splitlines()[0])
    return None, f"no NVRTC: {reasons[0]}"


def _cache_folder():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(home) / "tf_optim_ext" / "cuda"


def compiled(source, architecture, options):
    """Machine code of a source, from the cache if another process compiled it before.

    Raises:
        CompileError: with the compiler's log, or why there is no compiler.
    """
    compiler, reason = find()
    if compiler is None:
        raise CompileError(str(reason))
    key = repr((source, architecture, options, compiler.version))
    path = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    stored = _read(path)
    if stored is not None:
        return stored
    image = compiler.compile(source, architecture, options)
    _write(path, image)
    return image


def _read(path):
    """What `_write` wrote; None if there is nothing, or it is damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    image = stored[_DIGEST:]
    return image if image and hashlib.sha256(image).digest() == stored[:_DIGEST] else None


def _write(path, image):
    """Stores an image; another process sees all of it or nothing. Does nothing if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(image).digest() + image)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
    except OSError:
        return
