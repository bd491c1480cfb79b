"""Parameter groups: some of an optimizer's variables with hyperparameters of their own."""

import copy
import re
from typing import Any

import numpy as np
import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.engine import hyperparameters

RATE = "learning_rate"


class Group:
    """Variables that an optimizer updates with hyperparameters of their own.

    A variable belongs to the first group that selects it; the others have what the optimizer has.

    Args:
        select: which variables: a regular expression, which occurs in the path (Keras 3) or name of
            a variable; a layer or model; a variable; a function from a variable to a boolean; or a
            list of these, any of which selects it. Layers and functions are asked when the
            optimizer is built, so that a layer may get its variables later.
        learning_rate: instead of the optimizer's: a number, schedule, callable without arguments or
            scalar variable. As far as the optimizer's own learning rate is a number and is set to
            another one, for example by `ReduceLROnPlateau`, this one changes by the same factor.
        learning_rate_factor: number >= 0 that the learning rate is multiplied by.
        frozen: whether these variables stay as they are: no update, no decay, and no slots. Their
            gradients do not count for a common norm either.
        name: what messages and `describe` call the group.
        **overrides: `weight_decay`, `clipvalue`, `adaptive_clipping` or any hyperparameter of the
            optimizer, in every form that it takes there.

    Example:
        >>> import tf_optim_ext
        >>> groups = [
        ...     tf_optim_ext.Group("embedding", learning_rate_factor=0.1, weight_decay=0.0),
        ...     tf_optim_ext.no_decay_of_biases_and_norms(),
        ... ]
        >>> optimizer = tf_optim_ext.AdamW(1e-3, weight_decay=0.01, groups=groups)
    """

    def __init__(
        self,
        select,
        learning_rate=None,
        learning_rate_factor=1.0,
        frozen=False,
        name=None,
        **overrides,
    ):
        owner = type(self).__name__
        self.patterns, self.layers, self.variables, self.predicates = [], [], [], []
        for each in _flat(select):
            self._add(each)
        if learning_rate is not None:
            learning_rate = _as_in_keras(
                hyperparameters.checked(owner, RATE, learning_rate, "[0, inf)")
            )
        self.learning_rate = learning_rate
        self.learning_rate_factor = checks.number(
            owner, "learning_rate_factor", learning_rate_factor, "[0, inf)"
        )
        self.frozen = checks.boolean(owner, "frozen", frozen)
        self.name = name or self._description()
        self.overrides = overrides
        # Of a file: the positions of selected variables, and their paths as long as there are none.
        self.positions, self.paths = set(), set()
        # The number that the optimizer's learning rate was when it got the group.
        self.relative_to = None

    def _add(self, each):
        if isinstance(each, str):
            re.compile(each)
            self.patterns.append(each)
        elif checks.is_variable(each):
            self.variables.append(each)
        elif hasattr(each, "trainable_variables"):
            self.layers.append(each)
        elif callable(each):
            self.predicates.append(each)
        else:
            raise TypeError(
                "A group selects variables by regular expressions, layers, variables or functions "
                f"of a variable. Received: {each!r} of type {type(each).__name__}"
            )

    def _description(self):
        layers = [getattr(layer, "name", "layer") for layer in self.layers]
        paths = [checks.name_of(v) for v in self.variables]
        functions = [getattr(f, "__name__", "function") for f in self.predicates]
        return ", ".join([*self.patterns, *layers, *paths, *functions]) or "no variables"

    def __repr__(self):
        return f"Group({self.name!r})"

    def __str__(self):
        return f"{self.name}{' (frozen)' if self.frozen else ''}"

    def selects(self, variable, position, key_of):
        """Whether the group selects a variable.

        Args:
            variable: the variable.
            position: its number among those of the optimizer.
            key_of: function from a variable to what identifies it.
        """
        if any(checks.matches(pattern, variable) for pattern in self.patterns):
            return True
        if position in self.positions or checks.name_of(variable) in self.paths:
            return True
        keys = {key_of(v) for v in self.variables}
        keys.update(key_of(v) for layer in self.layers for v in layer.trainable_variables)
        return key_of(variable) in keys or any(select(variable) for select in self.predicates)

    def get_config(self, variables, key_of, keras):
        """A JSON-serialisable dict for `from_config`; `variables`: of the optimizer, if built."""
        config = {
            "select": list(self.patterns),
            "name": self.name,
            "learning_rate_factor": self.learning_rate_factor,
            "frozen": self.frozen,
            "relative_to": self.relative_to,
            "overrides": {n: _for_config(v, keras) for n, v in self.overrides.items()},
            RATE: _for_config(self.learning_rate, keras),
        }
        if variables:
            alone = _without_patterns(self)
            selected = [i for i, v in enumerate(variables) if alone.selects(v, i, key_of)]
            return {**config, **({"positions": selected} if selected else {})}
        paths = [checks.name_of(v) for v in self.variables]
        paths += [checks.name_of(v) for layer in self.layers for v in layer.trainable_variables]
        selection = {
            "positions": sorted(self.positions),
            "paths": sorted({*paths, *self.paths}),
            "predicates": [keras.saving.serialize_keras_object(f) for f in self.predicates],
        }
        return {**config, **{name: value for name, value in selection.items() if value}}

    @classmethod
    def from_config(cls, config, keras, custom_objects=None):
        """The group that `get_config` described."""

        def value(x):
            is_object = isinstance(x, dict)
            return keras.saving.deserialize_keras_object(x, custom_objects) if is_object else x

        overrides = {name: value(x) for name, x in config["overrides"].items()}
        select = [*config["select"], *map(value, config.get("predicates", ()))]
        group = cls(
            select,
            value(config[RATE]),
            config["learning_rate_factor"],
            config["frozen"],
            config["name"],
            **overrides,
        )
        group.positions = set(config.get("positions", ()))
        group.paths = set(config.get("paths", ()))
        group.relative_to = config["relative_to"]
        return group


