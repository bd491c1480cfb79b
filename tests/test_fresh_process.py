"""What only a new process can show; they share one, as it takes seconds to start."""

import json

import fresh_process
import pytest
from common import outcomes_of
from generation import keras, only_keras_3

import tf_optim_ext

pytestmark = [pytest.mark.once, only_keras_3("the process has Keras 3")]


@pytest.fixture(scope="module")
def outcomes():
    extended = tf_optim_ext.extend_with_decoupled_weight_decay(tf_optim_ext.Adam)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    optimizer = extended(rate, learning_rate=0.25, exclude_from_weight_decay=["bias"])
    arguments = {
        "fingerprint": fresh_process.fingerprint(),
        "hash": hash("tf_optim_ext"),
        "serialized": keras.optimizers.serialize(optimizer),
        "config": optimizer.get_config(),
    }
    return outcomes_of("fresh_process.py", json.dumps(arguments), PYTHONHASHSEED="random")


@pytest.mark.parametrize("check", fresh_process.CHECKS)
def test_new_process(outcomes, check):
    assert outcomes[check] == "equal"
