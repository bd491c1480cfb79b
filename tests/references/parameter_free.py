"""Optimizers which estimate their step size from all variables of a model together.

Their references are joint ones: `theta` is a list of arrays, the gradients are an iterable of
lists of arrays, and what comes after every step is the list of the weights, the list of the
dictionaries of the slots, and a dictionary of the numbers that all variables share. The formulas
are for the vector of all weights, as the papers have them.
"""

import math

import numpy as np

from references.common import copies


def joint(reference):
    """Marks a reference for all variables together."""
    reference.joint = True
    return reference


def _arrays(arrays):
    return [np.array(array, np.float64) for array in arrays]


def _zeros_like(arrays):
    return [np.zeros_like(array) for array in arrays]


def _dot(xs, ys):
    return sum(float(np.sum(x * y)) for x, y in zip(xs, ys, strict=True))


def _norm(xs):
    return math.sqrt(_dot(xs, xs))


def _norm_1(xs):
    return sum(float(np.sum(np.abs(x))) for x in xs)


def _joint_copies(theta, slots, **numbers):
    """What a joint reference yields after a step, from lists of the slots by name."""
    pairs = [
        copies(array, **{name: values[i] for name, values in slots.items()})
        for i, array in enumerate(theta)
    ]
    weights, slots = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return weights, slots, {name: float(number) for name, number in numbers.items()}


@joint
def prodigy(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    initial_d,
    beta_3=None,
    d_coefficient=1.0,
    growth_rate=math.inf,
    use_bias_correction=False,
    safeguard_warmup=False,
    weight_decay=None,
):
    """Prodigy.

    Mishchenko and Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner" (arXiv
    2306.06101), the algorithm for Adam:

        m_{k+1} = beta_1 m_k + (1 - beta_1) d_k g_k
        v_{k+1} = beta_2 v_k + (1 - beta_2) d_k^2 g_k^2
        r_{k+1} = sqrt(beta_2) r_k + (1 - sqrt(beta_2)) gamma_k d_k^2 <g_k, x_0 - x_k>
        s_{k+1} = sqrt(beta_2) s_k + (1 - sqrt(beta_2)) gamma_k d_k^2 g_k
        hat d_{k+1} = r_{k+1} / ||s_{k+1}||_1
        d_{k+1} = max(d_k, hat d_{k+1})
        x_{k+1} = x_k - gamma_k d_k m_{k+1} / (sqrt(v_{k+1}) + d_k epsilon)

    Here x is `theta`, gamma is `learning_rate` and d_0 is `initial_d`; m is the slot `momentum`, v
    the slot `velocity`, s the slot `s` and x_0 the slot `initial_weights`; d is the number `d` and
    r the number `d_numerator`.

    The authors' package prodigyopt departs from the paper, and is followed here:
    *   r and s have no factor 1 - sqrt(beta_2), and both are divided by d_0.
    *   sqrt(beta_2), in r and s only, is `beta_3` where that is given.
    *   hat d_{k+1} is multiplied by `d_coefficient`.
    *   d_max, a number of its own, is the largest hat d so far, and d_0 at first. d_{k+1} is
        min(d_max, growth_rate d_k), so that d never falls. While d is still d_0, growth_rate
        multiplies max(d_0, hat d_{k+1}) instead: it does not limit the first growth.
    *   epsilon is multiplied by d_{k+1}. The other d in the last line is d_k.
    *   With `use_bias_correction`, gamma_k is learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t),
        with t = k + 1, wherever it is above.
    *   With `safeguard_warmup`, s has no gamma_k (and no bias correction), but r has.
    *   A step with s_{k+1} = 0 leaves everything but the averages as it is, k and the weights (by
        decay) included. This is so until the first gradient that is not zero.

    Weight decay is decoupled: x_k <- x_k - gamma_k d_k weight_decay x_k, just before the last line,
    and so not in r_{k+1}. Its rate, that of the step, has the d from before the step, too.

    Departure from the authors' package: with beta_1 = 0 that has no average, but takes
    d_{k+1} g_k for m_{k+1}; the formula above has d_k g_k for that, too.
    """
    x = _arrays(theta)
    x_0 = _arrays(theta)
    gamma, lamda = learning_rate, weight_decay or 0.0
    if beta_3 is None:
        beta_3 = math.sqrt(beta_2)
    m, v, s = _zeros_like(x), _zeros_like(x), _zeros_like(x)
    d = d_max = initial_d
    r = 0.0
    k = 0
    for g in gradients:
        g = _arrays(g)
        t = k + 1
        correction = math.sqrt(1 - beta_2**t) / (1 - beta_1**t) if use_bias_correction else 1.0
        rate = gamma * correction * d
        m = [beta_1 * m_i + (1 - beta_1) * d * g_i for m_i, g_i in zip(m, g)]
        v = [beta_2 * v_i + (1 - beta_2) * d**2 * g_i**2 for v_i, g_i in zip(v, g)]
        s_rate = d if safeguard_warmup else rate
        s = [beta_3 * s_i + d / initial_d * s_rate * g_i for s_i, g_i in zip(s, g)]
        distance = [x_0i - x_i for x_0i, x_i in zip(x_0, x)]
        s_norm = _norm_1(s)
        if s_norm > 0:
            r = beta_3 * r + d / initial_d * rate * _dot(g, distance)
            d_hat = d_coefficient * r / s_norm
            d_max = max(d_max, d_hat)
            d = min(d_max, growth_rate * (max(d, d_hat) if d == initial_d else d))
            x = [x_i - rate * lamda * x_i for x_i in x]
            x = [x_i - rate * m_i / (np.sqrt(v_i) + d * epsilon) for x_i, m_i, v_i in zip(x, m, v)]
            k += 1
        slots = {"momentum": m, "velocity": v, "s": s, "initial_weights": x_0}
        yield _joint_copies(x, slots, d=d, d_max=d_max, d_numerator=r)


