"""Several optimizers, each for some of the layers."""

from typing import Any

import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.engine import graphs
from tf_optim_ext.wrappers.container import Container


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class MultiOptimizer(Container):
    """Several optimizers, each of which trains some of the layers of a model.

    For other settings in other layers, such as small learning rates in pretrained ones. A variable
    that is in several pairs is updated by each of their optimizers, in order; one that is in none
    keeps its value. The layers need not be built yet: what they have is looked up when the
    optimizer is.

    The learning rate of this optimizer is that of the first one inside. Setting it, as callbacks of
    Keras 3 do, multiplies all of them by the same factor, so that their ratios stay. Callbacks of
    Keras 2 assign to the variable, which is that of the first one alone.

    Clipping is up to each optimizer; `global_clipnorm` of one inside is about its variables only.

    Args:
        optimizers_and_layers: list of pairs of an optimizer, of this package or Keras' own, and a
            layer, a model or a variable, or a list of these.
        optimizer_specs: what a configuration has instead: list of dicts with an "optimizer" and the
            names of its "weights" (paths in Keras 3).
        name: name of the optimizer.

    Attributes:
        optimizers: list of the optimizers inside.

    Raises:
        TypeError: the arguments are not of this form.
        ValueError: both or none is given; a `LossScaleOptimizer` is inside, or optimizers with
            different `loss_scale_factor`. When the optimizer is built: its variables are in none of
            the pairs.

    Reference:
        Howard and Ruder, *Universal Language Model Fine-tuning for Text Classification*,
        arXiv:1801.06146, for discriminative learning rates; the class is TensorFlow Addons'.

    Example:
        >>> import keras
        >>> import tf_optim_ext
        >>> body, head = keras.layers.Dense(2), keras.layers.Dense(1)
        >>> model = keras.Sequential([body, head])
        >>> model.compile(
        ...     tf_optim_ext.MultiOptimizer(
        ...         [(tf_optim_ext.SGD(0.01), body), (tf_optim_ext.AdamW(0.1), head)]
        ...     ),
        ...     loss="mse",
        ... )
    """

    def __init__(
        self, optimizers_and_layers=None, optimizer_specs=None, name="MultiOptimizer", **kwargs
    ):
        owner = type(self).__name__
        if (optimizers_and_layers is None) == (optimizer_specs is None):
            raise ValueError(
                f"{owner}: one of `optimizers_and_layers` and `optimizer_specs` must be given."
            )
        if optimizer_specs is None:
            pairs = _checked_pairs(owner, optimizers_and_layers)
            given = [(self._checked_inside(each), _Part(of=items)) for each, items in pairs]
        else:
            specs = _checked_specs(owner, optimizer_specs)
            given = [
                (
                    self._checked_inside(spec["optimizer"]),
                    _Part(names=spec["weights"], positions=spec.get("positions")),
                )
                for spec in specs
            ]
        optimizers: list[Any] = []
        parts: list[list[_Part]] = []
        for optimizer, part in given:
            same = [i for i, each in enumerate(optimizers) if each is optimizer]
            if same:
                parts[same[0]].append(part)
            else:
                optimizers.append(optimizer)
                parts.append([part])
        _check_scaling(owner, optimizers)
        self._set_untracked("optimizers", optimizers)
        super().__init__(name, **kwargs)
        self._untracked.parts = parts
        self._untracked.keys = [set() for _ in parts]

    def _inside(self):
        return self.optimizers

    def _share_out(self, variables):
        parts = self._untracked.parts
        keys = [
            {key for part in some for key in part.keys(variables, self._key_of)} for some in parts
        ]
        if not any(keys):
            self.built = False
            names = [name for some in parts for part in some for name in part.names()]
            raise ValueError(
                f"None of the variables that {self.name!r} is to train is in one of its pairs. "
                f"Variables: {[checks.name_of(v) for v in variables]}. In the pairs: {names}"
            )
        self._untracked.keys = keys

    def _shares(self, variables):
        keyed = [(self._key_of(v), v) for v in variables]
        return [
            (each, [v for key, v in keyed if key in keys])
            for each, keys in zip(self.optimizers, self._untracked.keys)
        ]

    @property
    def optimizer_specs(self):
        """List of dicts with each "optimizer", and the names of its "weights"."""
        return [
            {"optimizer": each, "weights": [name for part in some for name in part.names()]}
            for each, some in zip(self.optimizers, self._untracked.parts)
        ]

    @classmethod
    def create_optimizer_spec(cls, optimizer, layers_or_model):
        """A dict with an optimizer and the names of the weights of layers, for the constructor."""
        ((optimizer, items),) = _checked_pairs(cls.__name__, [(optimizer, layers_or_model)])
        return {"optimizer": optimizer, "weights": _Part(of=items).names()}

    def _config_of_inside(self):
        specs = self.optimizer_specs
        for spec, some, keys in zip(specs, self._untracked.parts, self._untracked.keys):
            for part in some:
                part.check_has_weights(type(self).__name__)
            spec["optimizer"] = self._serialized(spec["optimizer"])
            if self.built:
                positions = [i for i, v in enumerate(self._optimized) if self._key_of(v) in keys]
                spec["positions"] = positions
        return {"optimizer_specs": specs}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer that `get_config` described."""
        specs = [dict(spec) for spec in config["optimizer_specs"]]
        for spec in specs:
            if isinstance(spec["optimizer"], dict):
                spec["optimizer"] = cls._deserialized(spec["optimizer"], custom_objects)
        return super().from_config({**config, "optimizer_specs": specs}, custom_objects)

    @property
    def iterations(self):
        """The number of steps. Of the updates of one optimizer, see `optimizers`."""
        return self._counter

    def _set_iterations(self, variable):
        super()._set_iterations(variable)
        self._replace_iterations(self._as_own(variable))

    @property
    def learning_rate(self):
        """That of the first optimizer; setting it multiplies all by the same factor."""
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        graphs.check_runs_now("Setting `learning_rate`", "`learning_rate.assign` of each optimizer")
        before = [float(each.learning_rate) for each in self.optimizers]
        value = checks.number(type(self).__name__, "learning_rate", value, "[0, inf)")
        if value == before[0]:
            return
        if not before[0]:
            raise ValueError(
                f"{self.name!r}: the learning rate of the first optimizer is 0, which no factor "
                f"changes. Received: learning_rate={value!r}. Set those of `optimizers`."
            )
        done = []
        try:
            for each, old in zip(self.optimizers, before):
                each.learning_rate = old * (value / before[0])
                done.append((each, old))
        except TypeError:  # one has a schedule
            for each, old in done:
                each.learning_rate = old
            raise


class _Part:
    """Some variables: those of layers and models, or of names and positions in a configuration."""

    def __init__(self, of=(), names=(), positions=None):
        self._items = list(of)
        self._names = list(names)
        self._positions = positions

    def _of_items(self):
        variables: list[Any] = []
        for item in self._items:
            variables += [item] if checks.is_variable(item) else item.variables
        return variables

    def names(self):
        """Names of its variables; of their paths in Keras 3."""
        return [*self._names, *(checks.name_of(v) for v in self._of_items())]

    def keys(self, variables, key):
        """What identifies those of some variables that are in this part."""
        if self._items:
            own = {key(v) for v in self._of_items()}
            return [key(v) for v in variables if key(v) in own]
        named = [v for v in variables if checks.name_of(v) in self._names]
        # Names may have changed, and those of a `tf.Variable` may occur twice.
        if self._positions is not None and len(named) != len(self._positions):
            named = [v for i, v in enumerate(variables) if i in self._positions]
        return [key(v) for v in named]

    def check_has_weights(self, owner):
        """Raises a `ValueError` if a layer has no weights yet, by whose names it would be saved."""
        for item in self._items:
            if not checks.is_variable(item) and not getattr(item, "built", True):
                raise ValueError(
                    f"{owner}: the layer {item.name!r} has no weights yet, by whose names it is "
                    "described. Build the model first, for example by calling it on an input."
                )


def _checked_pairs(owner, pairs):
    """Pairs of something and a list of layers, models and variables."""
    expected = (
        f"{owner}: `optimizers_and_layers` must be a list of pairs of an optimizer and a layer, a "
        "model, a variable, or a list of these."
    )
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise TypeError(f"{expected} Received: {pairs!r}")
    checked = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{expected} Received the element {pair!r}")
        optimizer, items = pair
        items = list(items) if isinstance(items, (list, tuple)) else [items]
        for item in items:
            if not checks.is_variable(item) and not hasattr(item, "variables"):
                raise TypeError(f"{expected} Received: {item!r} of type {type(item).__name__}")
        checked.append((optimizer, items))
    return checked


def _checked_specs(owner, specs):
    fits = isinstance(specs, (list, tuple)) and specs
    if not fits or not all(isinstance(s, dict) and {"optimizer", "weights"} <= {*s} for s in specs):
        raise TypeError(
            f'{owner}: `optimizer_specs` must be a list of dicts with "optimizer" and "weights". '
            f"Received: {specs!r}"
        )
    return specs


def _check_scaling(owner, optimizers):
    """Raises a `ValueError` where the gradients of one loss have different scales."""
    for each in optimizers:
        if hasattr(each, "dynamic_growth_steps"):
            raise ValueError(
                f"{owner}: a {type(each).__name__} scales the loss, which is one for all. Put the "
                f"`LossScaleOptimizer` around the {owner}."
            )
    factors = [getattr(each, "loss_scale_factor", None) for each in optimizers]
    if any(factor != factors[0] for factor in factors):
        raise ValueError(
            f"{owner}: the optimizers must have the same `loss_scale_factor`, as the loss is one "
            f"for all. Received: {factors}"
        )
