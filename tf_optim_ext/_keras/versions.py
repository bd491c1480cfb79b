"""Which versions of TensorFlow and Keras the package works with."""

import warnings

import tensorflow as tf

OLDEST_TENSORFLOW, NEWEST_TENSORFLOW = (2, 19), (2, 21)
OLDEST_KERAS, NEWEST_KERAS = (3, 10), (3, 15)
OLDEST_KERAS_2, NEWEST_KERAS_2 = OLDEST_TENSORFLOW, NEWEST_TENSORFLOW


def uses_keras_2():
    """Whether `tf.keras` is Keras 2, as the environment variable TF_USE_LEGACY_KERAS says.

    Raises:
        ImportError: it is, and is not installed.
    """
    try:
        return tf.keras.__name__.startswith("tf_keras")
    except ImportError as error:
        raise ImportError(needs_tf_keras()) from error


def needs_tf_keras():
    """What to do where Keras 2 is missing."""
    major, minor = tf.__version__.split(".")[:2]
    return (
        "tf_optim_ext needs the package `tf_keras` for optimizers of Keras 2: "
        f'pip install "tf_keras=={major}.{minor}.*"'
    )


def check_tensorflow(version):
    """Refuses a TensorFlow that this package cannot work with, and warns of one that is not tested.

    Args:
        version: its version.

    Raises:
        ImportError: this package does not work with it; the message says what to do.
    """
    _check(version, OLDEST_TENSORFLOW, NEWEST_TENSORFLOW, "TensorFlow", "tensorflow")


def check_keras_3(version, backend):
    """Refuses a Keras 3 that this package cannot work with, and warns of one that is not tested.

    Args:
        version: its version.
        backend: name of its backend.

    Raises:
        ImportError: this package does not work with it; the message says what to do.
    """
    if backend != "tensorflow":
        raise ImportError(
            f"tf_optim_ext works with Keras' backend 'tensorflow', but Keras uses {backend!r}: set "
            "the environment variable KERAS_BACKEND=tensorflow."
        )
    _check(version, OLDEST_KERAS, NEWEST_KERAS, "Keras", "keras")


def check_keras_2(version):
    """The same for Keras 2, the package `tf_keras`."""
    _check(version, OLDEST_KERAS_2, NEWEST_KERAS_2, "tf_keras", "tf_keras")


def _check(version, oldest, newest, name, package):
    tested = (
        f"{name} {text(oldest)} to {text(newest)}" if newest > oldest else f"{name} {text(oldest)}"
    )
    number = tuple(int(part) for part in version.split(".")[:2])
    if number < oldest:
        raise ImportError(
            f"tf_optim_ext works with {tested}, but {name} {version} is installed: "
            f'pip install -U "{package}>={text(oldest)}"'
        )
    if number > newest:
        warnings.warn(
            f"tf_optim_ext was tested with {tested}, but not with {name} {version}, which is "
            f"installed: what it uses of {name} may have changed.",
            stacklevel=2,
        )


def text(number):
    """A version as one writes it."""
    return ".".join(map(str, number))


# Here, before anything imports what is private in TensorFlow.
check_tensorflow(tf.__version__)