@joint
def dadaptadam(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    initial_d,
    growth_rate=math.inf,
    use_bias_correction=False,
    weight_decay=None,
):
    """D-Adaptation for Adam.

    Defazio and Mishchenko, "Learning-Rate-Free Learning by D-Adaptation" (arXiv 2301.07733), the
    algorithm for Adam:

        m_{k+1} = beta_1 m_k + (1 - beta_1) d_k gamma_k g_k
        v_{k+1} = beta_2 v_k + (1 - beta_2) g_k^2
        A_{k+1} = diag(sqrt(v_{k+1}) + epsilon)
        x_{k+1} = x_k - A_{k+1}^{-1} m_{k+1}
        s_{k+1} = sqrt(beta_2) s_k + (1 - sqrt(beta_2)) d_k gamma_k g_k
        r_{k+1} = sqrt(beta_2) r_k + (1 - sqrt(beta_2)) d_k gamma_k <g_k, A_{k+1}^{-1} s_k>
        hat d_{k+1} = r_{k+1} / ((1 - sqrt(beta_2)) ||s_{k+1}||_1)
        d_{k+1} = max(d_k, hat d_{k+1})

    Here x is `theta`, gamma is `learning_rate` and d_0 is `initial_d`; m is the slot `momentum`, v
    the slot `velocity` and s the slot `s`; d is the number `d` and r the number `d_numerator`.

    The authors' package dadaptation departs from the paper, and is followed here:
    *   r_{k+1} has A_k instead of A_{k+1}, with v from before the step. (s_k is 0 where v_k is.)
    *   d_{k+1} = max(d_k, min(hat d_{k+1}, growth_rate d_k)).
    *   With `use_bias_correction`, gamma_k is learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t),
        with t = k + 1, wherever it is above. So m has it from when each gradient came in.
    *   A step with s_{k+1} = 0 leaves everything but the averages as it is, k and the weights (by
        decay) included. This is so until the first gradient that is not zero.

    Weight decay is decoupled (`decouple=True` of the package), and has the d from before the step:
    x_k <- x_k - d_k gamma_k weight_decay x_k before it.
    """
    x = _arrays(theta)
    gamma, lamda = learning_rate, weight_decay or 0.0
    root = math.sqrt(beta_2)
    m, v, s = _zeros_like(x), _zeros_like(x), _zeros_like(x)
    d = initial_d
    r = 0.0
    k = 0
    for g in gradients:
        g = _arrays(g)
        t = k + 1
        correction = math.sqrt(1 - beta_2**t) / (1 - beta_1**t) if use_bias_correction else 1.0
        rate = d * gamma * correction
        a_inverse_s = [s_i / (np.sqrt(v_i) + epsilon) for s_i, v_i in zip(s, v)]
        m = [beta_1 * m_i + (1 - beta_1) * rate * g_i for m_i, g_i in zip(m, g)]
        v = [beta_2 * v_i + (1 - beta_2) * g_i**2 for v_i, g_i in zip(v, g)]
        s = [root * s_i + (1 - root) * rate * g_i for s_i, g_i in zip(s, g)]
        s_norm = _norm_1(s)
        if s_norm > 0:
            r = root * r + (1 - root) * rate * _dot(g, a_inverse_s)
            d_hat = r / ((1 - root) * s_norm)
            d = max(d, min(d_hat, growth_rate * d))
            x = [x_i - rate * lamda * x_i for x_i in x]
            x = [x_i - m_i / (np.sqrt(v_i) + epsilon) for x_i, m_i, v_i in zip(x, m, v)]
            k += 1
        yield _joint_copies(x, {"momentum": m, "velocity": v, "s": s}, d=d, d_numerator=r)


