"""The driver of a GPU: its version, and how fast the card copies."""

import ctypes
import re
from pathlib import Path

from benchmarks.peers import server

VERSION = Path("/proc/driver/nvidia/version")


def driver() -> str | None:
    """The version of the driver, or of the CUDA that it brings where the system does not tell."""
    text = VERSION.read_text() if VERSION.exists() else ""
    if found := re.search(r"\b\d+\.\d+(\.\d+)?\b", text):
        return found.group()
    number = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return None
    return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"


class Copy(server.Step):
    """Copies on the device, by the driver, in the context that TensorFlow has made."""

    route = "cuMemcpyDtoD"

    def __init__(self, moved: int) -> None:
        """Copies half as many bytes as are moved: each is read and written."""
        self._cuda, self._bytes = ctypes.CDLL("libcuda.so.1"), ctypes.c_size_t(moved // 2)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._arrays = ctypes.c_uint64(), ctypes.c_uint64()
        for array in self._arrays:
            self._call("cuMemAlloc_v2", ctypes.byref(array), self._bytes)

    def _call(self, name: str, *given: object) -> None:
        if code := getattr(self._cuda, name)(*given):
            raise server.Missing(f"{name} failed with code {code}")

    def step(self) -> None:
        self._call("cuMemcpyDtoDAsync_v2", *self._arrays, self._bytes, None)

    def finish(self) -> None:
        self._call("cuCtxSynchronize")

    def __del__(self) -> None:
        for array in getattr(self, "_arrays", ()):
            self._cuda.cuMemFree_v2(array)
