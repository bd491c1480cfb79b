"""What an optimizer around another one answers in its place."""

from tf_optim_ext import _keras


class AroundAnother(_keras.KerasWrapper):
    """Base of optimizers without state around another one, `inner_optimizer`.

    All state is that of the inner optimizer, and is saved as if that were alone.
    """

    @property
    def built(self):
        """Whether the slots exist."""
        inner = _inner_of(self)
        return bool(getattr(inner, "built", False) or getattr(inner, "_built", False))

    @built.setter
    def built(self, value):
        if _inner_of(self) is not None:
            self.inner_optimizer.built = value

    def build(self, variables):
        """Creates the slots of the inner optimizer."""
        self.inner_optimizer.build(variables)

    @property
    def variables(self):
        """The variables of the inner optimizer; there are no others."""
        return self.inner_optimizer.variables

    @property
    def weights(self):
        """Same as `variables`."""
        return self.variables

    @property
    def iterations(self):
        """The number of updates, of the inner optimizer."""
        return self.inner_optimizer.iterations

    @iterations.setter
    def iterations(self, variable):
        self.inner_optimizer.iterations = variable

    @property
    def learning_rate(self):
        """The learning rate of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        if _inner_of(self) is not None:
            self.inner_optimizer.learning_rate = value

    @property
    def lr(self):
        """Same as `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value):
        self.learning_rate = value

    @property
    def route(self):
        """The route of the latest step of an inner optimizer of this package."""
        return self.inner_optimizer.route

    def scale_loss(self, loss):
        """The loss as the inner optimizer scales it; gradients are unscaled there."""
        scale = getattr(self.inner_optimizer, "scale_loss", None)
        return loss if scale is None else scale(loss)

    @property
    def loss_scale_factor(self):
        """That of the inner optimizer."""
        return getattr(_inner_of(self), "loss_scale_factor", None)

    @loss_scale_factor.setter
    def loss_scale_factor(self, value):
        if _inner_of(self) is not None:
            self.inner_optimizer.loss_scale_factor = value

    def get_slot(self, var, slot_name):
        """The slot of an inner optimizer of this package."""
        return self.inner_optimizer.get_slot(var, slot_name)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """See the inner optimizer."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list):
        """See the inner optimizer."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_weights(self):
        """The state of the inner optimizer as arrays."""
        get = getattr(self.inner_optimizer, "get_weights", None)
        return get() if get else [variable.numpy() for variable in self.variables]

    def set_weights(self, weights):
        """Sets the state of the inner optimizer."""
        self.inner_optimizer.set_weights(weights)

    def save_own_variables(self, store):
        """Stores what the inner optimizer would, so that it may train on alone."""
        self.inner_optimizer.save_own_variables(store)

    def load_own_variables(self, store):
        """Loads what the inner optimizer has saved, or this one."""
        self.inner_optimizer.load_own_variables(store)

    def __dir__(self):
        # Keras looks there for more to save, and would have the inner optimizer load twice.
        return [name for name in super().__dir__() if name != "inner_optimizer"]

    def aggregate_gradients(self, grads_and_vars):
        """Sums gradients over the replicas of a strategy, as the inner optimizer does."""
        return self.inner_optimizer.aggregate_gradients(grads_and_vars)


def _inner_of(optimizer):
    """The inner optimizer; None while Keras' constructor runs, which asks before there is one."""
    return vars(optimizer).get("inner_optimizer")
