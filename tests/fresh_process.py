"""What only a new process can show: what it imports, and what it makes of texts of another one.

Runs in a process of its own, from `test_fresh_process.py`: `python fresh_process.py ARGUMENTS`
prints a JSON object with the outcome of each check. The checks are in the order in which they run.
"""

import functools
import json
import sys

import common
import pytest

from tf_optim_ext import rule


def fingerprint():
    """Of a small rule."""

    def maths(w, g, s, h):
        s.m = rule.lerp(g, s.m, h.beta)
        return w - h.learning_rate * s.m

    return rule.trace(maths, ("m",), ("beta",)).fingerprint


def keras_2_is_not_imported(arguments):
    assert "tf_keras" not in sys.modules


def same_fingerprint(arguments):
    # Python's own hashes differ from one process to the next.
    assert arguments["fingerprint"] == fingerprint()
    assert arguments["hash"] != hash("tf_optim_ext")


def extended_optimizer(arguments):
    """This process has not made the class."""
    import keras

    optimizer = keras.optimizers.deserialize(arguments["serialized"])
    assert json.loads(json.dumps(optimizer.get_config())) == arguments["config"]


def without_tf_keras(arguments):
    sys.modules["tf_keras"] = None
    with pytest.raises(ImportError, match=r'pip install "tf_keras==2\.'):
        from tf_optim_ext import tf_keras  # noqa: F401


CHECKS = {
    "Keras 2 is not imported": keras_2_is_not_imported,
    "a rule has the same fingerprint": same_fingerprint,
    "an extended optimizer is loaded": extended_optimizer,
    "tf_keras is missing": without_tf_keras,
}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    common.print_outcomes({name: functools.partial(check, given) for name, check in CHECKS.items()})
