"""A private name of the callback `ModelCheckpoint`, of either generation of Keras."""

from typing import Any


def checkpoint_with_context(keras):
    """A subclass of `ModelCheckpoint` that saves the model in the context `_saved_within()`."""

    base: Any = keras.callbacks.ModelCheckpoint

    class ModelCheckpointWithContext(base):
        def _save_model(self, *args, **kwargs):
            with self._saved_within():
                return super()._save_model(*args, **kwargs)

    return ModelCheckpointWithContext
