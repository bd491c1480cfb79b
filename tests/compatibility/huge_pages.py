"""How much of a table is backed by huge pages, before and after some steps.

Runs in a process of its own, from `test_huge_pages.py`: prints a JSON object, with "skip" and a
reason where the system makes no huge pages when it is asked to. NumPy asks for huge pages as well,
so the table is TensorFlow's.
"""

import ctypes
import json
import mmap
import pathlib
import re

import numpy as np
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import _keras
from tf_optim_ext.backends import native

ROWS, WIDTH, STEPS = 2**17, 64, 10  # 32 MiB
MADV_COLLAPSE = 25


def why_not():
    """Why the system cannot make a huge page, or None."""
    modes = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not modes.exists() or "[never]" in modes.read_text():
        return "this system has no huge pages"
    memory = mmap.mmap(-1, 2**23)
    memory.write(bytes(2**23))
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(MADV_COLLAPSE, 0, 2**23)
    except OSError as error:
        return f"this system makes no huge page when it is asked to: {error}"
    return None


def mebibytes(variable):
    """Huge pages of the mappings that the values of a variable are in."""
    values = variable.value()._numpy()
    begin, found = values.ctypes.data, 0.0
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = int(match[1], 16), int(match[2], 16)
            inside = first < begin + values.nbytes and begin < last
        elif inside and line.startswith("AnonHugePages:"):
            found += int(line.split()[1]) / 1024
    return found


def steps(sparse):
    """Takes steps; returns the table, its slot and the optimizer's route."""
    table = tf.Variable(tf.random.stateless_uniform([ROWS, WIDTH], [1, 2]))
    optimizer = tf_optim_ext.SGD(0.5, momentum=0.9, sparse=sparse)
    optimizer.build([table])
    first, before = table.numpy()[:3], mebibytes(table)
    for _ in range(STEPS):
        optimizer.apply([tf.IndexedSlices(tf.ones([2, WIDTH]), tf.constant([2, 0]))], [table])
    distance = 0.5 * sum(sum(0.9**i for i in range(n + 1)) for n in range(STEPS))
    moved = first - np.array([[distance], [0], [distance]])
    np.testing.assert_allclose(table[:3], moved, rtol=1e-5, atol=1e-5)
    return table, _keras.tensorflow_variable(optimizer.get_slot(table, "momentum")), before


def main():
    if reason := why_not():
        print(json.dumps({"skip": reason}))
        return
    table, slot, before = steps("exact")
    after = [mebibytes(table), mebibytes(slot)]
    asked = []
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    watch = kind(lambda *request: asked.append(request))
    native.library()._functions.tf_optim_ext_watch_huge_pages(watch)
    steps("lazy")
    route = f"native ({native.instruction_set()})"
    print(json.dumps({"route": route, "before": before, "after": after, "asked": len(asked)}))


if __name__ == "__main__":
    main()