@joint
def dadaptsgd(
    theta,
    gradients,
    *,
    learning_rate,
    initial_d,
    momentum=0.0,
    growth_rate=math.inf,
    weight_decay=None,
):
    """D-Adaptation for gradient descent with momentum.

    Defazio and Mishchenko, "Learning-Rate-Free Learning by D-Adaptation" (arXiv 2301.07733), the
    algorithm for SGD:

        lambda_k = d_k gamma_k / ||g_0||
        s_{k+1} = s_k + lambda_k g_k
        z_{k+1} = z_k - lambda_k g_k
        x_{k+1} = beta x_k + (1 - beta) z_{k+1}
        hat d_{k+1} = 2 sum_{i=0}^k lambda_i <g_i, s_i> / ||s_{k+1}||
        d_{k+1} = max(d_k, hat d_{k+1})

    with z_0 = x_0. Here x is `theta`, gamma is `learning_rate`, beta is `momentum` and d_0 is
    `initial_d`; s is the slot `s`, z the slot `z` and x_0 the slot `initial_weights`; d is the
    number `d`, the sum (without the 2) the number `d_numerator` and ||g_0|| the number
    `initial_gradient_norm`.

    The authors' package dadaptation departs from the paper, and is followed here:
    *   d_{k+1} = max(d_k, min(hat d_{k+1}, growth_rate d_k)).
    *   z_{k+1} = x_0 - s_{k+1}, the same but for rounding.

    Weight decay is no decoupled one: the package has nothing but g_k <- g_k + weight_decay x_k,
    without the learning rate, everywhere above but in ||g_0||. A decay of the weights themselves
    would do nothing without momentum, as then they are replaced by z.

    Departure from the authors' package: that divides by zero if g_0 = 0. Here a step changes
    nothing until the first gradient that is not zero, which then is g_0.
    """
    x = _arrays(theta)
    x_0 = _arrays(theta)
    z = _arrays(theta)
    gamma, beta, lamda = learning_rate, momentum, weight_decay or 0.0
    s = _zeros_like(x)
    d = initial_d
    r = 0.0
    g_0_norm = 0.0
    for g in gradients:
        g = _arrays(g)
        if g_0_norm == 0:
            g_0_norm = _norm(g)
        if g_0_norm > 0:
            g = [g_i + lamda * x_i for g_i, x_i in zip(g, x)]
            rate = d * gamma / g_0_norm
            r = r + rate * _dot(g, s)
            s = [s_i + rate * g_i for s_i, g_i in zip(s, g)]
            s_norm = _norm(s)
            # It can only be 0 where all gradients so far cancel.
            d_hat = 2 * r / s_norm if s_norm > 0 else d
            d = max(d, min(d_hat, growth_rate * d))
            z = [x_0i - s_i for x_0i, s_i in zip(x_0, s)]
            x = [beta * x_i + (1 - beta) * z_i for x_i, z_i in zip(x, z)]
        yield _joint_copies(
            x,
            {"s": s, "z": z, "initial_weights": x_0},
            d=d,
            d_numerator=r,
            initial_gradient_norm=g_0_norm,
        )


