"""Libraries that need Keras 2, with our optimizers in their models: see `clients/training.py`."""

import os

import pytest
from clients.training import CHECKS
from common import PACKAGE, outcomes_of

LIBRARIES = ("recommenders", "probability", "model-optimization", "gnn")
VARIABLE = "TF_OPTIM_EXT_CLIENTS"
MODELS = [
    ("recommenders", "retrieval"),
    ("recommenders", "ranking"),
    ("probability", "distribution"),
    ("probability", "variational"),
    ("probability", "minimize"),
    ("probability", "minimize in XLA"),
    ("model_optimization", "pruning"),
    ("model_optimization", "quantisation"),
    ("model_optimization", "clustering"),
    ("gnn", "classifier"),
    ("gnn", "runner"),
]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not os.environ.get(VARIABLE),
        reason=f"{VARIABLE} does not name the Python of an environment with the libraries: "
        "python -m venv FOLDER; FOLDER/bin/pip install 'tensorflow==2.21.*' 'tf_keras==2.21.*' "
        f"{' '.join(f'tensorflow-{name}' for name in LIBRARIES)} pytest hypothesis; "
        f"export {VARIABLE}=FOLDER/bin/python",
    ),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with this package only: where it is installed, other packages are beside it."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "tf_optim_ext").symlink_to(PACKAGE / "tf_optim_ext")
    return folder


@pytest.mark.parametrize(("script", "model"), MODELS)
def test_client(script, model, alone):
    outcomes = outcomes_of(
        f"clients/{script}.py",
        model,
        python=os.environ[VARIABLE],
        package=alone,
        TF_USE_LEGACY_KERAS="1",
    )
    assert outcomes == dict.fromkeys(CHECKS, "equal")
