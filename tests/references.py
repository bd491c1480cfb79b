"""Reference implementations of the optimizers: float64 NumPy, written from the papers.

They serve to check the optimizers, so they are written to be compared with the papers line by
line, in the papers' letters, and share no code with what they check.

Each reference is a generator for one variable. It takes the initial weights `theta` (of any
shape, scalar and empty ones included) and an iterable of gradients, and yields after every step
the weights and a dictionary of the slots, as copies. Arguments and slots have Keras' names, and
where Keras and a paper differ, Keras' meaning of the arguments is followed; each docstring lists
these departures.

Departures common to all of them, except where a docstring says otherwise:

*   Weight decay is decoupled, multiplied by the learning rate, and applied before the update:
    theta <- theta - learning_rate * weight_decay * theta. The papers subtract the decay together
    with the update. Both come to the same, as no update here depends on the weights.
*   The learning rate is constant, and no schedule multiplier stands beside it.
"""

import numpy as np


def _copies(theta, **slots):
    # np.array, as arithmetic on arrays without axes returns scalars.
    return np.array(theta), {name: np.array(slot) for name, slot in slots.items()}


def sgd(theta, gradients, *, learning_rate, momentum=0.0, nesterov=False, weight_decay=None):
    """Gradient descent with momentum.

    Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML
    2013, not on arXiv), equations 1 and 2, for classical momentum:

        v_t = mu v_{t-1} - eps grad f(theta_{t-1})
        theta_t = theta_{t-1} + v_t

    Bengio et al., "Advances in Optimizing Recurrent Networks" (arXiv 1212.0901), section 3.5, for
    Nesterov momentum rewritten such that the gradient is taken at the stored weights:

        theta_t = theta_{t-1} + mu^2 v_{t-1} - (1 + mu) eps grad f(theta_{t-1})

    Here mu is `momentum`, eps is `learning_rate` and v is the slot `momentum`.

    Departures:
    *   mu is constant, and with the above v_t the last line is
        theta_t = theta_{t-1} + mu v_t - eps grad f(theta_{t-1}).
    *   Weight decay is not in these papers.
    *   Without momentum there is no slot, as in Keras.
    """
    theta = np.array(theta, np.float64)
    mu, eps, lamda = momentum, learning_rate, weight_decay or 0.0
    v = np.zeros_like(theta)
    for g in gradients:
        g = np.asarray(g, np.float64)
        theta = theta - eps * lamda * theta
        if mu == 0:
            theta = theta - eps * g
            yield _copies(theta)
            continue
        v = mu * v - eps * g
        theta = theta + mu * v - eps * g if nesterov else theta + v
        yield _copies(theta, momentum=v)


