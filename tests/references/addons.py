"""Optimizers that TensorFlow Addons had, and those of layer-wise rates and signs."""

import numpy as np

from references.common import copies


def _rectification(beta_2, t):
    """rho_t of `rectifiedadam`, and a function that returns r_t, which exists where rho_t > 4."""
    rho_inf = 2 / (1 - beta_2) - 1
    rho_t = rho_inf - 2 * t * beta_2**t / (1 - beta_2**t)

    def r_t():
        return np.sqrt(
            ((rho_t - 4) * (rho_t - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho_t)
        )

    return rho_t, r_t


def _warmed_up(learning_rate, t, total_steps, warmup_proportion, min_lr):
    """alpha_t of `rectifiedadam`: a line up to `learning_rate`, then one down to `min_lr`."""
    if total_steps == 0:
        return learning_rate
    warmup_steps = total_steps * warmup_proportion
    if t <= warmup_steps:
        return learning_rate * t / warmup_steps
    decay_steps = max(total_steps - warmup_steps, 1)
    passed = min(t - warmup_steps, decay_steps)
    return learning_rate + (min_lr - learning_rate) * passed / decay_steps


def _proximal(x, eta, lambda_1, lambda_2):
    """argmin_z of (z - x)^2 / (2 eta) + lambda_1 |z| + lambda_2 z^2 / 2."""
    return np.sign(x) * np.maximum(np.abs(x) - eta * lambda_1, 0) / (1 + eta * lambda_2)


def _norm(x):
    return np.sqrt(np.sum(x**2))


def adabelief(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    rectify=True,
    amsgrad=False,
    sma_threshold=5.0,
    total_steps=0,
    warmup_proportion=0.1,
    min_lr=0.0,
    weight_decay=None,
):
    """AdaBelief.

    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients"
    (arXiv 2010.07468), Algorithm 2:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        s_t = beta_2 s_{t-1} + (1 - beta_2) (g_t - m_t)^2 + epsilon
        hat m_t = m_t / (1 - beta_1^t)
        hat s_t = s_t / (1 - beta_2^t)
        theta_t = theta_{t-1} - alpha hat m_t / (sqrt(hat s_t) + epsilon)

    Here s is the slot `velocity`. With `rectify`, which the authors' code has, the last line is
    that of `rectifiedadam`, that is, with the factor r_t or without the denominator.

    Departures:
    *   With `amsgrad`, hat s_t is computed from the maximum of all s_t so far, before bias
        correction.
    *   alpha is the warmed-up rate of `rectifiedadam`, and the decay is multiplied by it.
    """
    theta = np.array(theta, np.float64)
    lamda = weight_decay or 0.0
    m = np.zeros_like(theta)
    s = np.zeros_like(theta)
    s_max = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        alpha = _warmed_up(learning_rate, t, total_steps, warmup_proportion, min_lr)
        theta = theta - alpha * lamda * theta
        m = beta_1 * m + (1 - beta_1) * g
        s = beta_2 * s + (1 - beta_2) * (g - m) ** 2 + epsilon
        s_max = np.maximum(s_max, s)
        m_hat = m / (1 - beta_1**t)
        s_hat = (s_max if amsgrad else s) / (1 - beta_2**t)
        rho_t, r_t = _rectification(beta_2, t)
        if not rectify:
            theta = theta - alpha * m_hat / (np.sqrt(s_hat) + epsilon)
        elif rho_t >= sma_threshold:
            theta = theta - alpha * r_t() * m_hat / (np.sqrt(s_hat) + epsilon)
        else:
            theta = theta - alpha * m_hat
        slots = {"velocity_hat": s_max} if amsgrad else {}
        yield copies(theta, momentum=m, velocity=s, **slots)


def rectifiedadam(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    amsgrad=False,
    sma_threshold=5.0,
    total_steps=0,
    warmup_proportion=0.1,
    min_lr=0.0,
    weight_decay=None,
):
    """Rectified Adam.

    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (arXiv 1908.03265),
    Algorithm 2:

        rho_inf = 2 / (1 - beta_2) - 1
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        hat m_t = m_t / (1 - beta_1^t)
        rho_t = rho_inf - 2 t beta_2^t / (1 - beta_2^t)
        if rho_t > 4:
            l_t = sqrt((1 - beta_2^t) / v_t)
            r_t = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
            theta_t = theta_{t-1} - alpha_t r_t hat m_t l_t
        else:
            theta_t = theta_{t-1} - alpha_t hat m_t

    Departures:
    *   The condition is rho_t >= `sma_threshold`, 5 in the authors' code.
    *   `epsilon` is added to 1 / l_t.
    *   With `amsgrad`, l_t is computed from the maximum of all v_t so far, before bias correction.
    *   alpha_t is `learning_rate` or, with `total_steps`, goes up to that during the first
        `warmup_proportion` of them and then down to `min_lr`. The decay is multiplied by it.
    """
    theta = np.array(theta, np.float64)
    lamda = weight_decay or 0.0
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    v_max = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        alpha = _warmed_up(learning_rate, t, total_steps, warmup_proportion, min_lr)
        theta = theta - alpha * lamda * theta
        v = beta_2 * v + (1 - beta_2) * g**2
        v_max = np.maximum(v_max, v)
        m = beta_1 * m + (1 - beta_1) * g
        m_hat = m / (1 - beta_1**t)
        rho_t, r_t = _rectification(beta_2, t)
        if rho_t >= sma_threshold:
            l_inverse = np.sqrt((v_max if amsgrad else v) / (1 - beta_2**t))
            theta = theta - alpha * r_t() * m_hat / (l_inverse + epsilon)
        else:
            theta = theta - alpha * m_hat
        slots = {"velocity_hat": v_max} if amsgrad else {}
        yield copies(theta, momentum=m, velocity=v, **slots)


def sgdw(theta, gradients, *, learning_rate, momentum=0.0, nesterov=False, weight_decay=None):
    """SGDW.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), Algorithm 1:

        m_t = beta_1 m_{t-1} + eta_t alpha g_t
        theta_t = theta_{t-1} - m_t - eta_t lambda theta_{t-1}

    Here beta_1 is `momentum`, alpha is `learning_rate` and lambda is `weight_decay`. As in the
    paper, and unlike in the other references, the decay is not multiplied by the learning rate.

    Departures:
    *   eta_t is 1.
    *   The slot `momentum` is -m. Without momentum there is no slot.
    *   With `nesterov`, theta_t = (1 - lambda) theta_{t-1} - beta_1 m_t - alpha g_t, as in `sgd`.
    """
    theta = np.array(theta, np.float64)
    beta_1, alpha, lamda = momentum, learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    for g in gradients:
        g = np.asarray(g, np.float64)
        m = beta_1 * m + alpha * g
        theta = theta - lamda * theta - (beta_1 * m + alpha * g if nesterov else m)
        slots = {"momentum": -m} if momentum != 0 else {}
        yield copies(theta, **slots)


def cocob(theta, gradients, *, alpha, epsilon, learning_rate=1.0, weight_decay=None):
    """COCOB-Backprop.

    Orabona and Tommasi, "Training Deep Networks without Learning Rates Through Coin Betting"
    (arXiv 1705.07795), Algorithm 2, where g is the negative gradient:

        L_t = max(L_{t-1}, |g_t|)
        G_t = G_{t-1} + |g_t|
        Reward_t = max(Reward_{t-1} + (w_t - w_1) g_t, 0)
        theta_t = theta_{t-1} + g_t
        w_{t+1} = w_1 + theta_t / (L_t max(G_t + L_t, alpha L_t)) (L_t + Reward_t)

    Here w_1 is the argument `theta`, the paper's theta is the slot `gradient_sum`, L the slot
    `lipschitz`, G the slot `gradient_norm_sum`, and w_1 the slot `initial_weights`.

    Departures:
    *   L begins with `epsilon`, not with 0, which gives 0 / 0 until a gradient is not zero.
    *   What is added to w_1 is multiplied by `learning_rate`. The paper has none, that is, 1.
    *   Weight decay is not in this paper. As the last line does not add to w_t but replaces it,
        learning_rate * weight_decay * w_t is subtracted from the result instead of before.
    """
    w_1 = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    w = w_1
    L = np.full_like(w, epsilon)
    G = np.zeros_like(w)
    reward = np.zeros_like(w)
    theta = np.zeros_like(w)
    for gradient in gradients:
        if gradient is not None:
            g = -np.asarray(gradient, np.float64)
            L = np.maximum(L, np.abs(g))
            G = G + np.abs(g)
            reward = np.maximum(reward + (w - w_1) * g, 0)
            theta = theta + g
            decay = eta * lamda * w
            w = w_1 + eta * theta / (L * np.maximum(G + L, alpha * L)) * (L + reward) - decay
        yield copies(
            w,
            lipschitz=L,
            gradient_norm_sum=G,
            reward=reward,
            gradient_sum=theta,
            initial_weights=w_1,
        )


def conditionalgradient(
    theta, gradients, *, learning_rate, lambda_, epsilon, ord="fro", weight_decay=None
):
    """Conditional gradient, the method of Frank and Wolfe.

    Ravi et al., "Constrained Deep Learning using Conditional Gradient and Applications in Computer
    Vision" (arXiv 1803.06453), Algorithm 1, for the constraint ||W|| <= lambda:

        s_t = argmin_{||s|| <= lambda} <g_t, s>
        W_{t+1} = eta W_t + (1 - eta) s_t

    Here W is `theta` and eta is `learning_rate`. Where the norm is the Frobenius norm,
    s = -lambda g / ||g||; where it is the nuclear norm, s = -lambda u v^T with the singular
    vectors u and v of g's largest singular value.

    Departures:
    *   `epsilon` is added to ||g||. The nuclear norm does not use it.
    *   The nuclear norm's s is not unique for g = 0, nor where the largest singular value is a
        multiple one: it is what the singular value decomposition gives first.
    *   The nuclear norm is for matrices only.
    *   Weight decay is not in this paper.
    """
    W = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    assert ord == "fro" or (ord == "nuclear" and W.ndim == 2)
    for g in gradients:
        g = np.asarray(g, np.float64)
        W = W - eta * lamda * W
        if ord == "fro":
            s = -lambda_ * g / (_norm(g) + epsilon)
        else:
            u, _, v = np.linalg.svd(g, full_matrices=False)
            # By [:1], as there is nothing to take where g is empty.
            s = -lambda_ * u[:, :1] @ v[:1]
        W = eta * W + (1 - eta) * s
        yield copies(W)


def novograd(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    grad_averaging=False,
    amsgrad=False,
    weight_decay=None,
):
    """NovoGrad.

    Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of
    Deep Networks" (arXiv 1905.11286), Algorithm 1, for the layer that consists of this variable:

        v_1 = ||g_1||^2
        m_1 = g_1 / sqrt(v_1) + d w_1
        v_t = beta_2 v_{t-1} + (1 - beta_2) ||g_t||^2
        m_t = beta_1 m_{t-1} + (g_t / (sqrt(v_t) + epsilon) + d w_t)
        w_{t+1} = w_t - lambda_t m_t

    Here w is `theta`, lambda is `learning_rate`, d is `weight_decay`, and v, the slot `velocity`,
    is one number. The decay is a part of the momentum, and multiplied by the learning rate with it.

    Departures:
    *   `epsilon` is in the second line, too.
    *   With `amsgrad`, the maximum of all v_t so far takes the place of v_t.
    *   With `grad_averaging`, the bracket of the fourth line is multiplied by 1 - beta_1, so that
        m is an average; the second line, where it begins, stays.
    """
    w = np.array(theta, np.float64)
    d = weight_decay or 0.0
    m = np.zeros_like(w)
    v = v_max = np.float64(0.0)
    begun = False
    for g in gradients:
        if g is not None:
            g = np.asarray(g, np.float64)
            v = beta_2 * v + (1 - beta_2) * np.sum(g**2) if begun else np.sum(g**2)
            v_max = np.maximum(v_max, v)
            update = g / (np.sqrt(v_max if amsgrad else v) + epsilon) + d * w
            if grad_averaging and begun:
                update = (1 - beta_1) * update
            m = beta_1 * m + update
            w = w - learning_rate * m
            begun = True
        slots = {"velocity_hat": v_max} if amsgrad else {}
        yield copies(w, momentum=m, velocity=v, **slots)


def proximaladagrad(
    theta,
    gradients,
    *,
    learning_rate,
    initial_accumulator_value,
    l1_regularization_strength=0.0,
    l2_regularization_strength=0.0,
    weight_decay=None,
):
    """Proximal Adagrad.

    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization" (JMLR 12, 2011, not on arXiv), Figure 1, the algorithm with diagonal matrices,
    by the composite mirror descent update, equation 4:

        s_{t,i} = ||g_{1:t,i}||_2
        H_t = delta I + diag(s_t)
        x_{t+1} = argmin_x (eta <g_t, x> + eta phi(x) + <x - x_t, H_t (x - x_t)> / 2)

    with the regularizer phi(x) = lambda_1 ||x||_1 + lambda_2 ||x||_2^2 / 2. With eta_i =
    eta / s_{t,i}, the minimum is at

        p_i = x_{t,i} - eta_i g_{t,i}
        x_{t+1,i} = sign(p_i) max(|p_i| - eta_i lambda_1, 0) / (1 + eta_i lambda_2)

    Here x is `theta`, eta is `learning_rate`, lambda_1 and lambda_2 are the regularization
    strengths, and s_t^2 is in the slot `accumulator`.

    Departures:
    *   delta is 0. Instead, s_t^2 begins with `initial_accumulator_value`.
    *   Weight decay is not in this paper.
    """
    x = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    s2 = np.full_like(x, initial_accumulator_value)
    for g in gradients:
        g = np.asarray(g, np.float64)
        x = x - eta * lamda * x
        s2 = s2 + g**2
        eta_i = eta / np.sqrt(s2)
        x = _proximal(x - eta_i * g, eta_i, l1_regularization_strength, l2_regularization_strength)
        yield copies(x, accumulator=s2)


def yogi(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    l1_regularization_strength=0.0,
    l2_regularization_strength=0.0,
    initial_accumulator_value=1e-6,
    activation="sign",
    weight_decay=None,
):
    """Yogi.

    Zaheer et al., "Adaptive Methods for Nonconvex Optimization" (NeurIPS 2018, not on arXiv),
    Algorithm 2:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        v_t = v_{t-1} - (1 - beta_2) sign(v_{t-1} - g_t^2) g_t^2
        x_{t+1} = x_t - eta_t m_t / (sqrt(v_t) + epsilon)

    Here x is `theta`.

    Departures:
    *   eta_t is `learning_rate` times Adam's bias correction, sqrt(1 - beta_2^t) / (1 - beta_1^t).
        `epsilon` is hence added to the root before bias correction.
    *   v begins with `initial_accumulator_value`.
    *   With `activation` "tanh", tanh(10 z) is in the place of sign(z).
    *   The regularizers are not in the algorithm. With them, the last line is followed by the
        proximal step of `proximaladagrad`, with its eta_i = eta_t / (sqrt(v_t) + epsilon).
    *   Weight decay is not in this paper.
    """
    x = np.array(theta, np.float64)
    lamda = weight_decay or 0.0
    sign = {"sign": np.sign, "tanh": lambda z: np.tanh(10 * z)}[activation]
    m = np.zeros_like(x)
    v = np.full_like(x, initial_accumulator_value)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        x = x - learning_rate * lamda * x
        m = beta_1 * m + (1 - beta_1) * g
        v = v - (1 - beta_2) * sign(v - g**2) * g**2
        eta_t = learning_rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        eta_i = eta_t / (np.sqrt(v) + epsilon)
        x = _proximal(x - eta_i * m, eta_i, l1_regularization_strength, l2_regularization_strength)
        yield copies(x, momentum=m, velocity=v)


def lars(
    theta,
    gradients,
    *,
    learning_rate,
    momentum,
    trust_coefficient,
    epsilon=0.0,
    nesterov=False,
    weight_decay=None,
):
    """LARS.

    You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (arXiv 1708.03888),
    Algorithm 1, for the layer that consists of this variable:

        lambda = eta ||w_t|| / (||g_t|| + beta ||w_t||)
        v_{t+1} = m v_t + gamma lambda (g_t + beta w_t)
        w_{t+1} = w_t - v_{t+1}

    Here w is `theta`, gamma is `learning_rate`, m is `momentum`, eta is `trust_coefficient`, beta
    is `weight_decay`, and v is the slot `momentum`. The decay is a part of the update and, unlike
    in `lamb`, its norm and the gradient's are added.

    Departures:
    *   gamma is constant.
    *   `epsilon` is added to the denominator.
    *   The trust ratio lambda is 1 where the weights or the gradient are zero; with the paper's 0,
        weights which start at zero would never leave it.
    *   With `nesterov`, w_{t+1} = w_t - m v_{t+1} - gamma lambda (g_t + beta w_t).
    """
    w = np.array(theta, np.float64)
    gamma, m, eta, beta = learning_rate, momentum, trust_coefficient, weight_decay or 0.0
    v = np.zeros_like(w)
    for g in gradients:
        g = np.asarray(g, np.float64)
        w_norm, g_norm = _norm(w), _norm(g)
        ratio = 1.0
        if w_norm > 0 and g_norm > 0:
            ratio = eta * w_norm / (g_norm + beta * w_norm + epsilon)
        update = gamma * ratio * (g + beta * w)
        v = m * v + update
        w = w - (m * v + update if nesterov else v)
        yield copies(w, momentum=v)


def signum(theta, gradients, *, learning_rate, momentum, weight_decay=None):
    """Signum.

    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (arXiv
    1802.04434), Algorithm 2:

        m_{k+1} = beta m_k + (1 - beta) g_k
        x_{k+1} = x_k - delta sign(m_{k+1})

    Here x is `theta`, beta is `momentum` and delta is `learning_rate`. The sign of 0 is 0.

    Departures:
    *   Weight decay is not in this algorithm.
    """
    x = np.array(theta, np.float64)
    delta, beta, lamda = learning_rate, momentum, weight_decay or 0.0
    m = np.zeros_like(x)
    for g in gradients:
        g = np.asarray(g, np.float64)
        x = x - delta * lamda * x
        m = beta * m + (1 - beta) * g
        x = x - delta * np.sign(m)
        yield copies(x, momentum=m)


def signsgd(theta, gradients, *, learning_rate, weight_decay=None):
    """signSGD.

    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (arXiv
    1802.04434), Algorithm 1:

        x_{k+1} = x_k - delta sign(g_k)

    Here x is `theta` and delta is `learning_rate`. The sign of 0 is 0.

    Departures:
    *   Weight decay is not in this algorithm.
    """
    x = np.array(theta, np.float64)
    delta, lamda = learning_rate, weight_decay or 0.0
    for g in gradients:
        x = x - delta * lamda * x
        x = x - delta * np.sign(np.asarray(g, np.float64))
        yield copies(x)


def tiger(theta, gradients, *, learning_rate, beta, weight_decay=None):
    """Tiger.

    Su, "Tiger: A Tight-fisted Optimizer" (2023, not on arXiv):

        m_t = beta m_{t-1} + (1 - beta) g_t
        theta_t = theta_{t-1} - eta_t (sign(m_t) + lambda_t theta_{t-1})

    Here eta is `learning_rate` and lambda is `weight_decay`. The sign of 0 is 0.

    Departures:
    *   eta and lambda are constant. The author's code scales them by the variables' kind.
    """
    theta = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    for g in gradients:
        g = np.asarray(g, np.float64)
        m = beta * m + (1 - beta) * g
        theta = theta - eta * (np.sign(m) + lamda * theta)
        yield copies(theta, momentum=m)
