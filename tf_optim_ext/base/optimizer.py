"""The base class of all optimizers: how a rule becomes a program."""

import functools
import operator

from tf_optim_ext.base import arguments
from tf_optim_ext.base.step import Step
from tf_optim_ext.rule import trace, transforms
from tf_optim_ext.rule.catch_up import LAST_STEP

# Options that no rule knows of.
_OF_EVERY_RULE = {"centralize_gradients", "skip_nonfinite"}


class Optimizer(Step):
    """Base class of all optimizers: a `tf.keras.optimizers.Optimizer` made of a rule.

    A subclass declares what it has and writes its maths once; variables, configuration, saving and
    the fused update follow from that::

        @tf.keras.utils.register_keras_serializable("my_package")
        class Heavy(tf_optim_ext.Optimizer):
            state = [Slot("momentum")]
            hyperparameters = [Hyperparameter("mu", "[0, 1)")]

            def __init__(self, learning_rate=0.01, mu=0.9, **kwargs):
                super().__init__(learning_rate, mu=mu, **kwargs)

            @staticmethod
            def rule(w, g, s, h):
                s.momentum = h.mu * s.momentum + g
                return w - h.learning_rate * s.momentum

    The language of rules is described in `tf_optim_ext.rule`.

    Class attributes:
        state: list of `Slot`, `VariableScalar` and `OptimizerScalar`: what the rule finds in `s`.
            It is created as far as the rule uses it.
        hyperparameters: list of `Hyperparameter`, `Boolean`, `Choice`, `Derived` and `Computed`:
            what the rule finds in `h` beside `learning_rate` and `step`.
        required: names of the common arguments that may not be None.

    A class has what its bases declare, too, and may declare a name anew.

    Args:
        learning_rate: number >= 0, `LearningRateSchedule`, callable without arguments, or scalar
            variable. Every other numeric argument may be one of these as well, unless it counts
            something. They are read in every step, and may be set between steps.
        weight_decay: decoupled weight decay, a number >= 0, or None: before the update, the weights
            shrink by `learning_rate * weight_decay` of themselves.
        clipnorm: if set, each gradient is scaled down to at most this norm.
        clipvalue: if set, each element of a gradient is clipped to at most this magnitude.
        global_clipnorm: if set, all gradients are scaled down so that their common norm is at most
            this; under a distribution strategy, the norm of the summed gradients.
        use_ema: whether to keep an exponential moving average of the weights (slot `average`).
        ema_momentum: momentum of that average, in [0, 1].
        ema_overwrite_frequency: number of updates after which the weights are replaced by their
            average, or None.
        loss_scale_factor: the gradients are divided by it; `scale_loss` multiplies the loss.
        gradient_accumulation_steps: number >= 2 of calls whose mean gradient makes one update, or
            None.
        name: name of the optimizer.
        cautious: whether to update only those weights for which update and gradient agree in sign,
            by as much more as others are left out (arXiv:2411.16085). Takes a second pass over
            memory. Only for optimizers with a momentum.
        cautious_weight_decay: whether to decay only those weights that the update moves towards
            zero (arXiv:2510.12402). Only for optimizers with a momentum.
        sparse: what a `tf.IndexedSlices` gradient does, such as that of an embedding; its repeated
            indices are summed in any case. "exact": the same as the dense gradient, so that rows
            without a gradient move, too, as far as their slots say. "lazy": only the rows with a
            gradient are read and written, weights and slots; the others miss decay and averages for
            good. "catch_up": like "lazy", but a row that returns first gets the decay of weights
            and slots that it missed, so that its slots are those of "exact"; what its momentum
            would have moved it is lost. Only for rules that treat rows one by one, and "catch_up"
            only for those whose slots just shrink without a gradient.
        row_wise: whether the second moment is a scalar for each row (first axis) of a variable, the
            mean over the row, as recommender systems keep it for embedding tables. Only for
            optimizers with a slot that is `row_wise`.
        stochastic_rounding: whether to round new weights of bfloat16 and float16 up or down at
            random, so that they are right on average; otherwise updates below half the distance
            of neighbouring numbers are lost. Results are reproducible, and independent of route
            and threads.
        seed: integer >= 0, for the random numbers of `stochastic_rounding`.
        centralize_gradients: whether to subtract from each gradient with at least two axes its mean
            over all axes but the last, so that it is zero for each output unit of a kernel
            (arXiv:2004.01461). Of a `tf.IndexedSlices`, each row loses its own mean, as rows of
            embeddings do in the authors' code.
        adaptive_clipping: number >= 0, or None; 0 clips nothing. The gradient of each output unit
            is scaled down to at most this many times the norm of the unit's weights, which is taken
            to be at least 1e-3 (arXiv:2102.06171, where 0.01 is usual). A unit is what all axes
            but the last hold, in a vector or scalar everything, and in a `tf.IndexedSlices` a row.
            Comes before the other kinds of clipping. The authors leave out the last layer: give
            that a group with `adaptive_clipping=0`.
        skip_nonfinite: whether a step in which a gradient holds NaN or infinity changes nothing,
            not even `iterations`, and is counted in `skipped_steps`. Under a distribution strategy,
            the summed gradients decide. With accumulation, such a call counts as not made.
        groups: list of `Group`, or of dicts of its arguments: variables with a learning rate,
            weight decay or other hyperparameters of their own, or that are frozen.
        fully_decoupled_weight_decay: whether the weights shrink by `weight_decay` of themselves,
            not multiplied by the learning rate.
        **kwargs: the subclass's hyperparameters and flags.

    Raises:
        ValueError: an argument is outside its range.
        TypeError: an argument is unknown or missing.
    """

    @staticmethod
    def decay(w, h):
        """Decoupled weight decay: what the rule gets as `w`. A subclass may replace it."""
        return transforms.decay(w, h)

    @classmethod
    def stateful_decay(cls, w, s, h):
        """`decay`, for a subclass whose decay depends on the state before the step."""
        return cls.decay(w, h)

    @classmethod
    @functools.cache
    def program(cls, row_wise=False, catch_up=False, **flags):
        """The traced rule, a `rule.Program`, for one setting of options, flags and choices.

        Raises:
            transforms.Unsupported: the rule cannot have one of the options.
        """
        by_row = row_wise or catch_up
        if by_row and not cls.treats_rows_alone(**flags):
            option = "`row_wise`" if row_wise else '`sparse="catch_up"`'
            raise transforms.Unsupported(f"{option} is not possible: {transforms.NEEDS_ALL_ROWS}")
        declaration = cls.declaration()
        if row_wise and not declaration.row_wise_slots:
            raise transforms.Unsupported(
                "`row_wise` is not possible: there is nothing to keep by row"
            )
        row_scalars = declaration.row_wise_slots if row_wise else ()
        slots = [name for name in declaration.slots if name not in row_scalars]
        variable_scalars = (
            *declaration.variable_scalars,
            *row_scalars,
            *((LAST_STEP,) if catch_up else ()),
        )
        flags = {**dict.fromkeys(transforms.FLAGS, False), **flags}
        return trace(
            functools.partial(transforms.complete, cls.rule, cls.stateful_decay),
            slots,
            (*transforms.HYPERPARAMETERS, *declaration.intervals, *declaration.computed),
            {**flags, "row_wise": row_wise, "catch_up": catch_up},
            variable_scalars,
            tuple(declaration.optimizer_scalars),
            by_row,
        )

    @classmethod
    def treats_rows_alone(cls, **settings):
        """Whether the update of a row depends on that row only, for a setting as of `program`."""
        return cls.program(**settings).treats_rows_alone

    @classmethod
    def extra_programs(cls):
        """Programs beside the rule that the native library should have: dict from a name."""
        return {}

    def _program(self):
        return self._program_of(self._attributes_of_settings()(self))

    def _settings(self):
        return self._settings_of(self._attributes_of_settings()(self))

    # In every step the program is looked up by the attributes that decide about it.

    @classmethod
    @functools.cache
    def _attributes_of_settings(cls):
        return operator.attrgetter(*cls._names_of_settings())

    @classmethod
    def _names_of_settings(cls):
        declaration = cls.declaration()
        return "sparse", "row_wise", *declaration.flags, *transforms.FLAGS, *declaration.choices

    @classmethod
    def _settings_of(cls, values):
        settings = dict(zip(cls._names_of_settings(), values))
        settings["catch_up"] = settings.pop("sparse") == "catch_up"
        choices = cls.declaration().choices
        return {n: v if n in choices else bool(v) for n, v in settings.items()}

    @classmethod
    @functools.cache
    def _program_of(cls, values):
        return cls.program(**cls._settings_of(values))

    def _check_groups(self):
        groups, owner = self._untracked.groups, type(self).__name__
        if not groups:
            return
        program, derived = self._program(), self.declaration().derived.values()
        for group in groups.all:
            own = set(group.overrides)
            if without := sorted(own - {*program.hyperparameters, "adaptive_clipping"}):
                raise ValueError(
                    f"{owner}: {group!r} has {without} of its own, which this optimizer has for "
                    "all variables, or not at all."
                )
            if group.learning_rate is not None or group.learning_rate_factor != 1.0:
                own.add("learning_rate")
            if common := sorted(own & program.common_scalars):
                raise ValueError(
                    f"{owner} has state that all variables share and that depends on {common}: "
                    f"{group!r} cannot have its own."
                )
            for flag in derived:
                name = flag.hyperparameter
                if name in own and getattr(self, flag.name) == flag.value:
                    raise ValueError(
                        f"{owner}: `{name}` is {flag.special}, for which the update is another "
                        f"one, and {group!r} has its own. Give the optimizer another `{name}`, and "
                        f"{flag.special} to a group that comes last."
                    )

    def _check_options(self):
        for name in transforms.FLAGS:
            if getattr(self, name) and "momentum" not in self.declaration().slots:
                raise ValueError(
                    f"{type(self).__name__} has no momentum: `{name}` is for optimizers that have."
                )
        options = arguments.OWN.keys() - arguments.INTERVALS.keys() - _OF_EVERY_RULE
        if all(getattr(self, name) == arguments.OWN[name] for name in options):
            return  # a rule that cannot be traced says so when it is needed
        try:
            program = self._program()
        except transforms.Unsupported as error:
            raise ValueError(f"{type(self).__name__}: {error}.") from error
        if self.sparse == "lazy" and not self.treats_rows_alone(**self._settings()):
            raise ValueError(
                f'{type(self).__name__}: `sparse="lazy"` is not possible: '
                f"{transforms.NEEDS_ALL_ROWS}."
            )
        needed = "fully_decoupled_weight_decay"
        if getattr(self, needed) and needed not in program.hyperparameters:
            raise ValueError(f"{type(self).__name__} has no use for `{needed}`.")
