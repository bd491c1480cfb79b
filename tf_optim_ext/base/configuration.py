"""The arguments of an optimizer: their values, which may change later, and `get_config`."""

import difflib
import functools
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.base import arguments, keras_hooks
from tf_optim_ext.base.declaration import Declaration
from tf_optim_ext.base.exclusions import Exclusions
from tf_optim_ext.base.groups import Group, Groups
from tf_optim_ext.base.interface import Interface
from tf_optim_ext.engine import graphs, hyperparameters

PACKAGE = __name__.partition(".")[0]


class _SignatureWithCommonArguments:
    """Shows the base arguments in the signature of a subclass, for editors and `help`.

    Computed on demand: the signatures of all optimizers would take a third of the import time.
    """

    def __get__(self, instance, owner):
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        named = [p for p in parameters if p.kind != p.VAR_KEYWORD]
        if named == parameters:
            return inspect.Signature(parameters)
        base = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in {**arguments.COMMON, "groups": None}.items()
            if name not in [p.name for p in parameters]
        ]
        return inspect.Signature([*named, *base])


class Configuration(Interface):
    """Base of `Optimizer`: declared arguments, their values, and `get_config`."""

    state: ClassVar[Sequence] = ()
    hyperparameters: ClassVar[Sequence] = ()
    required: ClassVar[Sequence[str]] = ()
    rule: Any = None
    _is_configured = False

    __signature__ = _SignatureWithCommonArguments()

    @classmethod
    @functools.cache
    def declaration(cls):
        """What the class and its bases declare: a `Declaration`."""
        return Declaration(cls)

    def __init__(self, learning_rate=0.001, **kwargs):
        owner = type(self).__name__
        kwargs = {n: v for n, v in kwargs.items() if n not in self._ignored_arguments}
        if self.rule is None:
            raise TypeError(f"{owner} needs a static method `rule(w, g, s, h)`, see `Optimizer`.")
        groups = Groups(kwargs.pop("groups", None), self)
        common = arguments.take_common(owner, kwargs)
        for name in self.required:
            self._check_given(name, common[name])
        values = arguments.take_own(type(self), kwargs)
        # Keras checks and keeps numbers only.
        plain = {name: common[name] for name in arguments.OF_KERAS}
        for name in arguments.INTERVALS.keys() & plain.keys():
            if plain[name] is not None and not hyperparameters.is_number(plain[name]):
                plain[name] = 1.0
        rate = self._checked_rate(learning_rate)
        groups.relate_to(rate)
        super().__init__(rate, **plain)
        for name, value in {**common, "name": self.name, **values}.items():
            self._set_untracked(name, value)
        self._untracked.exclusions = Exclusions()
        self._untracked.traced_numbers = hyperparameters.TracedNumbers(self._intervals())
        self._untracked.groups = groups
        self._derive_flags()
        self._check_options()
        self._check_groups()
        self._untracked.traced_numbers.create(
            vars(self), self._strategy, _keras.tensorflow_variable(self._counter)
        )
        if self.use_ema:
            keras_hooks.install_swap(self._api)
        self._set_untracked("_is_configured", True)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.declaration()  # raises an error if it is none
        for base in cls.__mro__[: cls.__mro__.index(Configuration)]:
            if base.__module__.partition(".")[0] in (PACKAGE, "keras", "tf_keras"):
                continue
            if ignored := sorted(_keras.NOT_CALLED & vars(base).keys()):
                raise TypeError(
                    f"{cls.__name__} overrides {ignored}, which optimizers of {PACKAGE} do not "
                    "call: a step is one operation for all variables. Write the maths as a `rule`; "
                    "to change gradients before the step, override `apply(grads, "
                    "trainable_variables)` and call `super().apply` with the new ones."
                )

    def _check_options(self):
        """Raises a `ValueError` for options that the rule cannot have."""
        raise NotImplementedError

    def _check_groups(self):
        """Raises a `ValueError` for groups that the rule cannot have."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- changing arguments

    def __setattr__(self, name, value):
        if not self._is_configured or name.startswith("_"):
            super().__setattr__(name, value)
        elif name in ("learning_rate", "lr"):
            # Keras would take a variable that is given here for one of the optimizer's own.
            object.__setattr__(self, name, value)
        elif name in self._intervals():
            self._set_hyperparameter(name, value)
        elif name in self._options():
            self._set_option(name, value)
        else:
            self._check_attribute(name)
            super().__setattr__(name, value)

    @classmethod
    @functools.cache
    def _intervals(cls):
        """Dict from the names of all hyperparameters, but the learning rate, to their ranges."""
        return {**cls.declaration().intervals, **arguments.INTERVALS}

    @classmethod
    @functools.cache
    def _options(cls):
        """Names of arguments that decide which program runs over which state."""
        declaration = cls.declaration()
        of_class = {*declaration.flags, *declaration.choices}
        return (arguments.COMMON.keys() | of_class) - {*arguments.INTERVALS, "name"}

    def _set_hyperparameter(self, name, value):
        owner, before = type(self).__name__, getattr(self, name)
        self._check_given(name, value)
        is_optional = arguments.COMMON.get(name, 0.0) is None
        if not (value is None and is_optional):
            value = hyperparameters.checked(owner, name, value, self._intervals()[name])
        if self.built:
            self._check_changeable(name, before, value)
        clipping = [n for n in arguments.CLIPPING if n != name and getattr(self, n) is not None]
        if value is not None and name in arguments.CLIPPING and clipping:
            raise ValueError(
                f"{owner}: only one of {', '.join(arguments.CLIPPING)} can be set. Received: "
                f"{name}={value!r}, while {clipping[0]} is set."
            )
        self._set_untracked(name, value)
        self._derive_flags()
        if hyperparameters.is_number(value):
            self._untracked.traced_numbers.set(name, value, self._strategy)

    def _check_given(self, name, value):
        if value is None and name in self.required:
            raise ValueError(
                f"{type(self).__name__}: `{name}` must be a number in {self._intervals()[name]}. "
                "Received: None"
            )

    def _check_changeable(self, name, before, value):
        owner = type(self).__name__
        if value is before or hyperparameters.are_equal(value, before):
            return
        are_numbers = hyperparameters.is_number(value) and hyperparameters.is_number(before)
        if self._untracked.traced_numbers.are_in_use and not are_numbers:
            raise ValueError(
                f"{owner}: `{name}` was {before!r} when a step was traced into a function, which "
                f"would not see the change. Received: {name}={value!r}. To change it between "
                "steps, create the optimizer with a number, which may be one without effect, or "
                "with a variable, and assign to that."
            )
        initial = self.declaration().initial.values()
        if name in initial and name not in self._program().hyperparameters:
            raise ValueError(
                f"{owner}: `{name}` is where state begins, and the optimizer is built. Received: "
                f"{name}={value!r}. Create another optimizer."
            )
        for flag in self.declaration().derived.values():
            if (
                flag.hyperparameter == name
                and getattr(self, flag.name) == flag.value
                and not hyperparameters.are_equal(value, flag.special)
            ):
                raise ValueError(
                    f"{owner}: `{name}` was {flag.special} when the optimizer was built, for which "
                    f"its update is another one. Received: {name}={value!r}. Create another "
                    "optimizer."
                )

    def _set_option(self, name, value):
        owner = type(self).__name__
        if name in self.declaration().derived:
            raise AttributeError(f"{owner}: `{name}` follows from other arguments.")
        value = arguments.checked_option(type(self), name, value)
        before = getattr(self, name)
        if value == before:
            return
        if self.built:
            raise AttributeError(
                f"{owner}: `{name}` cannot be changed any more, as the optimizer is built. "
                f"Received: {name}={value!r}. Create another optimizer."
            )
        self._set_untracked(name, value)
        try:
            self._check_options()
        except ValueError:
            self._set_untracked(name, before)
            raise
        if self.use_ema:
            keras_hooks.install_swap(self._api)

    def _check_attribute(self, name):
        """Refuses what would be a new attribute; classes of users may have more."""
        is_own = type(self).__module__.partition(".")[0] == PACKAGE
        if not is_own or name in vars(self) or hasattr(type(self), name):
            return
        arguments_of_class = ["learning_rate", *self._intervals(), *self._options()]
        close = difflib.get_close_matches(name, arguments_of_class, 1)
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}"
            f"{f'; did you mean {close[0]!r}?' if close else '.'} Arguments: {arguments_of_class}"
        )

    def _derive_flags(self):
        """Sets the flags that follow from numbers; they stay as they are once it is built."""
        if not self.built:
            for flag in self.declaration().derived.values():
                number = getattr(self, flag.hyperparameter)
                is_special = hyperparameters.are_equal(number, flag.special)
                self._set_untracked(flag.name, flag.value if is_special else not flag.value)

    @property
    def _all_decay(self):
        """Whether `_decays` holds for every variable."""
        return not self._untracked.exclusions

    def _variables_of_functions(self):
        values = {name: getattr(self, name) for name in self._intervals()}
        values["given_learning_rate"] = getattr(self._given_rate, "variable", None)
        values["hyperparameters"] = self._untracked.traced_numbers.variable
        return {name: v for name, v in values.items() if checks.is_variable(v)}

    def scale_loss(self, loss):
        """The loss times `loss_scale_factor`, by which gradients are divided."""
        factor = self._current_value("loss_scale_factor")
        if tf.is_tensor(factor):
            factor = tf.cast(factor, getattr(loss, "dtype", "float32"))
        return loss if factor is None else loss * factor

    @property
    def learning_rate(self):
        """The learning rate of the coming step; can be set, unless it is a schedule."""
        return self._current_rate()

    @learning_rate.setter
    def learning_rate(self, value):
        graphs.check_runs_now("Setting `learning_rate`", "`learning_rate.value.assign(...)`")
        # As in Keras, a variable is followed only if the constructor got it.
        value = hyperparameters.checked(type(self).__name__, "learning_rate", value, "[0, inf)")
        of_user = getattr(self._given_rate, "variable", None)
        if of_user is not None and not callable(value):
            of_user.assign(tf.cast(value, of_user.dtype))
        else:
            self._set_rate(value)

    def _checked_rate(self, value):
        """The learning rate as Keras takes it."""
        if tf.is_tensor(value) and not checks.is_variable(value) and not tf.executing_eagerly():
            return graphs.rate(value)
        value = hyperparameters.checked(type(self).__name__, "learning_rate", value, "[0, inf)")
        return hyperparameters.VariableRate(value) if checks.is_variable(value) else value

    def _is_frozen(self, variable):
        group = self._untracked.groups.of(self._key_of(variable))
        return group is not None and group.frozen

    def _resolve_groups(self, variables):
        self._untracked.groups.resolve(variables, self._key_of)

    @property
    def groups(self):
        """The parameter groups: a list of `Group`."""
        return list(self._untracked.groups.all)

    # ------------------------------------------------------------------------------ configuration

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from weight decay. Replaces what an earlier call said.

        Args:
            var_list: list of variables.
            var_names: list of regular expressions; a variable is excluded if one of them occurs
                in its path (Keras 3) or name.

        Raises:
            TypeError: `var_list` holds something that is no variable.
            ValueError: the optimizer is already built, and this is not what was said before.
        """
        self._exclude("exclude_from_weight_decay", "exclusions", var_list, var_names)

    def _exclude(self, method, attribute, var_list, var_names):
        exclusions = Exclusions.of(var_list or (), var_names or (), self._key_of)
        # The same again is what the second of several replicas says.
        if self.built and exclusions != getattr(self._untracked, attribute):
            raise ValueError(
                f"`{method}` must be called before the optimizer is built, that is before its "
                "first step."
            )
        setattr(self._untracked, attribute, exclusions)

    def _decays(self, variable):
        return not self._is_excluded(self._untracked.exclusions, variable)

    def _is_excluded(self, exclusions, variable):
        key = self._key_of(variable)
        return exclusions.cover(variable, key, self._positions.get(key))

    def _exclusions_config(self, exclusions):
        return exclusions.get_config(self._optimized, self._key_of)

    def get_config(self):
        """A JSON-serialisable dict that `from_config` makes the same optimizer from.

        Of a variable it holds the current value.
        """
        rate = getattr(self._given_rate, "variable", self._given_rate)
        config = {"name": self.name, "learning_rate": hyperparameters.for_config(rate, self._api)}
        # Keras' own optimizers, which take the same configuration, do not know these.
        own = {*arguments.OWN, *self._unknown_arguments}
        for name in [*arguments.OF_KERAS, *self.declaration().arguments, *arguments.OWN]:
            value = getattr(self, name)
            if name not in own or checks.is_variable(value) or value != arguments.COMMON[name]:
                config[name] = hyperparameters.for_config(value, self._api)
        config.update(self._config_of_generation())
        if self._untracked.exclusions:
            config["weight_decay_exclusions"] = self._exclusions_config(self._untracked.exclusions)
        if self._untracked.groups:
            arguments_of_config = (self._optimized, self._key_of, self._api)
            config["groups"] = [g.get_config(*arguments_of_config) for g in self.groups]
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer that `get_config` described; `lr` is accepted for `learning_rate`."""
        config = {n: v for n, v in config.items() if n not in cls._ignored_arguments}
        if "lr" in config:
            config["learning_rate"] = config.pop("lr")
        for name in cls._intervals():
            if isinstance(config.get(name), dict):
                config[name] = cls._api.saving.deserialize_keras_object(
                    config[name], custom_objects
                )
        if config.get("groups"):
            config["groups"] = [
                each
                if isinstance(each, Group)
                else Group.from_config(each, cls._api, custom_objects)
                for each in config["groups"]
            ]
        # The second name is that of older files.
        old = config.pop("weight_decay_exemptions", None)
        exclusions = config.pop("weight_decay_exclusions", old)
        optimizer = super().from_config(config, custom_objects)
        if exclusions:
            optimizer._untracked.exclusions = Exclusions(**exclusions)
        return optimizer