def adam(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    amsgrad=False,
    weight_decay=None,
):
    """Adam.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization" (arXiv 1412.6980), Algorithm 1,
    with its last three lines replaced as described at the end of section 2:

        alpha_t = alpha sqrt(1 - beta_2^t) / (1 - beta_1^t)
        theta_t = theta_{t-1} - alpha_t m_t / (sqrt(v_t) + epsilon_hat)

    With `amsgrad`, Reddi et al., "On the Convergence of Adam and Beyond" (arXiv 1904.09237),
    Algorithm 2: hat v_t = max(hat v_{t-1}, v_t), which takes the place of v_t in the above. It is
    the slot `velocity_hat`, not to be confused with Adam's bias-corrected hat v_t.

    Departures:
    *   `epsilon` is epsilon_hat, which is epsilon of Algorithm 1 times sqrt(1 - beta_2^t).
    *   Reddi et al. have neither bias correction nor epsilon; both are kept with `amsgrad`. The
        maximum is over v_t before bias correction.
    *   Weight decay is not in these papers.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    v_hat = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        theta = theta - alpha * lamda * theta
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        v_hat = np.maximum(v_hat, v)
        alpha_t = alpha * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        if amsgrad:
            theta = theta - alpha_t * m / (np.sqrt(v_hat) + epsilon)
            yield _copies(theta, momentum=m, velocity=v, velocity_hat=v_hat)
        else:
            theta = theta - alpha_t * m / (np.sqrt(v) + epsilon)
            yield _copies(theta, momentum=m, velocity=v)


def adamw(theta, gradients, *, learning_rate, weight_decay, beta_1, beta_2, epsilon, amsgrad=False):
    """AdamW.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), Algorithm 2:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        hat m_t = m_t / (1 - beta_1^t)
        hat v_t = v_t / (1 - beta_2^t)
        theta_t = theta_{t-1} - eta_t (alpha hat m_t / (sqrt(hat v_t) + epsilon)
                                       + lambda theta_{t-1})

    Departures:
    *   eta_t is 1, and lambda is `learning_rate` times `weight_decay`.
    *   `epsilon` is, as in `adam`, the epsilon_hat of Kingma and Ba, so that the line's epsilon
        is `epsilon` / sqrt(1 - beta_2^t).
    *   With `amsgrad`, hat v_t is computed from the maximum of all v_t so far.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, learning_rate * (weight_decay or 0.0)
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    v_max = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        theta = theta - lamda * theta
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        v_max = np.maximum(v_max, v)
        m_hat = m / (1 - beta_1**t)
        v_hat = (v_max if amsgrad else v) / (1 - beta_2**t)
        theta = theta - alpha * m_hat / (np.sqrt(v_hat) + epsilon / np.sqrt(1 - beta_2**t))
        slots = {"velocity_hat": v_max} if amsgrad else {}
        yield _copies(theta, momentum=m, velocity=v, **slots)


def lion(theta, gradients, *, learning_rate, beta_1, beta_2, weight_decay=None):
    """Lion.

    Chen et al., "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), Algorithm 2:

        c_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        theta_t = theta_{t-1} - eta_t (sign(c_t) + lambda theta_{t-1})
        m_t = beta_2 m_{t-1} + (1 - beta_2) g_t

    The sign of 0 is 0. No departures but the common ones.
    """
    theta = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    for g in gradients:
        g = np.asarray(g, np.float64)
        theta = theta - eta * lamda * theta
        c = beta_1 * m + (1 - beta_1) * g
        theta = theta - eta * np.sign(c)
        m = beta_2 * m + (1 - beta_2) * g
        yield _copies(theta, momentum=m)


def lamb(theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None):
    """LAMB.

    You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (arXiv
    1904.00962), Algorithm 2, for the layer that consists of this variable:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        m_t = m_t / (1 - beta_1^t)
        v_t = v_t / (1 - beta_2^t)
        r_t = m_t / (sqrt(v_t) + epsilon)
        x_{t+1} = x_t - eta_t phi(||x_t||) / ||r_t + lambda x_t|| (r_t + lambda x_t)

    Here x is `theta`, eta is `learning_rate` and lambda is `weight_decay`. Unlike in the other
    references the decay is part of the update, and so enters the trust ratio.

    Departures:
    *   The third and fourth line are taken to define new quantities (m_hat, v_hat): the averages
        which the next step uses are those before bias correction, as in Adam.
    *   phi is the identity.
    *   The trust ratio phi(||x||) / ||r + lambda x|| is 1 where the weights or the update are
        zero; with the paper's 0 or 0 / 0, weights which start at zero would never leave it.
    """
    x = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        m_hat = m / (1 - beta_1**t)
        v_hat = v / (1 - beta_2**t)
        r = m_hat / (np.sqrt(v_hat) + epsilon)
        u = r + lamda * x
        x_norm = np.sqrt(np.sum(x**2))
        u_norm = np.sqrt(np.sum(u**2))
        ratio = x_norm / u_norm if x_norm > 0 and u_norm > 0 else 1.0
        x = x - eta * ratio * u
        yield _copies(x, momentum=m, velocity=v)
