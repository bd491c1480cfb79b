"""The one-cycle policy."""

import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.schedules.schedule import Schedule, between, cosine, linear, remaining

STRATEGIES = {"cos": cosine, "linear": linear}


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class OneCycle(Schedule):
    r"""The one-cycle policy: up to a high learning rate, and down to almost nothing.

    Arguments, defaults and numbers of PyTorch's `OneCycleLR`, but for the names of the first two.
    The value begins at `peak_learning_rate / div_factor`, reaches its peak at step
    `pct_start * total_steps - 1` and ends, at step `total_steps - 1`, at
    `peak_learning_rate / div_factor / final_div_factor`. With `three_phase=True`, which is the
    paper's cycle, it takes as long down to where it began as up, and goes from there to the end.

    The momentum is to move the other way: see `momentum`.

    Args:
        peak_learning_rate: number >= 0, the highest value. `find_learning_rate` suggests one.
        total_steps: integer >= 2, the number of all updates.
        pct_start: number in [0, 1], the part of the steps in which the value rises; up to 0.5 with
            `three_phase`. A phase that has no steps is left out.
        anneal_strategy: "cos" or "linear", the shape of all phases.
        div_factor: number > 0, by which the first value is below the peak.
        final_div_factor: number > 0, by which the last value is below the first.
        three_phase: whether to come back to the first value before the descent to the last.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Smith and Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large
        Learning Rates*, arXiv:1708.07120. With two phases, of cosines: Howard and Gugger, *fastai:
        A Layered API for Deep Learning*, arXiv:2002.04688.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.OneCycle(
        ...     1.0, 7, pct_start=3 / 7, anneal_strategy="linear", div_factor=4.0
        ... )
        >>> [round(float(schedule(step)), 3) for step in range(8)]
        [0.25, 0.625, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(
        self,
        peak_learning_rate,
        total_steps,
        pct_start=0.3,
        anneal_strategy="cos",
        div_factor=25.0,
        final_div_factor=1e4,
        three_phase=False,
        name=None,
    ):
        super().__init__(name)
        owner = type(self).__name__
        self.peak_learning_rate = self._number("peak_learning_rate", peak_learning_rate)
        self.total_steps = checks.whole_number(owner, "total_steps", total_steps, 2)
        self.three_phase = checks.boolean(owner, "three_phase", three_phase)
        interval = "[0, 0.5]" if three_phase else "[0, 1]"
        self.pct_start = self._number("pct_start", pct_start, interval)
        self.anneal_strategy = self._choice("anneal_strategy", anneal_strategy, tuple(STRATEGIES))
        self.div_factor = self._number("div_factor", div_factor, "(0, inf)")
        self.final_div_factor = self._number("final_div_factor", final_div_factor, "(0, inf)")

    def momentum(self, base_momentum=0.85, max_momentum=0.95):
        """The schedule of the momentum that belongs to this one of the learning rate.

        It falls from `max_momentum` to `base_momentum` while the learning rate rises, returns while
        that comes back, and stays there. For optimizers of this package, all of whose
        hyperparameters may be schedules: `SGD(rate, momentum=rate.momentum())`,
        `AdamW(rate, beta_1=rate.momentum())`.

        Args:
            base_momentum: number > 0, at the peak of the learning rate.
            max_momentum: number > 0, at its first and last value.

        Returns:
            A schedule of the same class.
        """
        base = self._number("base_momentum", base_momentum, "(0, inf)")
        config = {**self.get_config(), "peak_learning_rate": base, "final_div_factor": 1.0}
        config["div_factor"] = base / self._number("max_momentum", max_momentum, "(0, inf)")
        return self.from_config(config)

    def compute(self, step):
        first = self.peak_learning_rate / self.div_factor
        end = self.total_steps - 1
        # Each phase: where it ends, and the value there.
        phases = [(self.pct_start * self.total_steps - 1, self.peak_learning_rate)]
        if self.three_phase:
            phases.append((2 * self.pct_start * self.total_steps - 2, first))
        phases.append((end, first / self.final_div_factor))

        shape = STRATEGIES[self.anneal_strategy]
        start, before, value = 0, first, None
        for until, after in phases:
            if until > start:  # else the phase has no step
                in_phase = between(after, before, shape(remaining(step, start, until)))
                begun = tf.cast(step, tf.float64) > start
                value = in_phase if value is None else tf.where(begun, in_phase, value)
                start = until
            before = after
        return value
