"""Sophia."""

import functools

import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.base.step import without_autograph
from tf_optim_ext.engine import graphs
from tf_optim_ext.rule import clip, lerp, maximum, trace


def _average_hessian(w, g, s, h):
    """The average `w` of estimates `g`."""
    return lerp(g * h.gradient_scale, w, h.beta_2)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Sophia(Optimizer):
    r"""Sophia: momentum over an average of the Hessian's diagonal, clipped element by element.

    For language models. Every ten steps or so it needs an estimate of the diagonal of the Hessian,
    which costs about one more gradient: see `update_hessian`.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        h_t &= \beta_2 h_{t-k} + (1 - \beta_2) \hat h_t \quad\text{whenever there is an estimate} \\
        w_t &= w_{t-1} - \gamma \lambda w_{t-1}
               - \gamma \operatorname{clip}\left(\frac{m_t}{\max(\rho h_t, \epsilon)}, 1\right)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near what is good for
            `Lion`, or a fifth of what is good for `AdamW`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        rho: float > 0, :math:`\rho`, the paper's gamma. Choose it such that 10 % to 50 % of the
            updates are not clipped.
        epsilon: float > 0, :math:`\epsilon`.
        weight_decay: float, :math:`\lambda`.
        **kwargs: see `Optimizer`.

    Without any estimate, every update is clipped, and the method is `Signum` with decay.

    Reference:
        Liu et al., *Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
        Pre-training*, arXiv:2305.14342, Algorithm 3.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Sophia(0.1, rho=1.0, beta_2=0.5, weight_decay=None)
        >>> w = tf.Variable(1.0)
        >>> optimizer.build([w])
        >>> optimizer.update_hessian([tf.constant(4.0)])
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9965
    """

    state = [Slot("momentum"), Slot("hessian")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("rho", "(0, inf)"),
        Hyperparameter("epsilon", "(0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=1e-4,
        beta_1=0.965,
        beta_2=0.99,
        rho=0.04,
        epsilon=1e-12,
        weight_decay=0.1,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            rho=rho,
            epsilon=epsilon,
            weight_decay=weight_decay,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        ratio = s.momentum / maximum(h.rho * s.hessian, h.epsilon)
        return w - h.learning_rate * clip(ratio, -1.0, 1.0)

    @without_autograph
    def update_hessian(self, estimates, variables=None, scale=1.0):
        """Adds an estimate of the Hessian's diagonal to its average.

        Two estimates of the paper, for a batch of size `n` and logits:

        Gauss-Newton-Bartlett (Sophia-G): draw labels from the model's own predictions and compute
        the gradients of the mean loss for these; the estimate is `n` times their squares::

            with tf.GradientTape() as tape:
                logits = model(x)
                labels = tf.random.categorical(tf.stop_gradient(logits), 1)[:, 0]
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.update_hessian([g * g for g in gradients], scale=n)

        Hutchinson (Sophia-H): for a normally distributed vector `u`, the estimate is `u` times the
        product of the Hessian with `u`.

        Under a distribution strategy, the mean of the replicas' estimates counts.

        Args:
            estimates: list of tensors, or None where there is no estimate.
            variables: list of as many variables. Default: those of `build`.
            scale: number the estimates are multiplied with.

        Raises:
            TypeError, ValueError: what was given does not fit; nothing was changed then.
        """
        graphs.check_runs_now(
            "`update_hessian`", "a `tf.function` that calls it and returns a tensor"
        )
        estimates = list(estimates)
        variables = self._variables_for(estimates, variables)
        estimates, present, late = self._check(estimates, variables)
        scale = checks.number(type(self).__name__, "scale", scale, "[0, inf)")
        with tf.control_dependencies(late):
            self.build(variables)
            scale = scale / tf.distribute.get_replica_context().num_replicas_in_sync
            estimates = self._sum_over_replicas(estimates, present)
            averages = [self.get_slot(v, "hessian") for v in present]
            self._run(self.extra_programs()["hessian"], averages, estimates, scale)

    @classmethod
    @functools.cache
    def extra_programs(cls):
        return {"hessian": trace(_average_hessian, hyperparameters=("beta_2",))}
