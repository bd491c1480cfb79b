"""What SAM and its relatives share: a step that takes two gradients, around any optimizer."""

import contextlib
import copy
import functools
from typing import Any, ClassVar

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.engine import graphs, hyperparameters, perturbation, replicas, sparse
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.engine.targets import TargetsCache
from tf_optim_ext.wrappers import model_state
from tf_optim_ext.wrappers.around import AroundAnother
from tf_optim_ext.wrappers.gradients import chain, gradients_of, model_and_variables

without_autograph = tf.autograph.experimental.do_not_convert


class SharpnessAware(AroundAnother):
    """Base of SAM and its relatives. The gradient that the inner optimizer gets is another one.

    It is that of the loss where the weights have been moved uphill, by a length `rho` along the
    gradient. So a step needs the loss twice: `minimize` or `step` with a callable, or `fit`.

    Args:
        inner_optimizer: the optimizer that takes the step, one of this package or of Keras; or
            its name.
        rho: how far the weights are moved: number >= 0, `LearningRateSchedule`, callable without
            arguments or scalar variable, like every numeric argument; read in every step, and may
            be set between steps.
        name: name of the optimizer.
        **kwargs: the subclass's numeric arguments.
    """

    ranges: ClassVar[dict[str, str]] = {"rho": "[0, inf)"}
    optional: ClassVar[tuple[str, ...]] = ()
    _is_configured = False

    def __init__(self, inner_optimizer, rho, name=None, **kwargs):
        super().__init__(name)
        self.inner_optimizer = self._checked_inner(inner_optimizer)
        values = {"rho": rho, **kwargs}
        for name, value in values.items():
            object.__setattr__(self, name, self._checked(name, value))
        self._check_together()
        numbers = hyperparameters.TracedNumbers(self.ranges)
        counter = _keras.tensorflow_variable(self.inner_optimizer.iterations)
        numbers.create(vars(self), self._strategy, counter)
        self._untracked.numbers = numbers
        self._untracked.targets = TargetsCache()
        self._untracked.steps_in_progress = 0
        _install(self._api)
        object.__setattr__(self, "_is_configured", True)

    # ---------------------------------------------------------------------------------- the step

    @without_autograph
    def minimize(self, loss, var_list, grad_loss=None, name=None, tape=None):
        """Takes a step; `loss` is computed twice.

        Args:
            loss: callable without arguments that returns the loss, or a tuple whose first element
                it is.
            var_list: the model, a `keras.Model`, layer or `tf.Module`: its trainable variables are
                updated, and its other variables, such as the moving statistics of
                `BatchNormalization`, are left as the first computation left them. Or a list of the
                variables to update, or a callable that returns one; then nothing is known of other
                variables, and both computations change them.
            grad_loss: tensor of the shape of the loss that weights it.
            name: ignored; accepted for compatibility.
            tape: must be None; accepted for a clear error.

        Returns:
            `iterations`, increased by one.

        Raises:
            ValueError: `loss` is no callable; no variable has a gradient; something in `var_list`
                is no variable. Nothing has changed then.
        """
        if isinstance(grad_loss, tf.GradientTape) or tape is not None or not callable(loss):
            raise ValueError(self._needs_callable("`minimize`"))
        self._step(self, loss, var_list, grad_loss)
        return self.iterations

    @without_autograph
    def step(self, loss, var_list):
        """`minimize` that returns what the first call of `loss` returned.

        That is the loss at the weights before the step. Arguments and errors are those of
        `minimize`.
        """
        if not callable(loss):
            raise ValueError(self._needs_callable("`step`"))
        return self._step(self, loss, var_list)

    @without_autograph
    def train_step(self, model, data):
        """A training step of a compiled model; what its own `train_step` does with this optimizer.

        For models whose `train_step` is another one, to be called there.

        Args:
            model: the `keras.Model`, compiled with this optimizer, or with one around it.
            data: what `train_step` was given.

        Returns:
            Dict of the metrics, for `train_step` to return. They are those of the first
            computation, at the weights before the step.
        """
        outer = model.optimizer if self in chain(model.optimizer) else self
        x, y, sample_weight = self._api.utils.unpack_x_y_sample_weight(data)
        predictions = []

        def loss():
            predictions.append(self._predictions(model, x))
            return self._loss(model, x, y, predictions[-1], sample_weight)

        self._note_loss(model, self._step(outer, loss, model), x)
        return model.compute_metrics(x, y, predictions[0], sample_weight=sample_weight)

    def _step(self, outer, loss, var_list, grad_loss=None):
        """Takes a step; returns the first value of `loss`.

        Args:
            outer: this optimizer, or the one around it, which scales the loss.
            loss: the callable.
            var_list, grad_loss: as of `minimize`.
        """
        # 1. Find whatever is wrong before anything changes.
        graphs.check_runs_now("A step of SAM", "it in a `tf.function`")
        replicas.check_inside(self)
        model, var_list = model_and_variables(var_list)
        gradient_of = functools.partial(gradients_of, loss, chain(outer), grad_loss)
        before = model_state.read(model)
        value, gradients, variables = gradient_of(var_list)
        if not variables:
            return value
        kept, present = self._checked_gradients(gradients, variables)
        after = model_state.read(model)
        # 2. The gradient uphill from here, from the same random numbers.
        weights = perturbation.kept(kept, present)
        try:
            self._perturb(kept, present)
            model_state.assign(before)
            _, second, _ = gradient_of(variables)
        finally:
            with DeferredInterrupts():
                perturbation.restore(kept, weights)
                model_state.assign(after)
        # 3. The step of the inner optimizer.
        by_key = {self._key_of(v): g for g, v in zip(present, kept)}
        second = self._directions(
            [by_key.get(self._key_of(v)) for v in variables], second, variables
        )
        target = self.inner_optimizer if outer is self else outer
        with self._in_step():
            target.apply_gradients(list(zip(second, variables)))
        return value

    def _checked_gradients(self, gradients, variables):
        """The variables that are to be moved, and their gradients, prepared."""
        checks.variables(variables, self._key_of)
        if all(g is None for g in gradients):
            checks.present_gradients(gradients, variables)  # raises the error
        pairs = [
            (g, v)
            for g, v in zip(gradients, variables)
            # The gradients of float8 scales are their next values.
            if g is not None and not getattr(v, "overwrite_with_gradient", False)
        ]
        for _, variable in pairs:
            checks.trainable(variable)
        kept = [v for _, v in pairs]
        present = [checks.gradient(g, v) for g, v in pairs]
        return kept, sparse.all_prepared(present, kept, increasing=False)

    @contextlib.contextmanager
    def _in_step(self):
        # Not of this thread alone: a `LossScaleOptimizer` goes on in others, under a strategy.
        self._untracked.steps_in_progress += 1
        try:
            yield
        finally:
            self._untracked.steps_in_progress -= 1

    def _perturb(self, variables, gradients):
        """Moves variables, as far as they have gradients."""
        raise NotImplementedError

    def _move(self, program, variables, gradients, scale, **values):
        cache = self._untracked.targets
        perturbation.move(program, cache, variables, gradients, scale, values)

    def _directions(self, first, second, variables):
        """What the inner optimizer gets, of the gradients at both points."""
        return second

    # ----------------------------------------------------------------------------- what cannot be

    def _needs_callable(self, what):
        return (
            f"{type(self).__name__} needs the gradient at a second point, so {what} takes a "
            "callable that computes the loss again: `minimize(lambda: ..., model)`."
        )

    def _refuse_gradients(self, what):
        if not self._untracked.steps_in_progress:
            name = type(self).__name__
            raise RuntimeError(
                f"{name} needs the gradient at a second point, which {what} does not have. Call "
                "`minimize(loss, model)` with a callable `loss`; in a `train_step` of your own, "
                f"`return optimizer.train_step(self, data)`, where `optimizer` is the {name}. "
                "`fit` of other models does that by itself."
            )

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        """Only for optimizers around this one, within a step. See `minimize`.

        Raises:
            RuntimeError: called by anybody else.
        """
        self._refuse_gradients("`apply_gradients`")
        return self.inner_optimizer.apply_gradients(grads_and_vars, *args, **kwargs)

    def apply(self, grads, trainable_variables=None):
        """See `apply_gradients`."""
        self._refuse_gradients("`apply`")
        return self.inner_optimizer.apply(grads, trainable_variables)

    def compute_gradients(self, *args, **kwargs):
        """Not possible, see `minimize`."""
        self._refuse_gradients("`compute_gradients`")

    def update_step(self, *args, **kwargs):
        """Not possible, see `minimize`."""
        self._refuse_gradients("`update_step`")

    def _children(self, of_checkpoint):
        children = {"inner_optimizer": self.inner_optimizer}
        if of_checkpoint:
            return children
        values = {name: getattr(self, name) for name in self.ranges}
        values["hyperparameters"] = self._untracked.numbers.variable
        return {**children, **{n: v for n, v in values.items() if checks.is_variable(v)}}

    # ------------------------------------------------------------------------------- configuration

    def _checked_inner(self, inner):
        optimizers, name = self._api.optimizers, type(self).__name__
        if isinstance(inner, (str, dict)):
            inner = optimizers.get(inner)
        if not isinstance(inner, optimizers.Optimizer):
            raise TypeError(
                f"{name}: `inner_optimizer` must be an optimizer of {self._api.__name__}, or its "
                f"name. Received: {inner!r} of type {type(inner).__name__}"
            )
        if any(isinstance(each, SharpnessAware) for each in chain(inner)):
            raise ValueError(
                f"{name}: `inner_optimizer` is a {type(inner).__name__}, which needs two gradients "
                "itself. Give one that needs one."
            )
        return inner

    def _checked(self, name, value):
        if value is None and name in self.optional:
            return None
        return hyperparameters.checked(type(self).__name__, name, value, self.ranges[name])

    def _check_together(self):
        """Raises a `ValueError` if the arguments do not fit each other."""

    def __setattr__(self, name, value):
        if not self._is_configured or name not in self.ranges:
            super().__setattr__(name, value)
            return
        before, value = getattr(self, name), self._checked(name, value)
        numbers = self._untracked.numbers
        if numbers.are_in_use and not all(map(hyperparameters.is_number, (before, value))):
            raise ValueError(
                f"{type(self).__name__}: `{name}` was {before!r} when a step was traced into a "
                f"function, which would not see the change. Received: {name}={value!r}. To change "
                "it between steps, create the optimizer with a number, or with a variable, and "
                "assign to that."
            )
        object.__setattr__(self, name, value)
        try:
            self._check_together()
        except ValueError:
            object.__setattr__(self, name, before)
            raise
        if hyperparameters.is_number(value):
            numbers.set(name, value, self._strategy)

    def _value(self, name):
        """What an argument is in this step: a number, a tensor, or None."""
        value, numbers = getattr(self, name), self._untracked.numbers
        if hyperparameters.is_number(value) and not tf.executing_eagerly():
            return numbers.read([name])[name]
        return hyperparameters.current(value, self.iterations)

    def _arguments(self):
        """All constructor arguments but the inner optimizer."""
        return {"name": self.name, **{name: getattr(self, name) for name in self.ranges}}

    def get_config(self):
        """A JSON-serialisable dict that `from_config` makes the same optimizer from."""
        serialize = self._api.saving.serialize_keras_object
        config = {"name": self.name, "inner_optimizer": serialize(self.inner_optimizer)}
        for name, value in self._arguments().items():
            numeric = name in self.ranges
            config[name] = hyperparameters.for_config(value, self._api) if numeric else value
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer that `get_config` described."""

        config = dict(config)
        config["inner_optimizer"] = cls._deserialized(config["inner_optimizer"], custom_objects)
        for name in cls.ranges:
            if isinstance(config.get(name), dict):
                config[name] = cls._api.saving.deserialize_keras_object(
                    config[name], custom_objects
                )
        return cls(**config)

    def __reduce__(self) -> Any:
        return _remade, (type(self), self.inner_optimizer, self._arguments())

    def __deepcopy__(self, memo):
        return _remade(*copy.deepcopy(self.__reduce__()[1], memo))


def _remade(cls, inner_optimizer, arguments):
    return cls(inner_optimizer, **arguments)


@functools.cache
def _install(keras):
    """Has the models of a generation of Keras that are compiled with such an optimizer call it.

    Their own training step has one gradient only, and nothing else of Keras asks an optimizer for
    more. The class is wrapped once, when the first such optimizer is made; other models are not
    affected.
    """
    original = keras.Model.train_step

    @functools.wraps(original)
    def train_step(model, data):
        for optimizer in chain(getattr(model, "optimizer", None)):
            if isinstance(optimizer, SharpnessAware):
                return optimizer.train_step(model, data)
        return original(model, data)

    keras.Model.train_step = train_step
