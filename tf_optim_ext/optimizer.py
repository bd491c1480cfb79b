"""The step, from top to bottom, and the declaration of an optimizer. Read this file first."""

import functools
import operator

import tensorflow as tf

from tf_optim_ext import (
    arguments,
    call,
    checks,
    clipping,
    frame,
    graphs,
    native,
    programs,
    replica,
    route,
    sparse,
    targets,
)
from tf_optim_ext.catch_up import LAST_STEP
from tf_optim_ext.configuration import Configuration
from tf_optim_ext.interrupts import DeferredInterrupts
from tf_optim_ext.lowering import rounding
from tf_optim_ext.lowering import tensorflow as tensorflow_lowering
from tf_optim_ext.lowering.scalars import Scalars
from tf_optim_ext.rule import trace

# AutoGraph would rewrite the whole package when a step is traced, which takes longer than tracing.
without_autograph = tf.autograph.experimental.do_not_convert


class Optimizer(Configuration):
    """Base class of all optimizers: a `tf.keras.optimizers.Optimizer` made of a rule.

    A subclass declares what it has and writes its maths once; variables, configuration, saving and
    the fused update follow from that::

        @tf.keras.utils.register_keras_serializable("my_package")
        class Heavy(tf_optim_ext.Optimizer):
            slots = ("momentum",)
            hyperparameters = {"mu": "[0, 1)"}

            def __init__(self, learning_rate=0.01, mu=0.9, **kwargs):
                super().__init__(learning_rate, mu=mu, **kwargs)

            @staticmethod
            def rule(w, g, s, h):
                s.momentum = h.mu * s.momentum + g
                return w - h.learning_rate * s.momentum

    The language of rules is described in `tf_optim_ext.rule`.

    Class attributes:
        slots: names of the slots the rule may use. Only those it does use are created.
        variable_scalars: names of the state that is one number for each variable; float64.
        optimizer_scalars: names of the state that is one number for all variables; float64.
        slot_initializers: dict from the name of a slot or scalar to its first value, a number; for
            or the name of a hyperparameter; for slots also a Keras initializer. Default: zero. What
            starts from the weights or the first gradient is NaN at first, `math.nan`, and the rule
            reads it by `rule.unless_set`: weights may have no value yet when slots are created, may
            be loaded later, and have their first updates in different steps.
        separate_slots: names of the slots that are created after the others of all variables, and
            not next to those of the same variable. Decides the order of `variables`, no more.
        hyperparameters: dict from the name of a constructor argument to the interval of its values,
            such as `"[0, 1)"`, or to `"boolean"`: 0 or 1 in the rule.
        row_wise_slots: names of the slots that are one number for each row with `row_wise=True`;
            float64. The rule finds that flag in `h`; see `frame.squared`.
        computed_hyperparameters: names of more numbers in `h`, which are no arguments: an override
            of `_hyperparameter_values` provides them, one for all variables or one for each.
        flags: names of boolean attributes that the rule branches on.
        derived_flags: dict from those flags that are no arguments to the name of a hyperparameter,
            a number that makes another rule of it, and the flag's value for that number.
        choices: dict from the name of a constructor argument that the rule branches on to the
            strings that it may be.
        required: names of the common arguments that may not be None.

    Args:
        learning_rate: number >= 0, `LearningRateSchedule`, callable without arguments, or scalar
            variable. So may be all arguments that are numbers, but those that count something; they
            are read in every step, and may be set between steps.
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
            memory. For optimizers with a momentum.
        cautious_weight_decay: whether to decay only those weights that the update moves towards
            zero (arXiv:2510.12402). For optimizers with a momentum.
        sparse: what a `tf.IndexedSlices` gradient, as that of an embedding, does; its repeated
            indices are summed in any case. "exact": the same as the dense gradient, so that rows
            without gradient move, too, as far as their slots say. "lazy": only the rows with a
            gradient are read and written, weights and slots; decay and averages of the others
            wait, and are not made up for. "catch_up": like "lazy", but a row that returns first
            gets the decay of weights and slots that it missed, so that its slots are those of
            "exact"; what its momentum would have moved it is lost. For rules that treat rows alone,
            and "catch_up" for those whose slots only shrink without a gradient.
        row_wise: whether the second moment is one number for each row (first axis) of a variable,
            the mean over the row, as recommender systems keep it for embedding tables. For
            optimizers with `row_wise_slots`.
        stochastic_rounding: whether to round new weights of bfloat16 and float16 up or down at
            random, so that they are right on average; otherwise updates below half the distance
            of neighbouring numbers are lost. Results are reproducible, and independent of route
            and threads.
        seed: whole number from 0, of the random numbers of `stochastic_rounding`.
        fully_decoupled_weight_decay: whether the weights shrink by `weight_decay` of themselves,
            not multiplied by the learning rate.
        **kwargs: the subclass's hyperparameters and flags.

    Raises:
        ValueError: an argument is outside of its range.
        TypeError: an argument is unknown or missing.
    """

    def __init__(self, learning_rate=0.001, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.__dict__.update(_route=None, _targets=targets.TargetsCache())

    # ---------------------------------------------------------------------------------- the maths

    @staticmethod
    def decay(w, h):
        """Decoupled weight decay: what the rule gets as `w`. A subclass may replace it."""
        return frame.decay(w, h)

    @classmethod
    def stateful_decay(cls, w, s, h):
        """`decay`, for a subclass whose decay depends on the state before the step."""
        return cls.decay(w, h)

    @classmethod
    @functools.cache
    def program(cls, row_wise=False, catch_up=False, **flags):
        """The traced rule, a `rule.Program`, for one setting of options, flags and choices.

        Raises:
            frame.Unsupported: the rule cannot have one of the options.
        """
        by_row = row_wise or catch_up
        if by_row and not cls.treats_rows_alone(**flags):
            option = "`row_wise`" if row_wise else '`sparse="catch_up"`'
            raise frame.Unsupported(f"{option} is not possible: {frame.NEEDS_ALL_ROWS}")
        if row_wise and not cls.row_wise_slots:
            raise frame.Unsupported("`row_wise` is not possible: there is nothing to keep by row")
        numbers = cls.row_wise_slots if row_wise else ()
        slots = [name for name in cls.slots if name not in numbers]
        own = (*cls.variable_scalars, *numbers, *((LAST_STEP,) if catch_up else ()))
        flags = {**dict.fromkeys(frame.FLAGS, False), **flags}
        return trace(
            functools.partial(frame.complete, cls.rule, cls.stateful_decay),
            slots,
            (*frame.HYPERPARAMETERS, *cls.hyperparameters, *cls.computed_hyperparameters),
            {**flags, "row_wise": row_wise, "catch_up": catch_up},
            own,
            cls.optimizer_scalars,
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
        return "sparse", "row_wise", *cls.flags, *frame.FLAGS, *cls.choices

    @classmethod
    def _settings_of(cls, values):
        settings = dict(zip(cls._names_of_settings(), values))
        settings["catch_up"] = settings.pop("sparse") == "catch_up"
        return {n: v if n in cls.choices else bool(v) for n, v in settings.items()}

    @classmethod
    @functools.cache
    def _program_of(cls, values):
        return cls.program(**cls._settings_of(values))

    def _check_options(self):
        for name in frame.FLAGS:
            if getattr(self, name) and "momentum" not in self.slots:
                raise ValueError(
                    f"{type(self).__name__} has no momentum: `{name}` is for optimizers that have."
                )
        if all(getattr(self, name) == default for name, default in arguments.OWN.items()):
            return  # a rule that cannot be traced says so when it is needed
        try:
            program = self._program()
        except frame.Unsupported as error:
            raise ValueError(f"{type(self).__name__}: {error}.") from error
        if self.sparse == "lazy" and not self.treats_rows_alone(**self._settings()):
            raise ValueError(
                f'{type(self).__name__}: `sparse="lazy"` is not possible: {frame.NEEDS_ALL_ROWS}.'
            )
        needed = "fully_decoupled_weight_decay"
        if getattr(self, needed) and needed not in program.hyperparameters:
            raise ValueError(f"{type(self).__name__} has no use for `{needed}`.")

    # ----------------------------------------------------------------------------------- the step

    @without_autograph
    def apply_gradients(
        self,
        grads_and_vars,
        name=None,
        *,
        experimental_aggregate_gradients=True,
        skip_gradients_aggregation=False,
    ):
        """Updates variables; the optimizer is built for them by the first call.

        Args:
            grads_and_vars: iterable of pairs of a gradient (tensor, `tf.IndexedSlices`, array or
                None) and a `keras.Variable` or `tf.Variable`.
            name: ignored; accepted for compatibility.
            experimental_aggregate_gradients: whether to sum the gradients over the replicas of a
                strategy; False: the caller did.
            skip_gradients_aggregation: the opposite; the name that later versions have.

        Returns:
            `iterations`, increased by one; unchanged if there are no pairs. In a graph of a
            session, a tensor with that number: running it takes the step.

        Raises:
            TypeError, ValueError: what was given does not fit; nothing was changed then.
        """
        gradients, variables = checks.pairs(grads_and_vars)
        summed = skip_gradients_aggregation or not experimental_aggregate_gradients
        return self._as_one_call(lambda: self.apply(gradients, variables), summed)

    @without_autograph
    def apply(self, grads, trainable_variables=None):
        """Updates variables, like `apply_gradients`.

        Args:
            grads: list of gradients.
            trainable_variables: list of as many variables. Default: those of `build`.
        """
        # 1. Whatever is wrong is found before anything changes.
        gradients = list(grads)
        if not gradients and not trainable_variables:
            return
        self._check_in_replica()
        graphs.check_runs_now("`apply`", "what `apply_gradients` returns")
        variables = self._variables_for(gradients, trainable_variables)
        present_gradients, present, checked_late = self._check(gradients, variables)
        with DeferredInterrupts(), graphs.named(self.name, checked_late):
            self.build(variables)
            present_gradients, present = self._overwrite_variables_directly_with_gradients(
                present_gradients, present
            )
            if present:
                present_gradients = self._sum_over_replicas(present_gradients, present)
                # 2. Scale the gradients, or sum them until an update is due.
                self._accumulate_or_update(present_gradients, present)
            # One op: Keras' own reads and assigns, and would lose steps of other threads.
            replica.add(self._iterations, 1)

    def _accumulate_or_update(self, gradients, variables):
        factor = self._current_value("loss_scale_factor")
        scale = 1.0 if factor is None else 1.0 / factor
        count = self.gradient_accumulation_steps
        if not count:
            self._update(gradients, variables, scale)
            return
        sums = [self.get_slot(v, "gradient_accumulator") for v in variables]

        def accumulate():
            self._run(programs.accumulate(), sums, gradients, scale, lazy=True)
            if self.sparse != "exact":
                self._note_rows(gradients, variables)

        def update():
            accumulate()
            means = self._accumulated(gradients, variables)
            self._update(means, variables, 1.0 / count)
            self._run(programs.reset(), sums, means, lazy=True)

        _cond(tf.equal((replica.read(self._iterations) + 1) % count, 0), update, accumulate)

    def _update(self, gradients, variables, scale):
        # 3. Clipping by norm is one more factor of the gradients.
        scale = self._clip_by_norms(gradients, variables, scale)
        # 4. All weights and slots at once.
        lazy = self.sparse != "exact"
        self._run(self._program(), variables, gradients, scale, self.learning_rate, lazy)
        # 5. Constraints and the average of the weights.
        for variable in variables:
            if variable.constraint is not None:
                replica.assign(variable, variable.constraint(variable))
        if self.use_ema:
            self._update_average(gradients, variables)

    def _run(
        self, program, variables, gradients, gradient_scale=1.0, learning_rate=0.0, lazy=False
    ):
        """Runs a program over variables and their slots, on the route that fits here."""
        on = self._targets.get(
            program,
            variables,
            lambda: targets.of(program, variables, self.get_slot, self.scalars),
        )
        chosen = route.of_step(program, on, gradients, lazy)
        compiled = route.compiles(on, chosen, gradients, lazy)
        if program is self._program():  # and not one of those around it
            self.__dict__["_route"] = f"{chosen}, compiled by XLA" if compiled else chosen
        # Each op that reads a number takes an eager step longer than the update of a small model.
        reader = on.device if on.packs_handles and chosen.startswith("native") else None
        scalars = self._scalars(program, variables, gradient_scale, learning_rate, reader)
        scalars.rounding = self._rounding(program, variables)
        if compiled:
            tensorflow_lowering.compiled_step(program, on, gradients, scalars)
            return
        if not chosen.startswith("native"):
            tensorflow_lowering.step(program, on, gradients, scalars, lazy)
            return
        if chosen.startswith(route.ON_GPUS):
            scalars.device = on.device or scalars.device
            if any(type(g) is tf.IndexedSlices for g in gradients):
                gradients = tensorflow_lowering.dense(gradients, on)
        for group in on.groups:
            own = [gradients[i] for i in group.members]
            with tf.device(group.device):
                native.step(program, group, own, scalars.subset(group.members), lazy)

    # --------------------------------------------------------------------------- parts of the step

    def _variables_for(self, gradients, variables):
        if variables is not None:
            return list(variables)
        if not self.built:
            raise ValueError(
                "`apply` without variables needs an optimizer that is built: call "
                "`build(variables)` first."
            )
        if len(gradients) != len(self._trainable_variables):
            raise ValueError(
                f"{len(gradients)} gradients were given, but {self.name!r} was built for "
                f"{len(self._trainable_variables)} variables."
            )
        return list(self._trainable_variables)

    def _check(self, gradients, variables):
        """Finds the gradients that are not None.

        Returns:
            The gradients, their variables, and those tensors of the gradients that are checked only
            when they are computed: nothing may change before that.
        """
        known = self._targets.find(self._program(), variables)
        if known and known.fit(gradients):
            return gradients, variables, []
        if len(gradients) != len(variables):
            raise ValueError(f"{len(gradients)} gradients for {len(variables)} variables.")
        if not known:
            self._check_variables(gradients, variables)
        gradients, variables = checks.present_gradients(gradients, variables)
        gradients = [checks.gradient(g, v) for g, v in zip(gradients, variables)]
        exact = self.sparse == "exact"
        prepared = [
            sparse.prepared(g, v, exact) if isinstance(g, tf.IndexedSlices) else _of_shape(g, v)
            for g, v in zip(gradients, variables)
        ]
        late = [getattr(p, "values", p) for p, g in zip(prepared, gradients) if p is not g]
        return prepared, variables, late

    def _check_variables(self, gradients, variables):
        checks.variables(variables, self._var_key)
        for gradient, variable in zip(gradients, variables):
            if gradient is not None:
                checks.trainable(variable)
        if not self.built:
            return
        unknown = [
            checks.name_of(v)
            for v in variables
            if self._var_key(v) not in self._trainable_variables_indices and checks.is_trainable(v)
        ]
        if unknown:
            raise ValueError(
                f"{self.name!r} was not built for the variables {unknown}. Create a new "
                "optimizer for another list of variables."
            )

    def _sum_over_replicas(self, gradients, variables):
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1 or call.argument(self, "summed"):
            return gradients
        dense = [g for g in gradients if not isinstance(g, tf.IndexedSlices)]
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, dense) if dense else ())
        return [
            sparse.summed_over_replicas(context, g, v, self.sparse == "exact")
            if isinstance(g, tf.IndexedSlices)
            else next(summed)
            for g, v in zip(gradients, variables)
        ]

    def _clip_by_norms(self, gradients, variables, scale):
        """The factor of each gradient, or of all, that scales and clips them."""
        limit, is_global = self._norm_limit()
        if limit is None:
            return scale
        return clipping.factors(gradients, variables, scale, limit, is_global)

    def _norm_limit(self):
        """What norms are clipped to, or None; and whether that is the one of all gradients."""
        is_global = self.global_clipnorm is not None
        limit = self._current_value("global_clipnorm" if is_global else "clipnorm")
        is_off = limit is None or not (tf.is_tensor(limit) or limit)
        return None if is_off else limit, is_global

    def _clipped(self, gradients, variables):
        limit, is_global = self._norm_limit()
        if limit is not None:
            return clipping.clipped(gradients, variables, limit, is_global)
        if self.clipvalue is None:
            return gradients
        bound = self._hyperparameter_values(["clipvalue"], variables)["clipvalue"]
        return [
            tf.clip_by_value(g, *(tf.cast(b, g.dtype) for b in (-bound, bound))) for g in gradients
        ]

    def _scalars(self, program, variables, gradient_scale, rate, reader):
        """The numbers of a step; those in variables on the device `reader` as their handles."""
        if isinstance(rate, (tf.keras.Variable, tf.Variable)):
            is_taken = rate.dtype in ("float32", "float64")
            rate = replica.readable_by_op(rate, reader if is_taken else None)
        if not isinstance(rate, tf.Tensor):
            rate = float(rate)
        elif rate.dtype not in (tf.float32, tf.float64, tf.resource):
            rate = tf.cast(rate, tf.float32)
        values = self._hyperparameter_values(program.hyperparameters, variables)
        return Scalars(self._finished_updates(reader), rate, gradient_scale, values)

    def _rounding(self, program, variables):
        """Keys of the stochastic rounding of new weights, or None."""
        if not self.stochastic_rounding or program is not self._program():
            return None
        position = self._trainable_variables_indices
        return [rounding.key(self.seed, position[self._var_key(v)]) for v in variables]

    def _finished_updates(self, reader=None):
        count = self.gradient_accumulation_steps
        if count:
            return replica.read(self._iterations) // count
        return replica.readable_by_op(self._iterations, reader)

    def _note_rows(self, gradients, variables):
        """Remembers which rows the accumulated gradients have."""
        for gradient, variable in zip(gradients, variables):
            rows = self.get_slot(variable, "accumulated_rows")
            if isinstance(gradient, tf.IndexedSlices):
                sparse.set_flags(rows, gradient)
            else:
                replica.assign(rows, tf.ones(rows.shape))

    def _accumulated(self, gradients, variables):
        """The sums of the gradients; by rows for variables whose gradient is, and may be so."""
        found = []
        for gradient, variable in zip(gradients, variables):
            sums = self.get_slot(variable, "gradient_accumulator")
            if self.sparse == "exact" or not isinstance(gradient, tf.IndexedSlices):
                found.append(replica.read(sums))
            else:
                rows = self.get_slot(variable, "accumulated_rows")
                found.append(sparse.flagged(rows, sums))
                replica.assign(rows, tf.zeros(rows.shape))
        return found

    def _update_average(self, gradients, variables):
        pairs = [
            (average, variable)
            for average, variable in zip(
                self._model_variables_moving_average, self._trainable_variables
            )
            if average is not None
        ]
        averages = [average for average, _ in pairs]
        given = {self._var_key(v): g for g, v in zip(gradients, variables)}
        gradients = [given.get(self._var_key(v)) for _, v in pairs]

        def of_all():
            self._run(programs.average(), averages, [replica.read(v) for _, v in pairs])

        def of_rows():
            values = [
                sparse.rows_of(v, g) if isinstance(g, tf.IndexedSlices) else replica.read(v)
                for g, (_, v) in zip(gradients, pairs)
            ]
            self._run(programs.average(), averages, values, lazy=True)

        if self.sparse == "lazy" and any(isinstance(g, tf.IndexedSlices) for g in gradients):
            _cond(tf.equal(self._finished_updates(), 0), of_all, of_rows)
        else:
            of_all()
        frequency = self.ema_overwrite_frequency
        if frequency:
            _cond(
                tf.equal((self.iterations + 1) % frequency, 0),
                lambda: [replica.assign(v, replica.read(average)) for average, v in pairs],
                lambda: None,
            )

    @without_autograph
    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; what `apply_gradients` does for all of them, without its frame."""
        graphs.check_runs_now("`update_step`", "a `tf.function` that calls it and returns a tensor")
        gradients, variables, checked_late = self._check([gradient], [variable])
        with graphs.named(self.name, checked_late):
            self._run(self._program(), variables, gradients, 1.0, learning_rate)

    # ------------------------------------------------------------------------------ configuration

    @property
    def route(self):
        """How the latest step ran, or was traced, and why: for example "native (avx2)"."""
        return self._route or "none: no step was run or traced yet"


def _of_shape(gradient, variable):
    known = gradient.shape.is_fully_defined()
    return gradient if known else tf.ensure_shape(gradient, variable.shape)


def _cond(condition, then, otherwise):
    """`tf.cond` for branches without results; a plain branch when executing eagerly."""
    if tf.executing_eagerly():
        (then if condition else otherwise)()
    else:
        tf.cond(condition, lambda: (then(), 0)[1], lambda: (otherwise(), 0)[1])
