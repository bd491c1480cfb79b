"""How much of a table is backed by huge pages, before and after a lazy step.

Runs in a process of its own, from `test_sparse.py`: prints a JSON object. NumPy asks for huge pages
as well, so the table is TensorFlow's.
"""

import json
import pathlib
import re

import numpy as np
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import compat

ROWS, WIDTH = 2**17, 64  # 32 MiB


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


def main():
    table = tf.Variable(tf.random.stateless_uniform([ROWS, WIDTH], [1, 2]))
    optimizer = tf_optim_ext.SGD(0.5, momentum=0.9, sparse="lazy")
    optimizer.build([table])
    first = table.numpy()[:3]
    before = mebibytes(table)
    for _ in range(2):
        optimizer.apply([tf.IndexedSlices(tf.ones([2, WIDTH]), tf.constant([2, 0]))], [table])
    np.testing.assert_allclose(table[:3], first - np.array([[1.45], [0], [1.45]]), rtol=1e-5)
    slot = optimizer.get_slot(table, "momentum")
    after = [mebibytes(table), mebibytes(compat.tensorflow_variable(slot))]
    print(json.dumps({"route": optimizer.route, "before": before, "after": after}))


if __name__ == "__main__":
    main()
