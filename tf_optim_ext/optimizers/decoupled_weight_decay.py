"""Decoupled weight decay for any optimizer, as TensorFlow Addons had it."""

# mypy: disable-error-code="attr-defined, call-arg, misc, valid-type"
# A mixin: what it calls is that of the class beside it, of which mypy knows nothing.

import contextlib
import functools

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.base.step import without_autograph
from tf_optim_ext.engine import call


class SelectiveWeightDecay(_keras.DecayHooks):
    """Adds TensorFlow Addons' selection of the variables to decay; inherited before an optimizer.

    Args:
        *args: arguments of the optimizer.
        exclude_from_weight_decay: list of regular expressions, or one; variables in whose path or
            name one of them occurs are not decayed.
        **kwargs: arguments of the optimizer.
    """

    _excluded_names = None

    def __init__(self, *args, exclude_from_weight_decay=None, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_excluded_names", exclude_from_weight_decay)
        if exclude_from_weight_decay:
            self.exclude_from_weight_decay(var_names=exclude_from_weight_decay)

    @without_autograph
    def apply_gradients(self, grads_and_vars, name=None, decay_var_list=None, **kwargs):
        """Updates variables.

        Args:
            grads_and_vars: see `Optimizer`.
            name: ignored.
            decay_var_list: list of the variables to decay, excluded or not, and no others. Default:
                all that are not excluded.
            **kwargs: arguments of the optimizer's own method.

        Returns:
            What the optimizer's own method returns.

        Raises:
            TypeError: `decay_var_list` holds something that is no variable.
        """
        with self._decaying(decay_var_list):
            return super().apply_gradients(grads_and_vars, **kwargs)

    @without_autograph
    def minimize(
        self, loss, var_list, grad_loss=None, name=None, decay_var_list=None, tape=None, **kwargs
    ):
        """Minimises a loss: as `Optimizer.minimize`, with `decay_var_list` of `apply_gradients`."""
        # Keras' own optimizers do not have all of these.
        given = {"grad_loss": grad_loss, "name": name, "tape": tape}
        given = {argument: value for argument, value in given.items() if value is not None}
        with self._decaying(decay_var_list):
            return super().minimize(loss, var_list, **given, **kwargs)

    def _decaying(self, variables):
        if variables is None:
            return contextlib.nullcontext()
        if checks.is_variable(variables):
            variables = [variables]
        variables = list(variables)
        for variable in variables:
            checks.must_be_variable(variable)
        return call.arguments(self, decayed_keys={self._key_of(v) for v in variables})

    def _decays(self, variable):
        keys = call.argument(self, "decayed_keys")
        if keys is None:
            return super()._decays(variable)
        return self._key_of(variable) in keys

    @property
    def _all_decay(self):
        return call.argument(self, "decayed_keys") is None and super()._all_decay


class DecoupledWeightDecayExtension(SelectiveWeightDecay):
    """Adds weight decay that is not multiplied by the learning rate to an optimizer.

    Before each update, the weights shrink by `weight_decay` of themselves. To be inherited from
    before an optimizer, of this package or Keras' own::

        class MySGDW(DecoupledWeightDecayExtension, tf.keras.optimizers.SGD):
            pass

        optimizer = MySGDW(weight_decay=1e-4, learning_rate=0.1)

    See also `extend_with_decoupled_weight_decay`. If the learning rate follows a schedule, the
    weight decay should follow it, too: it may be a schedule itself, for optimizers of this package.

    Args:
        weight_decay: number >= 0, the part of the weights that a step takes away.
        *args: arguments of the optimizer.
        exclude_from_weight_decay: list of regular expressions, or one; variables in whose path or
            name one of them occurs are not decayed. `decay_var_list` of `apply_gradients` and
            `minimize` selects variables for one call, and goes before it.
        **kwargs: arguments of the optimizer.

    Reference:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101.
    """

    def __init__(self, weight_decay, *args, exclude_from_weight_decay=None, **kwargs):
        if isinstance(self, Optimizer):
            kwargs["fully_decoupled_weight_decay"] = True
        super().__init__(
            *args,
            weight_decay=weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            **kwargs,
        )

    def _decay(self, variables):
        # Asked here: the variables of all replicas are decayed together, in another thread.
        decayed = [_keras.tensorflow_variable(v) for v in variables if self._decays(v)]

        def decay(variable):
            variable.assign_sub(variable * tf.cast(self.weight_decay, variable.dtype))

        def decay_all(distribution, variables):
            for variable in variables:
                distribution.extended.update(variable, decay, group=False)

        _keras.maybe_merge_call(decay_all, self._strategy, decayed)

    def get_config(self):
        """See `Optimizer`."""
        config = super().get_config()
        if isinstance(self, Optimizer):
            config.pop("fully_decoupled_weight_decay")
        elif self._excluded_names:  # which Keras' own optimizers do not save
            config["exclude_from_weight_decay"] = self._excluded_names
        return config


# A process that loads a model has not yet made the extended class: under this name Keras finds
# `_Extended`, which makes it from what the configuration says.
_NAME = "OptimizerWithDecoupledWeightDecay"
_KERAS = "keras.optimizers"


@functools.cache
def extend_with_decoupled_weight_decay(base_optimizer):
    """A class with the decoupled weight decay of `DecoupledWeightDecayExtension`.

    Its optimizers are saved and loaded with models if `base_optimizer` is one of this package or of
    Keras, or registered with Keras.

    Args:
        base_optimizer: an optimizer class.

    Returns:
        A subclass that takes `weight_decay` first, then the arguments of `base_optimizer`; of one
        `base_optimizer` always the same.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> SGDW = tf_optim_ext.extend_with_decoupled_weight_decay(tf_optim_ext.SGD)
        >>> optimizer = SGDW(weight_decay=0.5, learning_rate=0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.3
    """

    class OptimizerWithDecoupledWeightDecay(DecoupledWeightDecayExtension, base_optimizer):
        __doc__ = f"`{base_optimizer.__name__}` with decoupled weight decay."

        def __init__(self, weight_decay, *args, **kwargs):
            super().__init__(weight_decay, *args, **kwargs)

        def get_config(self):
            return {**super().get_config(), "base_optimizer": _name_of(base_optimizer)}

        @classmethod
        def from_config(cls, config, custom_objects=None):
            config = {name: value for name, value in config.items() if name != "base_optimizer"}
            return super().from_config(config, custom_objects)

    register = tf.keras.utils.register_keras_serializable("tf_optim_ext", _NAME)
    register(OptimizerWithDecoupledWeightDecay)
    register(_Extended)  # the one that is found by the name that both have now
    return OptimizerWithDecoupledWeightDecay


class _Extended:
    """What Keras makes extended optimizers from that it loads."""

    def get_config(self):
        """Keras registers no class without this method."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """An optimizer of the class that `extend_with_decoupled_weight_decay` makes.

        Raises:
            ValueError: the class that it extends is not known.
        """
        name = config.get("base_optimizer", "")
        base = _of_name(name, custom_objects)
        if not (isinstance(base, type) and issubclass(base, tf.keras.optimizers.Optimizer)):
            raise ValueError(
                f"The optimizer extends a class that is not known here: {name!r}. Register that "
                "class with `@keras.saving.register_keras_serializable(...)`, in a module that is "
                "imported both where the optimizer is saved and where it is loaded; or give it in "
                f"`custom_objects={{{name!r}: ...}}`."
            )
        return extend_with_decoupled_weight_decay(base).from_config(config, custom_objects)


def _name_of(base):
    name = base.__name__
    if getattr(tf.keras.optimizers, name, None) is base:
        return f"{_KERAS}.{name}"
    return tf.keras.utils.get_registered_name(base)


def _of_name(name, custom_objects):
    module, _, class_name = name.rpartition(".")
    if module == _KERAS:
        return getattr(tf.keras.optimizers, class_name, None)
    return tf.keras.utils.get_registered_object(name, custom_objects)


tf.keras.utils.register_keras_serializable("tf_optim_ext", _NAME)(_Extended)