def no_decay_of_biases_and_norms():
    """A group without weight decay: variables with less than two axes, as biases and the scales and
    offsets of normalizations are."""
    return Group(has_one_axis, weight_decay=0.0, name="biases and norms")


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
def has_one_axis(variable):
    """Whether a variable is a vector or a scalar."""
    return len(variable.shape) < 2


def layerwise_learning_rates(layers, factor):
    """Groups for layer-wise decay of learning rates, as for fine-tuning (arXiv:1801.06146).

    Args:
        layers: list of layers, or of lists of layers, from the input to the output. The last one
            has the optimizer's learning rate.
        factor: number >= 0: what the learning rate of a layer is multiplied by to give that of the
            layer before it.

    Returns:
        A list of groups.
    """
    layers = list(layers)
    return [
        Group(layer, learning_rate_factor=factor ** (len(layers) - 1 - i))
        for i, layer in enumerate(layers)
    ]


class Groups:
    """The groups of one optimizer: which variables are in which, and what that means.

    Attributes:
        all: list of `Group`.
        overridden: names of the hyperparameters that some group has of its own.
    """

    def __init__(self, groups, optimizer):
        owner, intervals = type(optimizer).__name__, optimizer._intervals()
        # Copies: groups may be given to several optimizers.
        self.all = [Group(**g) if isinstance(g, dict) else copy.copy(g) for g in groups or ()]
        self._numbers = {}  # key of a variable -> number of its group
        for group in self.all:
            if not isinstance(group, Group):
                raise TypeError(
                    f"{owner}: `groups` must be a list of `tf_optim_ext.Group`, or of dicts of its "
                    f"arguments. Received: {group!r}"
                )
            allowed = [name for name in intervals if name not in _OF_THE_OPTIMIZER]
            if unknown := [name for name in group.overrides if name not in allowed]:
                raise TypeError(
                    f"{owner}: {group!r} has {unknown}, which an optimizer has for all variables, "
                    f"or not at all. A group takes: {[RATE, *allowed]}"
                )
            group.overrides = {
                name: hyperparameters.checked(
                    owner, name, 0.0 if value is None else value, intervals[name]
                )
                for name, value in group.overrides.items()
            }
        self.overridden = {name for group in self.all for name in group.overrides}
        self.have_rates = any(
            g.learning_rate is not None or g.learning_rate_factor != 1.0 for g in self.all
        )

    def __bool__(self):
        return bool(self.all)

    def relate_to(self, rate):
        """Remembers the learning rate of the optimizer, if that is a number."""
        if hyperparameters.is_number(rate):
            for group in self.all:
                if group.learning_rate is not None and group.relative_to is None:
                    group.relative_to = _as_in_keras(rate)

    def resolve(self, variables, key_of):
        """Finds the group of each variable.

        Raises:
            ValueError: a group selects none.
        """
        numbers: dict[Any, int] = {}
        for number, group in enumerate(self.all):
            selected = [v for i, v in enumerate(variables) if group.selects(v, i, key_of)]
            if not selected:
                raise ValueError(
                    f"{group!r} selects none of the optimizer's variables: "
                    f"{[checks.name_of(v) for v in variables]}"
                )
            for variable in selected:
                numbers.setdefault(key_of(variable), number)
        self._numbers = numbers

    def of(self, key):
        """The group of a variable, given its key; None if it is in none."""
        number = self._numbers.get(key)
        return None if number is None else self.all[number]

    def own_values(self, common, keys, iterations):
        """The hyperparameters of which groups have their own.

        Args:
            common: dict from names to what variables have that are in no such group.
            keys: the keys of the variables.
            iterations: the variable that a schedule gets.

        Returns:
            Dict from some of the names to lists with a value for each variable.
        """
        values = {}
        for name in self.overridden.intersection(common):
            own = {
                number: hyperparameters.current(group.overrides[name], iterations)
                for number, group in enumerate(self.all)
                if name in group.overrides
            }
            values[name] = [own.get(self._numbers.get(key, -1), common[name]) for key in keys]
        return values

    def rates(self, rate, keys, iterations):
        """The learning rate of each variable: a list of scalar float64 tensors.

        Args:
            rate: that of the optimizer, a tensor.
            keys: the keys of the variables.
            iterations: the variable that a schedule gets.
        """
        rate = tf.cast(rate, tf.float64)
        current = {n: _rate_of(group, rate, iterations) for n, group in enumerate(self.all)}
        return [current.get(self._numbers.get(key, -1), rate) for key in keys]

    def table(self, variables, key_of, values):
        """Lines of text: variables, shapes, groups and hyperparameters.

        Args:
            variables: list of variables.
            key_of: function from a variable to what identifies it.
            values: dict from the name of a hyperparameter to its value, or to a list with one for
                each variable.
        """
        groups = [self.of(key_of(v)) for v in variables]
        columns = [
            ["variable", *(checks.name_of(v) for v in variables)],
            ["shape", *(str(tuple(v.shape)) for v in variables)],
            ["group", *("-" if group is None else str(group) for group in groups)],
        ]
        for name, value in values.items():
            of_all = value if isinstance(value, list) else [value] * len(variables)
            columns.append([name, *(_cell(x, group) for x, group in zip(of_all, groups))])
        widths = [max(map(len, column)) for column in columns]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in zip(*columns)
        ]


def _cell(value, group):
    return "-" if group is not None and group.frozen else f"{float(value):.6g}"


# What belongs to all variables together.
_OF_THE_OPTIMIZER = ("clipnorm", "global_clipnorm", "ema_momentum", "loss_scale_factor")


def _rate_of(group, rate, iterations):
    if group.learning_rate is not None:
        own = hyperparameters.current(group.learning_rate, iterations)
        own = hyperparameters.as_tensor(own, tf.float64)
        rate = own * (rate / group.relative_to) if group.relative_to else own
    factor = group.learning_rate_factor
    return rate if factor == 1.0 else rate * tf.constant(factor, tf.float64)


def _as_in_keras(rate):
    """A learning rate as Keras keeps it, a number in a float32 variable."""
    return float(np.float32(rate)) if hyperparameters.is_number(rate) else rate


def _flat(select):
    if isinstance(select, (list, tuple, set)):
        return [x for each in select for x in _flat(each)]
    return [select]


def _without_patterns(group):
    alone = object.__new__(Group)
    vars(alone).update(vars(group), patterns=[])
    return alone


def _for_config(value: Any, keras):
    return None if value is None else hyperparameters.for_config(value, keras)
