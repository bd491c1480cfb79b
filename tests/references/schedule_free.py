"""Schedule-free optimizers.

Defazio et al., "The Road Less Scheduled" (arXiv 2405.15682), equations 3 to 5:

    y_t = (1 - beta) z_t + beta x_t
    z_{t+1} = z_t - gamma_t grad f(y_t)
    x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}

with x_1 = z_1 and c_{t+1} = gamma_t^2 / sum_{i=1}^t gamma_i^2. The weights `theta` that a reference
takes and yields are y, at which the gradients are; z is a slot, and x, the weights to evaluate a
model with, is kept aside, and follows from both (`averaged`). So do the authors' package
schedulefree and what it calls the train mode.

The authors' package departs from the paper, and is followed here:
*   c_{t+1} = w_t / sum_{i=1}^t w_i with w_t = t^r (max_{i <= t} gamma_i)^weight_lr_power. With r 0
    and power 2 it is the paper's while gamma grows. c_{t+1} is 0 while the sum is.
*   Weight decay is weight_decay y_t added to the gradient, after it has been divided by the square
    root. This is the paper's for AdamW; it is no decay of the weights y themselves.

The sums of the w_i and the largest gamma are numbers that all variables share, and no slots.
"""

import math

import numpy as np

from references.common import copies


def averaged(y, z, beta):
    """The average x from the weights y and the slot z."""
    return (y - (1 - beta) * z) / beta


class _Average:
    """The weight c_{t+1} of z_{t+1} in the average x_{t+1}."""

    def __init__(self, r, weight_lr_power):
        self.r, self.power = r, weight_lr_power
        self.sum = 0.0
        self.gamma_max = 0.0

    def c(self, t, gamma):
        self.gamma_max = max(self.gamma_max, gamma)
        w = t**self.r * self.gamma_max**self.power
        self.sum += w
        return w / self.sum if self.sum > 0 else 0.0


def schedulefreesgd(
    theta,
    gradients,
    *,
    learning_rate,
    momentum,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    weight_decay=None,
):
    """Schedule-free gradient descent.

    The equations above (arXiv 2405.15682), with beta the argument `momentum` and

        gamma_t = gamma min(1, t / T_warmup)

    where gamma is `learning_rate` and T_warmup is `warmup_steps`.

    Departures: those of the authors' package.
    """
    y = np.array(theta, np.float64)
    x, z = y, y
    gamma, beta, lamda = learning_rate, momentum, weight_decay or 0.0
    average = _Average(r, weight_lr_power)
    for t, g in enumerate(gradients, 1):
        gamma_t = gamma * min(1.0, t / warmup_steps) if warmup_steps > 0 else gamma
        c = average.c(t, gamma_t)
        if g is not None:
            g = np.asarray(g, np.float64)
            z = z - gamma_t * (g + lamda * y)
            x = (1 - c) * x + c * z
            y = (1 - beta) * z + beta * x
        yield copies(y, z=z)


def schedulefreeadamw(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    weight_decay=None,
):
    """Schedule-free AdamW.

    Defazio et al. (arXiv 2405.15682), Algorithm 1:

        y_t = (1 - beta_1) z_t + beta_1 x_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        gamma_t = gamma sqrt(1 - beta_2^t) min(1, t / T_warmup)
        z_{t+1} = z_t - gamma_t g_t / (sqrt(v_t) + epsilon) - gamma_t lambda y_t
        c_{t+1} = gamma_t^2 / sum_{i=1}^t gamma_i^2
        x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}

    Here gamma is `learning_rate`, T_warmup is `warmup_steps`, lambda is `weight_decay`, and v is
    the slot `velocity`.

    Departures, besides those of the authors' package above, as there:
    *   sqrt(1 - beta_2^t) is not in gamma_t. Instead v_t / (1 - beta_2^t) stands below the root, so
        that it enters neither c nor the decay, and epsilon is not divided by it.
    """
    y = np.array(theta, np.float64)
    x, z = y, y
    gamma, lamda = learning_rate, weight_decay or 0.0
    v = np.zeros_like(y)
    average = _Average(r, weight_lr_power)
    for t, g in enumerate(gradients, 1):
        gamma_t = gamma * min(1.0, t / warmup_steps) if warmup_steps > 0 else gamma
        c = average.c(t, gamma_t)
        if g is not None:
            g = np.asarray(g, np.float64)
            v = beta_2 * v + (1 - beta_2) * g**2
            v_hat = v / (1 - beta_2**t)
            z = z - gamma_t * (g / (np.sqrt(v_hat) + epsilon) + lamda * y)
            x = (1 - c) * x + c * z
            y = (1 - beta_1) * z + beta_1 * x
        yield copies(y, z=z, velocity=v)


def schedulefreeradam(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    silent_sgd_phase=True,
    r=0.0,
    weight_lr_power=2.0,
    weight_decay=None,
):
    """Schedule-free RAdam.

    It is not in Defazio et al. (arXiv 2405.15682), but in the authors' package schedulefree: their
    AdamW with the rectification of Liu et al., "On the Variance of the Adaptive Learning Rate and
    Beyond" (arXiv 1908.03265), Algorithm 2, in the place of the warm-up:

        rho_inf = 2 / (1 - beta_2) - 1
        rho_t = rho_inf - 2 t beta_2^t / (1 - beta_2^t)
        r_t = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
        gamma_t = gamma r_t
        z_{t+1} = z_t - gamma_t (g_t / (sqrt(v_t / (1 - beta_2^t)) + epsilon) + lambda y_t)

    if rho_t > 4, and else, with gamma_t = 0 if `silent_sgd_phase` or gamma_t = gamma if not,

        z_{t+1} = z_t - gamma_t (g_t + lambda y_t)

    The rest is that of `schedulefreeadamw`. What enters c is the maximum of gamma_t with r_t: the
    weight of the silent steps is t^r 0^weight_lr_power, which is 0 unless weight_lr_power is.
    """
    y = np.array(theta, np.float64)
    x, z = y, y
    gamma, lamda = learning_rate, weight_decay or 0.0
    v = np.zeros_like(y)
    average = _Average(r, weight_lr_power)
    rho_inf = 2 / (1 - beta_2) - 1
    for t, g in enumerate(gradients, 1):
        rho = rho_inf - 2 * t * beta_2**t / (1 - beta_2**t)
        if rho > 4:
            numerator = (rho - 4) * (rho - 2) * rho_inf
            gamma_t = gamma * math.sqrt(numerator / ((rho_inf - 4) * (rho_inf - 2) * rho))
        else:
            gamma_t = 0.0 if silent_sgd_phase else gamma
        c = average.c(t, gamma_t)
        if g is not None:
            g = np.asarray(g, np.float64)
            v = beta_2 * v + (1 - beta_2) * g**2
            root = np.sqrt(v / (1 - beta_2**t)) + epsilon
            z = z - gamma_t * ((g / root if rho > 4 else g) + lamda * y)
            x = (1 - c) * x + c * z
            y = (1 - beta_1) * z + beta_1 * x
        yield copies(y, z=z, velocity=v)
