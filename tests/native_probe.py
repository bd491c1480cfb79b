"""What `test_native.py` asks of other processes: `python native_probe.py TASK...` prints JSON.

Threads, the instruction set at start and the folder of the package are chosen when a process
starts, so these questions need processes of their own.
"""

import hashlib
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ml_dtypes
import numpy as np
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import loader


def start():
    """How the package finds itself; takes a step."""
    optimizer = tf_optim_ext.SGD(0.5)
    variable = tf.Variable([1.0, 2.0])
    optimizer.apply([tf.ones(2)], [variable])
    return {
        "why_not": native.why_not(),
        "instruction_set": native.instruction_set(),
        "route": str(optimizer.route),
        "has": native.has(optimizer._program()),
        "result": variable.numpy().tolist(),
        "package": str(pathlib.Path(tf_optim_ext.__file__).parent),
    }


def digest():
    """Digest of all bits after steps with large and small variables of all formats."""
    rng = np.random.default_rng(5)
    formats = [np.float32, ml_dtypes.bfloat16, np.float16, np.float32]
    shapes = [(700, 1000), (16_385,), (300, 1001), (), (7,), (0, 3), (100_003,)]
    weights = [rng.normal(size=s).astype(formats[i % 4]) for i, s in enumerate(shapes)]
    gradients = [[rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(2)]
    found = hashlib.sha256()
    for optimizer in (
        tf_optim_ext.AdamW(0.01, amsgrad=True, global_clipnorm=1.0),
        tf_optim_ext.Lamb(0.01, weight_decay=0.1, clipnorm=2.0),
    ):
        variables = [tf.Variable(w) for w in weights]
        for gs in gradients:
            optimizer.apply([tf.constant(g) for g in gs], variables)
        for array in (*variables, *optimizer.variables):
            found.update(np.asarray(array).tobytes())
    for optimizer in (
        tf_optim_ext.Lamb(0.01, global_clipnorm=1.0),
        tf_optim_ext.LazyAdam(0.01),
        tf_optim_ext.Adam(0.01, row_wise=True, sparse="catch_up", weight_decay=0.1),
    ):
        tables = [tf.Variable(w) for w in (weights[0], weights[2])]
        for _ in range(2):
            indices = rng.integers(0, 300, size=2000)
            optimizer.apply([_sparse(rng, indices, table.shape) for table in tables], tables)
        for array in (*tables, *optimizer.variables):
            found.update(np.asarray(array).tobytes())
    return found.hexdigest()


def _sparse(rng, indices, shape):
    values = rng.normal(size=(len(indices), shape[1])).astype(np.float32)
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices), shape)


def digests():
    """The digest with each instruction set."""
    found = {}
    for name in loader.BEST_FIRST:
        try:
            native.use(name)
        except (ValueError, RuntimeError):
            continue
        found[name] = digest()
    return found


def broken():
    """Why the library is not in use when its report, or the library itself, is not as it should be.

    Changes the package: it must be a copy.
    """
    os.environ.pop(loader.VARIABLE, None)
    folder = loader.HERE
    report = folder / loader.REPORT
    good = report.read_text()
    contents = json.loads(good)
    found = {}

    def ask(name):
        found[name] = loader._load()[1]

    ask("good")
    report.unlink()
    ask("no report")
    for name, text in {
        "another version": json.dumps({**contents, "tensorflow": "2.99.0"}),
        "another patch": json.dumps({**contents, "tensorflow": tf.__version__ + ".99"}),
        "failed": json.dumps({"error": "no C++ compiler: c++ not found"}),
        "cut off": good[: len(good) // 2],
        "empty": "",
        "no dictionary": "[1, 2]",
        "another dictionary": "{}",
    }.items():
        report.write_text(text)
        ask(name)
    # Each in a folder of its own: the loader remembers what it has loaded.
    library = (folder / loader.LIBRARY).read_bytes()
    for name, contents in {
        "no library": None,
        "library cut off": library[:40],
        "text for a library": b"not a library",
        "zeros for a library": bytes(len(library)),
        "folder for a library": "folder",
    }.items():
        loader.HERE = folder / name
        loader.HERE.mkdir()
        (loader.HERE / loader.REPORT).write_text(good)
        if contents == "folder":
            (loader.HERE / loader.LIBRARY).mkdir()
        elif contents is not None:
            (loader.HERE / loader.LIBRARY).write_bytes(contents)
        ask(name)
    return found


def main(tasks):
    for task in tasks:
        if task.startswith("threads="):
            tf.config.threading.set_intra_op_parallelism_threads(int(task.split("=")[1]))
    functions = [task for task in tasks if "=" not in task]
    print(json.dumps({task: globals()[task]() for task in functions}))


if __name__ == "__main__":
    main(sys.argv[1:])