@joint
def dadaptlion(theta, gradients, *, learning_rate, beta_1, beta_2, initial_d, weight_decay=None):
    """D-Adaptation for Lion.

    It is not in Defazio and Mishchenko, "Learning-Rate-Free Learning by D-Adaptation" (arXiv
    2301.07733), but in the authors' package dadaptation. In the letters of their algorithm for
    Adam, with the signs u_k of Lion (Chen et al., arXiv 2302.06675) in the place of the gradients:

        u_k = sign(beta_1 m_k + (1 - beta_1) g_k)
        x_{k+1} = x_k - d_k gamma_k u_k
        m_{k+1} = beta_2 m_k + (1 - beta_2) d_k gamma_k g_k
        r_{k+1} = sqrt(beta_2) r_k + (1 - sqrt(beta_2)) d_k gamma_k <u_k, s_k>
        s_{k+1} = sqrt(beta_2) s_k + (1 - sqrt(beta_2)) d_k gamma_k u_k
        hat d_{k+1} = r_{k+1} / ((1 - sqrt(beta_2)) ||s_{k+1}||_1)
        d_{k+1} = max(d_k, hat d_{k+1})

    Here x is `theta`, gamma is `learning_rate` and d_0 is `initial_d`; m is the slot `momentum` and
    s the slot `s`; d is the number `d` and r the number `d_numerator`.

    As there, the momentum averages d_k gamma_k g_k, but u_k has g_k beside it without that factor:
    while d is small, the momentum hardly counts.

    Weight decay is decoupled: x_k <- x_k - d_k gamma_k weight_decay x_k before the step. Unlike
    those of the other references here, it also happens while all gradients are zero.
    """
    x = _arrays(theta)
    gamma, lamda = learning_rate, weight_decay or 0.0
    root = math.sqrt(beta_2)
    m, s = _zeros_like(x), _zeros_like(x)
    d = initial_d
    r = 0.0
    for g in gradients:
        g = _arrays(g)
        rate = d * gamma
        x = [x_i - rate * lamda * x_i for x_i in x]
        u = [np.sign(beta_1 * m_i + (1 - beta_1) * g_i) for m_i, g_i in zip(m, g)]
        x = [x_i - rate * u_i for x_i, u_i in zip(x, u)]
        m = [beta_2 * m_i + (1 - beta_2) * rate * g_i for m_i, g_i in zip(m, g)]
        inner_product = _dot(u, s)
        s = [root * s_i + (1 - root) * rate * u_i for s_i, u_i in zip(s, u)]
        s_norm = _norm_1(s)
        if s_norm > 0:
            r = root * r + (1 - root) * rate * inner_product
            d = max(d, r / ((1 - root) * s_norm))
        yield _joint_copies(x, {"momentum": m, "s": s}, d=d, d_numerator=r)


@joint
def dog(theta, gradients, *, learning_rate, reps_rel, epsilon, weight_decay=None):
    """DoG, distance over gradients.

    Ivgi, Hinder and Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule"
    (arXiv 2302.12022):

        bar r_t = max(r_epsilon, max_{i <= t} ||x_i - x_0||)
        G_t = sum_{i <= t} ||g_i||^2
        eta_t = c bar r_t / sqrt(G_t + epsilon)
        x_{t+1} = x_t - eta_t g_t

    with r_epsilon = alpha (1 + ||x_0||), where g_t is the gradient plus weight_decay times x_t, as
    in the authors' package dog-optimizer: the decay is a part of G. Here x is `theta`, c is
    `learning_rate` and alpha is `reps_rel`; x_0 is the slot `initial_weights`, bar r the number
    `max_distance` and G the number `squared_norm_sum`. The averaging of the weights, which the
    paper recommends, is not part of this.

    Departure from that package: epsilon is no part of G, with which that starts.
    """
    x = _arrays(theta)
    x_0 = _arrays(theta)
    c, alpha, lamda = learning_rate, reps_rel, weight_decay or 0.0
    r_bar = alpha * (1 + _norm(x_0))
    G = 0.0
    for t, g in enumerate(gradients):
        g = [g_i + lamda * x_i for g_i, x_i in zip(_arrays(g), x)]
        if t > 0:
            r_bar = max(r_bar, _norm([x_i - x_0i for x_i, x_0i in zip(x, x_0)]))
        G = G + _dot(g, g)
        eta = c * r_bar / math.sqrt(G + epsilon)
        x = [x_i - eta * g_i for x_i, g_i in zip(x, g)]
        yield _joint_copies(x, {"initial_weights": x_0}, max_distance=r_bar, squared_norm_sum=G)


def ldog(theta, gradients, *, learning_rate, reps_rel, epsilon, weight_decay=None):
    """LDoG, layer-wise DoG.

    Ivgi, Hinder and Carmon (arXiv 2302.12022), the layer-wise version: `dog` for each variable by
    itself, so that both numbers, `max_distance` and `squared_norm_sum`, are the variable's.

    Departure from the authors' package: that of `dog`.
    """
    x = np.array(theta, np.float64)
    x_0 = x
    r_bar, G = None, 0.0
    for g in gradients:
        if g is not None:
            g = np.asarray(g, np.float64) + (weight_decay or 0.0) * x
            distance = math.sqrt(np.sum((x - x_0) ** 2))
            first = reps_rel * (1 + math.sqrt(np.sum(x_0**2)))
            r_bar = first if r_bar is None else max(r_bar, distance)
            G = G + np.sum(g**2)
            x = x - learning_rate * r_bar / math.sqrt(G + epsilon) * g
        yield copies(x, initial_weights=x_0, max_distance=r_bar or 0.0, squared_norm_sum=G)
