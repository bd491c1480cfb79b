"""Sharpness-aware minimization: SAM, ASAM, GSAM."""

import re

import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.engine import hyperparameters, perturbation, sparse
from tf_optim_ext.rule import auxiliary
from tf_optim_ext.wrappers.sharpness import SharpnessAware

BIASES = (r"(^|/)(bias|beta)(:\d+)?$",)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class SAM(SharpnessAware):
    r"""Sharpness-aware minimization, around any optimizer.

    Looks for weights in whose neighbourhood the loss is low as well, which often generalise better.
    Each step takes two forward and backward passes: one for the gradient at the weights, one for
    that at the worst weights near them, with which the inner optimizer goes on from the weights:

        e = rho * g / ||g||,   g' = gradient of the loss at w + e

    The norm is that of all gradients together. Where it is zero, nothing is moved.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    2020 (arXiv:2010.01412). Departures: none.

    Under a distribution strategy, every replica moves its weights along its own gradient, and the
    gradients at these points are summed ("m-sharpness"), as in the paper.

    Both passes draw the same random numbers, such as dropout's masks, where the generators are
    variables of the model: those of Keras 3 are. The second one changes no variable of the model.

    Args:
        inner_optimizer: the optimizer that takes the step, one of this package or of Keras; or its
            name. Its learning rate, state and options, such as weight decay and clipping, act as
            they do without SAM.
        rho: how far the weights are moved: number >= 0, schedule, callable or scalar variable.
        name: name of the optimizer.

    Raises:
        TypeError: `inner_optimizer` is no optimizer of this generation of Keras.
        ValueError: `rho` is out of its range, or `inner_optimizer` is a SAM itself.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> weights = tf.Variable([3.0, 4.0])
        >>> optimizer = tf_optim_ext.SAM(tf_optim_ext.SGD(0.1), rho=5.0)
        >>> loss = optimizer.step(lambda: tf.reduce_sum(weights**2) / 2, [weights])
        >>> print(loss.numpy(), weights.numpy())  # the gradient was that at (6, 8)
        12.5 [2.4 3.2]
    """

    def __init__(self, inner_optimizer, rho=0.05, name=None):
        super().__init__(inner_optimizer, rho, name or "sam")

    def _perturb(self, variables, gradients):
        scale = perturbation.per_norm(self._length(), perturbation.norm(gradients, variables))
        self._move(auxiliary.accumulate(), variables, gradients, scale)

    def _length(self):
        """How far the weights are moved in this step."""
        return hyperparameters.as_tensor(self._value("rho"), tf.float64)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ASAM(SharpnessAware):
    r"""Adaptive sharpness-aware minimization, around any optimizer.

    `SAM` in a neighbourhood that is as wide for each weight as the weight is large, so that it does
    not depend on how layers are scaled against each other:

        T = |w| + eta,   e = rho * T^2 g / ||T g||,   g' = gradient of the loss at w + e

    T is 1 for biases: variables that `non_adaptive` names.

    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning
    of Deep Neural Networks", 2021 (arXiv:2102.11600), with T for each element. Departures: none.

    Everything else is as with `SAM`.

    Args:
        inner_optimizer: see `SAM`.
        rho: number >= 0, schedule, callable or scalar variable; needs to be about ten times that of
            `SAM`.
        eta: what is added to the magnitude of weights, likewise.
        non_adaptive: list of regular expressions; T is 1 for a variable if one of them occurs in
            its path (Keras 3) or name. Default: biases, and `beta` of normalization layers.
        name: name of the optimizer.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> weights = tf.Variable([2.0, 1.0])
        >>> optimizer = tf_optim_ext.ASAM(tf_optim_ext.SGD(0.5), rho=1.0, eta=0.0)
        >>> loss = optimizer.step(lambda: tf.reduce_sum(weights * [3.0, 8.0]), [weights])
        >>> print(loss.numpy(), weights.numpy())
        14.0 [ 0.5 -3. ]
    """

    ranges = {**SharpnessAware.ranges, "eta": "[0, inf)"}

    def __init__(self, inner_optimizer, rho=0.5, eta=0.01, non_adaptive=BIASES, name=None):
        if isinstance(non_adaptive, str):
            non_adaptive = [non_adaptive]
        for pattern in non_adaptive:
            re.compile(pattern)
        super().__init__(inner_optimizer, rho, name or "asam", eta=eta)
        self.non_adaptive = tuple(non_adaptive)

    def _perturb(self, variables, gradients):
        eta = hyperparameters.as_tensor(self._value("eta"), tf.float64)
        adaptive = [self._is_adaptive(v) for v in variables]
        pairs = [
            pair for pair, is_adaptive in zip(zip(variables, gradients), adaptive) if is_adaptive
        ]
        some, of_some = [v for v, _ in pairs], [g for _, g in pairs]
        scaled = iter(perturbation.times(perturbation.magnitudes(some, of_some, eta), of_some))
        gradients = [next(scaled) if a else g for a, g in zip(adaptive, gradients)]
        rho = hyperparameters.as_tensor(self._value("rho"), tf.float64)
        scale = perturbation.per_norm(rho, perturbation.norm(gradients, variables))
        flags = [float(a) for a in adaptive]
        program = auxiliary.perturb_adaptively()
        self._move(program, variables, gradients, scale, adaptive=flags, eta=eta)

    def _is_adaptive(self, variable):
        names = (checks.name_of(variable), variable.name)
        return not any(re.search(p, name) for p in self.non_adaptive for name in names)

    def _arguments(self):
        return {**super()._arguments(), "non_adaptive": list(self.non_adaptive)}


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class GSAM(SAM):
    r"""Surrogate gap guided sharpness-aware minimization, around any optimizer.

    `SAM`, which lowers the loss at the worst weights nearby, g'; and lowers also the gap between
    that and the loss at the weights. To that end it goes against the part of the gradient g at the
    weights that is orthogonal to g', which does not change the former to first order:

        g' - alpha * (g - <g, g'> / ||g'||^2 * g')

    `rho` may follow the learning rate, as the paper proposes:

        rho_t = rho_min + (rho - rho_min) * (lr_t - lr_min) / (lr_max - lr_min)

    Source: Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", 2022
    (arXiv:2203.08065). Departures: a learning rate below `learning_rate_min`, as at the start of a
    warm-up, leaves rho at `rho_min`, where the formula may give a negative one; and one above
    `learning_rate_max` leaves it at `rho`.

    Everything else is as with `SAM`; under a strategy, every replica decomposes its own gradient.

    Args:
        inner_optimizer: see `SAM`.
        rho: see `SAM`; the paper's rho_max.
        alpha: weight of the gap: number >= 0, schedule, callable or scalar variable; 0: `SAM`.
        rho_min: if set, rho follows the learning rate, down to this; needs `learning_rate_max`.
        learning_rate_max: the learning rate for which rho is `rho`; usually that at its peak.
        learning_rate_min: the learning rate for which rho is `rho_min`.
        name: name of the optimizer.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> weights = tf.Variable([1.0, 1.0])
        >>> optimizer = tf_optim_ext.GSAM(tf_optim_ext.SGD(0.1), rho=1.0, alpha=0.5)
        >>> loss = optimizer.step(lambda: tf.reduce_sum(weights**4 * [1.0, 0.0]), [weights])
        >>> print(loss.numpy(), weights.numpy())
        1.0 [-2.2  1. ]
    """

    ranges = {
        **SAM.ranges,
        "alpha": "[0, inf)",
        "rho_min": "[0, inf)",
        "learning_rate_max": "(0, inf)",
        "learning_rate_min": "[0, inf)",
    }
    optional = ("rho_min", "learning_rate_max")

    def __init__(
        self,
        inner_optimizer,
        rho=0.05,
        alpha=0.4,
        rho_min=None,
        learning_rate_max=None,
        learning_rate_min=0.0,
        name=None,
    ):
        SharpnessAware.__init__(
            self,
            inner_optimizer,
            rho,
            name or "gsam",
            alpha=alpha,
            rho_min=rho_min,
            learning_rate_max=learning_rate_max,
            learning_rate_min=learning_rate_min,
        )

    def _check_together(self):
        highest, lowest = self.learning_rate_max, self.learning_rate_min
        if self.rho_min is not None and highest is None:
            raise ValueError(
                "GSAM: `rho_min` is for a rho that follows the learning rate, which needs "
                "`learning_rate_max`, the learning rate at its peak. Received: "
                f"rho_min={self.rho_min!r}, learning_rate_max=None"
            )
        are_numbers = all(map(hyperparameters.is_number, (highest, lowest)))
        if are_numbers and lowest >= highest:
            raise ValueError(
                "GSAM: `learning_rate_min` must be less than `learning_rate_max`. Received: "
                f"learning_rate_min={lowest!r}, learning_rate_max={highest!r}"
            )

    def _length(self):
        if self.rho_min is None:
            return super()._length()
        rate = hyperparameters.current(self.learning_rate, self.iterations)
        rho, least, lowest, highest = (
            hyperparameters.as_tensor(self._value(name), tf.float64)
            for name in ("rho", "rho_min", "learning_rate_min", "learning_rate_max")
        )
        part = (hyperparameters.as_tensor(rate, tf.float64) - lowest) / (highest - lowest)
        return least + (rho - least) * tf.clip_by_value(part, 0.0, 1.0)

    def _directions(self, first, second, variables):
        there = [i for i, pair in enumerate(zip(first, second)) if not any(g is None for g in pair)]
        some = [variables[i] for i in there]
        before = [first[i] for i in there]
        after = sparse.all_prepared([second[i] for i in there], some, increasing=False)
        alpha = hyperparameters.as_tensor(self._value("alpha"), tf.float64)
        directions = perturbation.without_orthogonal_part(before, after, some, alpha)
        found = dict(zip(there, directions))
        return [found.get(i, gradient) for i, gradient in enumerate(second)]
