"""How long `import tf_optim_ext` takes after TensorFlow and Keras: -m benchmarks.import_time."""

import os
import statistics
import subprocess
import sys

from benchmarks import ROOT

PROCESSES = 7
VARIANTS = {"with its native library": {}, "without": {"TF_OPTIM_EXT_NATIVE": "off"}}
CODE = """
import benchmarks  # takes the installed package if there is one
import time
import tensorflow as tf
tf.keras
start = time.perf_counter()
import tf_optim_ext
print(1e3 * (time.perf_counter() - start))
"""


def milliseconds(variables: dict[str, str]) -> float:
    """What the import takes in a process of its own, with environment variables."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


if __name__ == "__main__":
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(1 + PROCESSES):  # in turn; the first ones write bytecode and fill caches
        for name, variables in VARIANTS.items():
            found[name].append(milliseconds(variables))
    for name, times in found.items():
        print(f"{name}: {statistics.median(times[1:]):.0f} ms, fastest {min(times[1:]):.0f}")
