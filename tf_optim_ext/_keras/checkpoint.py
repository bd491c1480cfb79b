"""A private name of the callback `ModelCheckpoint`, of either generation of Keras."""


def checkpoint_with_context(keras):
    """A subclass of `ModelCheckpoint` that saves the model in the context `_saved_within()`."""

    class ModelCheckpointWithContext(keras.callbacks.ModelCheckpoint):
        def _save_model(self, *args, **kwargs):
            with self._saved_within():
                return super()._save_model(*args, **kwargs)

    return ModelCheckpointWithContext
