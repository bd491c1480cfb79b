"""The step, from top to bottom. Read this file first."""

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.backends import replica, rounding
from tf_optim_ext.backends.beside import NOTHING, Beside
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.base.values import Values
from tf_optim_ext.engine import (
    accumulation,
    averaging,
    call,
    clipping,
    execution,
    gradient_transforms,
    graphs,
    nonfinite,
    replicas,
    sparse,
)
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.engine.route import NO_STEP, choose
from tf_optim_ext.engine.targets import TargetsCache, make_targets

# AutoGraph would rewrite the whole package when a step is traced, which takes longer than tracing.
without_autograph = tf.autograph.experimental.do_not_convert


class Step(Values):
    """Base of `Optimizer`: what happens to gradients and weights."""

    def __init__(self, learning_rate=0.001, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self._untracked.route = NO_STEP
        self._untracked.targets = TargetsCache()

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
            session, an operation: running it takes the step.

        Raises:
            TypeError, ValueError: the arguments do not fit; nothing has changed then.
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
        # 1. Find whatever is wrong before anything changes.
        gradients = list(grads)
        if not gradients and not trainable_variables:
            return
        graphs.check_runs_now("`apply`", "what `apply_gradients` returns")
        variables = self._variables_for(gradients, trainable_variables)
        gradients, present, checked_late = self._check(gradients, variables)
        with DeferredInterrupts(), graphs.named(self.name, checked_late):
            self.build(variables)
            gradients, present = self._overwrite(*self._without_frozen(gradients, present))
            if present:
                gradients = self._sum_over_replicas(gradients, present)
                if self.skip_nonfinite:
                    nonfinite.step_if_finite(self, gradients, present)
                    return
                # 2. Scale the gradients, or sum them until an update is due.
                self._accumulate_or_update(gradients, present)
            # One op: Keras' own reads and assigns, and would lose steps of other threads.
            replica.add(self._counter, 1)

    def _accumulate_or_update(self, gradients, variables):
        factor = self._current_value("loss_scale_factor")
        scale = 1.0 if factor is None else 1.0 / factor
        if self.gradient_accumulation_steps:
            accumulation.step(self, gradients, variables, scale)
        else:
            self._update(gradients, variables, scale)

    def _update(self, gradients, variables, scale, sums=None, were_rows=None):
        if self._transforms_gradients:
            gradients = self._transformed(gradients, variables, scale, were_rows)
            scale = 1.0
        # 3. Clipping by norm is one more factor of the gradients.
        limit, of_all = self._norm_limit()
        if limit is not None:
            # Not kept in a variable: the step would copy sums that somebody else holds.
            scale = clipping.factors(
                sums.completed() if sums else gradients,
                variables,
                scale,
                limit,
                of_all,
                call.argument(self, "squared_norms"),
            )
        # 4. All weights and slots at once, with the sums before and the averages after them.
        beside = self._beside(gradients, variables, sums, limit is None)
        lazy = self.sparse != "exact"
        rate = self._rates(variables)
        self._run(self._program(), variables, gradients, scale, rate, lazy, beside)
        # 5. Constraints, and the averages that the step left out.
        for variable in variables:
            if variable.constraint is not None:
                replica.assign(variable, variable.constraint(variable))
        if self.use_ema:
            averaging.update(self, gradients, variables, beside.momentum is not None)

    def _run(
        self,
        program,
        variables,
        gradients,
        gradient_scale=1.0,
        learning_rate=0.0,
        lazy=False,
        beside=NOTHING,
    ):
        """Runs a program over variables and their slots, on the backend that fits here."""
        targets = self._untracked.targets.get(
            program,
            variables,
            beside,
            lambda: make_targets(program, variables, self.get_slot, self.scalars, beside),
        )
        route = choose(program, targets, gradients, lazy)
        # Each op that reads a scalar costs an eager step more than the update of a small model.
        reader = targets.device if targets.packs_handles and route.is_native else None
        if beside is not NOTHING and not route.is_fused:
            reader = None  # other programs may take other routes
        scalars = self._scalars(program, variables, gradient_scale, learning_rate, reader)
        if program is self._program():  # and not one of those around it
            self._untracked.route = route
            scalars.rounding = self._rounding_keys(variables)
        execution.run(program, targets, gradients, scalars, route, lazy, beside)

    # --------------------------------------------------------------------------- parts of the step

    def _variables_for(self, gradients, variables):
        if variables is not None:
            return list(variables)
        if not self.built:
            raise ValueError(
                "`apply` without variables needs an optimizer that is built: call "
                "`build(variables)` first."
            )
        if len(gradients) != len(self._optimized):
            raise ValueError(
                f"{len(gradients)} gradients were given, but {self.name!r} was built for "
                f"{len(self._optimized)} variables."
            )
        return list(self._optimized)

    def _check(self, gradients, variables):
        """Finds the gradients that are not None.

        Returns:
            The gradients, their variables, and those tensors of the gradients that are checked only
            when they are computed: nothing may change before that.
        """
        replicas.check_inside(self)
        seen = self._untracked.targets.find(self._program(), variables)
        if seen and seen.fit(gradients):
            return gradients, variables, []
        if len(gradients) != len(variables):
            raise ValueError(f"{len(gradients)} gradients for {len(variables)} variables.")
        if not seen:
            self._check_variables(gradients, variables)
        gradients, variables = checks.present_gradients(gradients, variables)
        gradients = [checks.gradient(g, v) for g, v in zip(gradients, variables)]
        prepared = sparse.all_prepared(gradients, variables, self.sparse == "exact")
        late = [getattr(p, "values", p) for p, g in zip(prepared, gradients) if p is not g]
        return prepared, variables, late

    def _check_variables(self, gradients, variables):
        checks.variables(variables, self._key_of)
        for gradient, variable in zip(gradients, variables):
            if gradient is not None:
                checks.trainable(variable)
        if not self.built:
            return
        unknown = [
            checks.name_of(v)
            for v in variables
            if self._key_of(v) not in self._positions and checks.is_trainable(v)
        ]
        if unknown:
            raise ValueError(
                f"{self.name!r} was not built for the variables {unknown}. Create a new "
                "optimizer for another list of variables."
            )

    def _without_frozen(self, gradients, variables):
        if not self._untracked.groups:
            return gradients, variables
        pairs = [(g, v) for g, v in zip(gradients, variables) if not self._is_frozen(v)]
        return [g for g, _ in pairs], [v for _, v in pairs]

    def _sum_over_replicas(self, gradients, variables):
        if call.argument(self, "summed"):
            return gradients
        return replicas.summed(gradients, variables, self.sparse == "exact")

    def _beside(self, gradients, variables, sums, adds):
        """What a step does in passing; `adds`: whether the sums lack the gradients as yet."""
        momentum = averaging.momentum_in_step(self, gradients, variables)
        if sums is None and momentum is None:
            return NOTHING
        return Beside(sums is not None, sums.scale if sums and adds else None, momentum)

    @property
    def _changes_gradients(self):
        """Whether a step computes with whole gradients before the rule runs."""
        return self._transforms_gradients

    @property
    def _transforms_gradients(self):
        """Whether gradients are centralized, or clipped adaptively."""
        name = "adaptive_clipping"
        is_clipped = self.adaptive_clipping is not None or name in self._untracked.groups.overridden
        return self.centralize_gradients or is_clipped

    def _transformed(self, gradients, variables, scale=1.0, were_rows=None):
        name = "adaptive_clipping"
        limits = self._hyperparameter_values([name], variables)[name]
        limits = limits if isinstance(limits, list) else [limits] * len(variables)
        return gradient_transforms.transformed(
            gradients, variables, scale, self.centralize_gradients, limits, were_rows
        )

    def _norm_limit(self):
        """The limit of clipping by norm, or None; and whether it limits the global norm."""
        of_all = self.global_clipnorm is not None
        limit = self._current_value("global_clipnorm" if of_all else "clipnorm")
        is_off = limit is None or not (tf.is_tensor(limit) or limit)
        return None if is_off else limit, of_all

    def _clipped(self, gradients, variables):
        if self._transforms_gradients:
            dtypes = [g.dtype for g in gradients]
            prepared = sparse.all_prepared(gradients, variables, True)
            gradients = self._transformed(prepared, variables)
            gradients = sparse.all_dense(gradients, variables)
            gradients = [tf.cast(g, dtype) for g, dtype in zip(gradients, dtypes)]
        limit, of_all = self._norm_limit()
        clips_values = (
            self.clipvalue is not None or "clipvalue" in self._untracked.groups.overridden
        )
        if limit is not None or clips_values:
            # Dense, since repeated indices must be summed before they are clipped.
            gradients = [tf.convert_to_tensor(g) for g in gradients]
        if limit is not None:
            return clipping.clipped(gradients, variables, limit, of_all)
        if not clips_values:
            return gradients
        bounds = self._hyperparameter_values(["clipvalue"], variables)["clipvalue"]
        bounds = bounds if isinstance(bounds, list) else [bounds] * len(gradients)
        return [
            tf.clip_by_value(g, *(tf.cast(x, g.dtype) for x in (-bound, bound)))
            for g, bound in zip(gradients, bounds)
        ]

    def _scalars(self, program, variables, gradient_scale, rate, reader):
        """The scalars of a step; those in variables on the device `reader` as their handles."""
        if isinstance(rate, list):
            values = self._hyperparameter_values(program.hyperparameters, variables)
            return Scalars(self._update_count(reader), rate, gradient_scale, values)
        if isinstance(rate, _keras.VARIABLES):
            is_taken = rate.dtype in ("float32", "float64")
            rate = replica.readable_by_op(rate, reader if is_taken else None)
        if not isinstance(rate, tf.Tensor):
            rate = float(rate)
        elif rate.dtype not in (tf.float32, tf.float64, tf.resource):
            rate = tf.cast(rate, tf.float32)
        values = self._hyperparameter_values(program.hyperparameters, variables)
        return Scalars(self._update_count(reader), rate, gradient_scale, values)

    def _rounding_keys(self, variables):
        """Keys of the stochastic rounding of new weights, or None."""
        if not self.stochastic_rounding:
            return None
        return [rounding.key(self.seed, self._positions[self._key_of(v)]) for v in variables]

    def _update_count(self, reader=None):
        """The number of updates before this step."""
        count = self.gradient_accumulation_steps
        if count:
            return replica.read(self._counter) // count
        return replica.readable_by_op(self._counter, reader)

    @without_autograph
    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable with the rule alone: no accumulation, norms, averages or count.

        Nor is the gradient centralized or clipped adaptively, and none is skipped.
        """
        graphs.check_runs_now("`update_step`", "a `tf.function` that calls it and returns a tensor")
        gradients, variables, checked_late = self._check([gradient], [variable])
        with graphs.named(self.name, checked_late):
            self._run(self._program(), variables, gradients, 1.0, learning_rate)

    @property
    def route(self):
        """Which backend ran, or is traced for, the latest step, and why: a `Route`."""
        return self._untracked.route

    # Provided by `Optimizer`.

    def _program(self):
        """The traced rule, for the options of this optimizer."""
        raise NotImplementedError
