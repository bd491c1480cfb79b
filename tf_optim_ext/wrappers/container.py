"""Optimizers that hold others, which update the weights."""

import contextlib
import functools
import inspect
from typing import ClassVar

import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.backends import replica
from tf_optim_ext.base import arguments
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.base.step import without_autograph
from tf_optim_ext.engine import call, graphs, hyperparameters, replicas, sparse
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.state.slots import VariableList

OF_INSIDE = frozenset(arguments.COMMON.keys() - {"name"})
"""Arguments that only the optimizers inside have: as attributes, they are theirs."""


class _OwnSignature:
    """Shows the arguments that a class names, and none of those of all optimizers."""

    def __get__(self, instance, owner):
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        return inspect.Signature([p for p in parameters if p.kind != p.VAR_KEYWORD])


class _RateInside:
    """Stands for a learning rate where Keras wants one; see `Container.learning_rate`."""

    def __call__(self):
        return 0.0


class Container(Optimizer):
    """Base class of optimizers that hold others.

    It has a counter of its own, of the updates that were made through it, and maybe slots. Learning
    rate, `iterations`, and all that surrounds an update (clipping, weight decay, `use_ema`,
    accumulation ...) are those of the optimizers inside: what is read from or assigned to such an
    attribute here, is read from or assigned to them.

    Class attributes:
        counts: dict from the name of an argument that counts something to its lowest value.

    A subclass sets what `_inside` returns, and then calls this constructor.

    Args:
        name: name of the optimizer.
        **kwargs: values of `counts` and of declared hyperparameters.

    Raises:
        TypeError: an argument is not known.
        ValueError: an argument is outside its range.
    """

    counts: ClassVar[dict[str, int]] = {}
    _has_own_scope = True
    __signature__ = _OwnSignature()

    def __init__(self, name, **kwargs):
        owner = type(self).__name__
        known = [*self.counts, *self.declaration().arguments]
        unknown = [key for key in kwargs if key not in (*known, *self._ignored_arguments)]
        if unknown:
            raise TypeError(
                f"{owner} got unknown arguments {unknown}. It takes: "
                f"{list(inspect.signature(type(self)).parameters)}. Everything else, such as the "
                "learning rate and clipping, is to be given to the optimizer inside."
            )
        counts = {
            key: checks.whole_number(owner, key, kwargs.pop(key), lowest)
            for key, lowest in self.counts.items()
        }
        super().__init__(_RateInside(), name=name, **kwargs)
        for key, value in counts.items():
            self._set_untracked(key, value)

    def _inside(self):
        """List of the optimizers inside."""
        raise NotImplementedError

    @staticmethod
    def rule(w, g, s, h):
        """None: the optimizers inside move the weights."""
        return w

    @classmethod
    def _checked_inside(cls, optimizer):
        """An optimizer from what the constructor got for one."""
        owner, keras = cls.__name__, cls._api
        if isinstance(optimizer, (str, dict)):
            optimizer = keras.optimizers.get(optimizer)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"{owner} needs a `{keras.__name__}.optimizers.Optimizer`, or the name of one. "
                f"Received: {optimizer!r} of type {type(optimizer).__name__}"
            )
        return optimizer

    def _check_options(self):
        """There are none."""

    @classmethod
    @functools.cache
    def _intervals(cls):
        return cls.declaration().intervals

    def _own_variables_of(self, name):
        """The model's variables that have a slot of some name."""
        keys = self._untracked.slots.get(name, ())
        return [v for v in self._optimized if self._key_of(v) in keys]

    # ----------------------------------------------------------------------------------- attributes

    def __setattr__(self, name, value):
        if self._is_configured and name in OF_INSIDE:
            self._set_inside(name, value)
            return
        if not self._is_configured or name not in self.counts:
            super().__setattr__(name, value)
            return
        value = checks.whole_number(type(self).__name__, name, value, self.counts[name])
        if self.built and value != getattr(self, name):
            raise AttributeError(
                f"{type(self).__name__}: `{name}` cannot be changed any more, as the optimizer is "
                f"built. Received: {name}={value!r}. Create another optimizer."
            )
        self._set_untracked(name, value)

    def _of_inside(self, name):
        """An attribute of the optimizers inside, in which they agree."""
        values = [getattr(each, name) for each in self._inside()]
        if any(value != values[0] for value in values):
            raise AttributeError(
                f"The optimizers in {self.name!r} differ in `{name}`: {values}. Ask one of them."
            )
        return values[0]

    def _set_inside(self, name, value):
        for each in self._inside():
            setattr(each, name, value)

    @property
    def learning_rate(self):
        """The learning rate of the optimizer inside; setting it sets it there."""
        return self._inside()[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self._set_inside("learning_rate", value)

    @property
    def iterations(self):
        """The number of updates that the optimizer inside has made."""
        return self._inside()[0].iterations

    def _set_iterations(self, variable):
        self._set_inside("iterations", variable)

    @property
    def route(self):
        """The `Route` of the optimizer inside; of a pass of this one, if that has none."""
        return getattr(self._inside()[0], "route", self._untracked.route)

    @property
    def skipped_steps(self):
        """See `Optimizer`; 0 for optimizers of Keras itself.

        Raises:
            AttributeError: there are several optimizers inside.
        """
        if len(inside := self._inside()) > 1:
            raise AttributeError(
                f"The optimizers in {self.name!r} count `skipped_steps` by themselves. Ask one of "
                "them."
            )
        return getattr(inside[0], "skipped_steps", 0)

    def scale_loss(self, loss):
        """The loss as the optimizer inside scales it; those of Keras 2 itself do not."""
        scale = getattr(self._inside()[0], "scale_loss", None)
        return loss if scale is None else scale(loss)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from the weight decay of the optimizers inside; see `Optimizer`."""
        for each in self._inside():
            each.exclude_from_weight_decay(var_list=var_list, var_names=var_names)

    def _clipped(self, gradients, variables):
        inside = self._inside()[0]
        if isinstance(inside, Optimizer):
            return inside._clipped(gradients, variables)
        if any(getattr(inside, name) is not None for name in arguments.CLIPPING):
            gradients = [tf.convert_to_tensor(g) for g in gradients]  # repeated indices summed
        return self._clipped_by(inside, gradients)

    def _assign_averages(self, variables):
        for each, some in self._shares(variables):
            if each.use_ema:
                self._assign_averages_of(each, some)

    def finalize_variable_values(self, var_list):
        """Assigns the averages of `use_ema` of the optimizers inside, where they have it."""
        self._assign_averages(list(var_list))

    # ---------------------------------------------------------------------------------------- state

    @property
    def variables(self):
        """Its own variables, then those of the optimizers inside; `variables()` works, too."""
        variables = VariableList(self._state_variables)
        for each in self._inside():
            variables.extend(each.variables)
        return variables

    def build(self, variables):
        """See `Optimizer`. Builds the optimizers inside, too."""
        if self.built:
            return
        super().build(variables)
        if self.built:
            self._untracked.inside_checks = False
            self._share_out(self._optimized)
            with tf.init_scope():
                for each, some in self._shares(self._optimized):
                    if some and not getattr(each, "built", False):
                        each.build(some)

    def _create_slots(self, variables):
        for name in self.declaration().slots:
            self._add_slots([v for v in variables if checks.is_trainable(v)], name)

    def _children(self, of_checkpoint):
        return {**super()._children(of_checkpoint), **self._named_inside()}

    def _child(self, name):
        return self._named_inside().get(name) or super()._child(name)

    def _named_inside(self):
        """The optimizers inside, by their names in checkpoints."""
        return {f"inside.{i}": each for i, each in enumerate(self._inside())}

    def _with_inside(self):
        each_with_inside = (
            each._with_inside() if isinstance(each, Optimizer) else [each]
            for each in self._inside()
        )
        return [self, *(each for some in each_with_inside for each in some)]

    # ------------------------------------------------------------------------------------- the step

    def _share_out(self, variables):
        """Decides which of the optimizers inside update which variables."""

    def _shares(self, variables):
        """Pairs of an optimizer inside and the list of those variables that it updates."""
        return [(each, variables) for each in self._inside()]

    @without_autograph
    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        """Updates variables; see `Optimizer`.

        Optimizers of Keras 3 itself always sum the gradients over the replicas of a strategy.
        """
        result = super().apply_gradients(grads_and_vars, name, **kwargs)
        return self.iterations if result is self._counter else result

    @without_autograph
    def apply(self, grads, trainable_variables=None):
        """Updates variables, like `apply_gradients`.

        Args:
            grads: list of gradients.
            trainable_variables: list of as many variables. Default: those of `build`.
        """
        gradients = list(grads)
        if not gradients and not trainable_variables:
            return
        graphs.check_runs_now("`apply`", "what `apply_gradients` returns")
        variables = self._variables_for(gradients, trainable_variables)
        kept, present, late = self._check(gradients, variables)
        with DeferredInterrupts(), graphs.named(self.name, late):
            self.build(variables)
            self._step(kept, present)
        # From now on that one finds out what is wrong, before it changes anything.
        inside = self._inside()
        self._untracked.inside_checks = len(inside) == 1 and isinstance(inside[0], Optimizer)

    def _check(self, gradients, variables):
        """See `Step`; here, sparse gradients stay as they are."""
        replicas.check_inside(self)
        if len(gradients) != len(variables):
            raise ValueError(f"{len(gradients)} gradients for {len(variables)} variables.")
        if self.built and self._untracked.inside_checks:
            return gradients, variables, []
        gradients, variables = self._present(gradients, variables)
        late = [
            checks.sparse_indices(g, v)
            for g, v in zip(gradients, variables)
            if isinstance(g, tf.IndexedSlices)
        ]
        return gradients, variables, [] if tf.executing_eagerly() else late

    def _present(self, gradients, variables):
        """The gradients that are not None, checked, and their variables."""
        self._check_variables(gradients, variables)
        gradients, variables = checks.present_gradients(gradients, variables)
        return [checks.gradient(g, v) for g, v in zip(gradients, variables)], variables

    def _step(self, gradients, variables):
        """Takes a step with gradients that are checked."""
        self._apply_inside(gradients, variables)
        replica.add(self._counter, 1)

    def _apply_inside(self, gradients, variables):
        summed = bool(call.argument(self, "summed"))
        for each, some in self._shares(variables):
            if not some:
                continue
            of_each = gradients if some is variables else self._of(some, gradients, variables)
            if not isinstance(each, Optimizer):
                self._apply_by(each, of_each, some, summed)
                continue
            with call.arguments(each, summed=True) if summed else contextlib.nullcontext():
                each.apply(of_each, some)

    def _of(self, some, gradients, variables):
        """The gradients of some of the variables; None where there is none."""
        by_key = {self._key_of(v): g for g, v in zip(gradients, variables)}
        return [by_key.get(self._key_of(v)) for v in some]

    def _update_count(self, reader=None):
        return replica.readable_by_op(self._counter, reader)

    def _rounding_keys(self, variables):
        return None

    @without_autograph
    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable with the rule of the optimizer inside alone."""
        for each, some in self._shares([variable]):
            if some:
                each.update_step(gradient, variable, learning_rate)

    @without_autograph
    def aggregate_gradients(self, grads_and_vars):
        """Sums gradients over the replicas of a strategy; see `Optimizer`.

        Optimizers of Keras 3 itself do not take what it returns, as they sum in each step.
        """
        gradients, variables = checks.pairs(grads_and_vars)
        replicas.check_inside(self)
        if not gradients:
            return []
        kept, present = self._present(gradients, variables)
        prepared = sparse.all_prepared(kept, present, increasing=True)
        summed = iter(replicas.summed(prepared, present, increasing=True))
        return [(None if g is None else next(summed), v) for g, v in zip(gradients, variables)]

    # -------------------------------------------------------------------------------- configuration

    def get_config(self):
        """A JSON-serialisable dict that `from_config` makes the same optimizer from."""
        config = {"name": self.name, **self._config_of_inside()}
        for name in self.declaration().arguments:
            config[name] = hyperparameters.for_config(getattr(self, name), self._api)
        for name in self.counts:
            config[name] = getattr(self, name)
        return {**config, **self._config_of_generation()}

    def _config_of_inside(self):
        """What the configuration has of the optimizers inside."""
        (inside,) = self._inside()
        return {"optimizer": self._serialized(inside)}

    def _serialized(self, inside):
        return self._api.optimizers.serialize(inside)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer that `get_config` described."""
        config = {n: v for n, v in config.items() if n not in cls._ignored_arguments}
        if isinstance(config.get("optimizer"), dict):
            config["optimizer"] = cls._deserialized(config["optimizer"], custom_objects)
        for name in cls._intervals():
            if isinstance(config.get(name), dict):
                config[name] = cls._api.saving.deserialize_keras_object(
                    config[name], custom_objects
                )
        return cls(**config)

    @classmethod
    def _deserialized(cls, config, custom_objects):
        # A copy, in which Keras may change the name of the class.
        return cls._api.optimizers.deserialize(dict(config), custom_objects)


def _property_of_inside(name):
    # Not while Keras' constructor sets and checks its defaults.

    def get(self):
        return self._of_inside(name) if self._is_configured else arguments.COMMON[name]

    def set_(self, value):
        if self._is_configured:
            self._set_inside(name, value)

    return property(get, set_, doc=f"`{name}` of the optimizer inside; setting it sets it there.")


for _name in OF_INSIDE:
    setattr(Container, _name, _property_of_inside(_name))
