"""Descendants of Adam and of momentum, which Keras does not have, and the cautious options."""

import numpy as np

from references.common import copies


def nadamw(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    momentum_decay=0.004,
    weight_decay=None,
):
    """NAdamW.

    Dozat, "Incorporating Nesterov Momentum into Adam" (ICLR 2016 workshop, not on arXiv),
    Algorithm 2 with the schedule of its section on warming up the momentum:

        mu_t = beta_1 (1 - 0.96^(t psi) / 2)
        m_t = mu_t m_{t-1} + (1 - mu_t) g_t
        n_t = nu n_{t-1} + (1 - nu) g_t^2
        hat m = mu_{t+1} m_t / (1 - prod_{i=1}^{t+1} mu_i)
                + (1 - mu_t) g_t / (1 - prod_{i=1}^t mu_i)
        hat n = nu n_t / (1 - nu^t)
        theta_t = theta_{t-1} - alpha_t hat m / (sqrt(hat n) + epsilon)

    Here nu is `beta_2`, psi is `momentum_decay`, m is the slot `momentum` and n is the slot
    `velocity`. The product of the mu_i is one number, which all variables share, and no slot of a
    variable.

    Departures, all of them PyTorch's:
    *   m_t is the average with the constant beta_1 in place of mu_t.
    *   hat n is n_t / (1 - nu^t), as in Adam, without the factor nu.
    *   Weight decay is not in this paper.
    """
    theta = np.array(theta, np.float64)
    alpha, nu, psi, lamda = learning_rate, beta_2, momentum_decay, weight_decay or 0.0
    m = np.zeros_like(theta)
    n = np.zeros_like(theta)
    product = 1.0

    def mu(t):
        return beta_1 * (1 - 0.5 * 0.96 ** (t * psi))

    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        theta = theta - alpha * lamda * theta
        product = product * mu(t)
        m = beta_1 * m + (1 - beta_1) * g
        n = nu * n + (1 - nu) * g**2
        m_hat = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        n_hat = n / (1 - nu**t)
        theta = theta - alpha * m_hat / (np.sqrt(n_hat) + epsilon)
        yield copies(theta, momentum=m, velocity=n)


def adamaxw(theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None):
    """AdaMax with decoupled weight decay.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization" (arXiv 1412.6980), Algorithm 2,
    with the decay of Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv
    1711.05101):

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        u_t = max(beta_2 u_{t-1}, |g_t|)
        theta_t = theta_{t-1} - alpha / (1 - beta_1^t) m_t / u_t - lambda theta_{t-1}

    Here m is the slot `momentum` and u is the slot `norm`.

    Departures:
    *   `epsilon` is added to u_t in the last line. The paper has none.
    *   lambda is `learning_rate` times `weight_decay`.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, learning_rate * (weight_decay or 0.0)
    m = np.zeros_like(theta)
    u = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        theta = theta - lamda * theta
        m = beta_1 * m + (1 - beta_1) * g
        u = np.maximum(beta_2 * u, np.abs(g))
        theta = theta - alpha / (1 - beta_1**t) * m / (u + epsilon)
        yield copies(theta, momentum=m, norm=u)


def adan(theta, gradients, *, learning_rate, beta_1, beta_2, beta_3, epsilon, weight_decay=None):
    """Adan.

    Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models"
    (arXiv 2208.06677), Algorithm 1:

        m_k = (1 - beta_1) m_{k-1} + beta_1 g_k
        v_k = (1 - beta_2) v_{k-1} + beta_2 (g_k - g_{k-1})
        n_k = (1 - beta_3) n_{k-1} + beta_3 (g_k + (1 - beta_2) (g_k - g_{k-1}))^2
        eta_k = eta / (sqrt(n_k) + epsilon)
        theta_{k+1} = (1 + lambda_k eta)^{-1} (theta_k - eta_k (m_k + (1 - beta_2) v_k))

    Here m is the slot `momentum`, v the slot `difference`, n the slot `velocity` and g_k the slot
    `previous_gradient`.

    Departures, all of them those of the authors' code:
    *   `beta_1`, `beta_2` and `beta_3` are the factors of the old averages, one minus the paper's.
    *   The averages begin with 0 and are corrected for that bias where the last two lines use them.
    *   With the first gradient, the difference of gradients is 0.

    Unlike in the other references, weight decay is that of the paper: proximal, a division after
    the update.
    """
    theta = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    n = np.zeros_like(theta)
    g_before = None
    for k, g in enumerate(gradients, 1):
        if g is None:
            yield copies(theta, momentum=m, difference=v, velocity=n, previous_gradient=g_before)
            continue
        g = np.array(g, np.float64)
        difference = np.zeros_like(g) if g_before is None else g - g_before
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * difference
        n = beta_3 * n + (1 - beta_3) * (g + beta_2 * difference) ** 2
        m_hat = m / (1 - beta_1**k)
        v_hat = v / (1 - beta_2**k)
        n_hat = n / (1 - beta_3**k)
        eta_k = eta / (np.sqrt(n_hat) + epsilon)
        theta = (theta - eta_k * (m_hat + beta_2 * v_hat)) / (1 + lamda * eta)
        g_before = g
        yield copies(theta, momentum=m, difference=v, velocity=n, previous_gradient=g)


def adopt(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    clipped=True,
    weight_decay=None,
):
    """ADOPT.

    Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta_2 with the Optimal Rate"
    (arXiv 2411.02853 v3), Algorithm 2, which starts from m_0 = 0 and v_0 = g_0^2:

        m_t = beta_1 m_{t-1} + (1 - beta_1) Clip(g_t / max(sqrt(v_{t-1}), epsilon), c_t)
        theta_t = theta_{t-1} - alpha_t m_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2

    Here c_t is t^(1/4), m is the slot `momentum` and v is the slot `velocity`.

    Departures:
    *   The paper counts from 0: its t is one less than the number of the step. The first gradient,
        that of step 0 if none is missing, changes nothing but v, not even by weight decay, as in
        the authors' code.
    *   Without `clipped`, which is Algorithm 1, there is no Clip.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    v = None
    for t, g in enumerate(gradients):
        if g is None or v is None:
            v = v if g is None else np.asarray(g, np.float64) ** 2
            yield copies(theta, momentum=m, velocity=v)
            continue
        g = np.asarray(g, np.float64)
        theta = theta - alpha * lamda * theta
        normed = g / np.maximum(np.sqrt(v), epsilon)
        if clipped:
            normed = np.clip(normed, -(t**0.25), t**0.25)
        m = beta_1 * m + (1 - beta_1) * normed
        theta = theta - alpha * m
        v = beta_2 * v + (1 - beta_2) * g**2
        yield copies(theta, momentum=m, velocity=v)


def ademamix(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    beta_3,
    alpha,
    epsilon,
    alpha_warmup_steps=0,
    beta_3_warmup_steps=0,
    weight_decay=None,
):
    """AdEMAMix.

    Pagliardini et al., "The AdEMAMix Optimizer: Better, Faster, Older" (arXiv 2409.03137),
    Algorithm 1:

        m_1 = beta_1 m_1 + (1 - beta_1) g,  hat m_1 = m_1 / (1 - beta_1^t)
        m_2 = beta_3(t) m_2 + (1 - beta_3(t)) g
        nu = beta_2 nu + (1 - beta_2) g^2,  hat nu = nu / (1 - beta_2^t)
        theta_t = theta_{t-1} - eta ((hat m_1 + alpha(t) m_2) / (sqrt(hat nu) + epsilon)
                                     + lambda theta_{t-1})

    with the schedules

        alpha(t) = min(t alpha / T_alpha, alpha)
        beta_3(t) = min(exp(ln beta_1 ln beta_3
                            / ((1 - t / T_beta_3) ln beta_3 + t / T_beta_3 ln beta_1)), beta_3)

    Here T_alpha is `alpha_warmup_steps`, T_beta_3 is `beta_3_warmup_steps`, and where one of them
    is 0 there is no such schedule. m_1 is the slot `momentum`, m_2 the slot `slow_momentum` and nu
    the slot `velocity`. No departures but the common ones.
    """
    theta = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    T_alpha, T_beta_3 = alpha_warmup_steps, beta_3_warmup_steps
    m_1 = np.zeros_like(theta)
    m_2 = np.zeros_like(theta)
    nu = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        alpha_t, beta_3_t = alpha, beta_3
        if T_alpha:
            alpha_t = min(t * alpha / T_alpha, alpha)
        if T_beta_3:
            ln_1, ln_3 = np.log(beta_1), np.log(beta_3)
            exponent = ln_1 * ln_3 / ((1 - t / T_beta_3) * ln_3 + t / T_beta_3 * ln_1)
            beta_3_t = min(np.exp(exponent), beta_3)
        theta = theta - eta * lamda * theta
        m_1 = beta_1 * m_1 + (1 - beta_1) * g
        m_2 = beta_3_t * m_2 + (1 - beta_3_t) * g
        nu = beta_2 * nu + (1 - beta_2) * g**2
        m_1_hat = m_1 / (1 - beta_1**t)
        nu_hat = nu / (1 - beta_2**t)
        theta = theta - eta * (m_1_hat + alpha_t * m_2) / (np.sqrt(nu_hat) + epsilon)
        yield copies(theta, momentum=m_1, slow_momentum=m_2, velocity=nu)


def laprop(theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None):
    """LaProp.

    Ziyin, Wang and Ueda, "LaProp: Separating Momentum and Adaptivity in Adam" (arXiv 2002.04839),
    Algorithm 1:

        n_t = nu n_{t-1} + (1 - nu) g_t^2
        m_t = mu m_{t-1} + (1 - mu) g_t / (sqrt(n_t / c_n) + epsilon)
        theta_t = theta_{t-1} - lambda_t m_t / c_m

    with c_n = 1 - nu^t and c_m = 1 - mu^t. Here mu is `beta_1`, nu is `beta_2`, lambda_t is
    `learning_rate`, m is the slot `momentum` and n is the slot `velocity`. No departures but the
    common ones.
    """
    theta = np.array(theta, np.float64)
    mu, nu, rate, decay = beta_1, beta_2, learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    n = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        theta = theta - rate * decay * theta
        n = nu * n + (1 - nu) * g**2
        m = mu * m + (1 - mu) * g / (np.sqrt(n / (1 - nu**t)) + epsilon)
        theta = theta - rate * m / (1 - mu**t)
        yield copies(theta, momentum=m, velocity=n)


def qhadam(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    nu_1,
    nu_2,
    epsilon,
    weight_decay=None,
):
    """QHAdam.

    Ma and Yarats, "Quasi-hyperbolic momentum and Adam for deep learning" (arXiv 1810.06801),
    section 4, where g is the average of the gradients G and s that of their squares:

        g_{t+1} = beta_1 g_t + (1 - beta_1) G_t,  g'_{t+1} = g_{t+1} / (1 - beta_1^{t+1})
        s_{t+1} = beta_2 s_t + (1 - beta_2) G_t^2,  s'_{t+1} = s_{t+1} / (1 - beta_2^{t+1})
        theta_{t+1} = theta_t - alpha ((1 - nu_1) G_t + nu_1 g'_{t+1})
                              / (sqrt((1 - nu_2) G_t^2 + nu_2 s'_{t+1}) + epsilon)

    Here g is the slot `momentum` and s is the slot `velocity`. No departures but the common ones.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, weight_decay or 0.0
    g = np.zeros_like(theta)
    s = np.zeros_like(theta)
    for t, G in enumerate(gradients, 1):
        G = np.asarray(G, np.float64)
        theta = theta - alpha * lamda * theta
        g = beta_1 * g + (1 - beta_1) * G
        s = beta_2 * s + (1 - beta_2) * G**2
        numerator = (1 - nu_1) * G + nu_1 * g / (1 - beta_1**t)
        denominator = np.sqrt((1 - nu_2) * G**2 + nu_2 * s / (1 - beta_2**t)) + epsilon
        theta = theta - alpha * numerator / denominator
        yield copies(theta, momentum=g, velocity=s)


def qhm(theta, gradients, *, learning_rate, beta, nu, weight_decay=None):
    """QHM.

    Ma and Yarats, "Quasi-hyperbolic momentum and Adam for deep learning" (arXiv 1810.06801),
    section 3, where g is the average of the gradients G:

        g_{t+1} = beta g_t + (1 - beta) G_t
        theta_{t+1} = theta_t - alpha ((1 - nu) G_t + nu g_{t+1})

    Here g is the slot `momentum`. No departures but the common ones.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, weight_decay or 0.0
    g = np.zeros_like(theta)
    for G in gradients:
        G = np.asarray(G, np.float64)
        theta = theta - alpha * lamda * theta
        g = beta * g + (1 - beta) * G
        theta = theta - alpha * ((1 - nu) * G + nu * g)
        yield copies(theta, momentum=g)


def adabound(
    theta,
    gradients,
    *,
    learning_rate,
    final_learning_rate,
    beta_1,
    beta_2,
    gamma,
    epsilon,
    amsgrad=False,
    weight_decay=None,
):
    """AdaBound, and with `amsgrad` AMSBound.

    Luo et al., "Adaptive Gradient Methods with Dynamic Bound of Learning Rate" (arXiv 1902.09843),
    Algorithms 2 and 3:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2,  V_t = diag(v_t)
        hat eta_t = Clip(alpha / sqrt(V_t), eta_l(t), eta_u(t)),  eta_t = hat eta_t / sqrt(t)
        x_{t+1} = x_t - eta_t m_t

    and in Algorithm 3 hat v_t = max(hat v_{t-1}, v_t) in place of v_t in V_t. Here x is `theta`,
    m is the slot `momentum`, v the slot `velocity` and hat v the slot `velocity_hat`.

    Departures, all of them those of the authors' code:
    *   The bounds, of which the paper has examples, are with f for `final_learning_rate`
        eta_l(t) = f (1 - 1 / (gamma t + 1)) and eta_u(t) = f (1 + 1 / (gamma t)).
    *   alpha is multiplied by sqrt(1 - beta_2^t) / (1 - beta_1^t), and `epsilon` is added to the
        square root.
    *   eta_t is hat eta_t: there is no division by sqrt(t).
    *   There is no projection onto a feasible set.
    *   Weight decay is not in this paper.
    """
    x = np.array(theta, np.float64)
    alpha, f, lamda = learning_rate, final_learning_rate, weight_decay or 0.0
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    v_hat = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        x = x - alpha * lamda * x
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        v_hat = np.maximum(v_hat, v)
        alpha_t = alpha * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        # Where all is zero and so is epsilon, the upper bound holds.
        with np.errstate(divide="ignore"):
            rate = alpha_t / (np.sqrt(v_hat if amsgrad else v) + epsilon)
        eta = np.clip(rate, f * (1 - 1 / (gamma * t + 1)), f * (1 + 1 / (gamma * t)))
        x = x - eta * m
        slots = {"velocity_hat": v_hat} if amsgrad else {}
        yield copies(x, momentum=m, velocity=v, **slots)


def amsbound(
    theta,
    gradients,
    *,
    learning_rate,
    final_learning_rate,
    beta_1,
    beta_2,
    gamma,
    epsilon,
    weight_decay=None,
):
    """AMSBound, which is `adabound` with `amsgrad`."""
    return adabound(
        theta,
        gradients,
        learning_rate=learning_rate,
        final_learning_rate=final_learning_rate,
        beta_1=beta_1,
        beta_2=beta_2,
        gamma=gamma,
        epsilon=epsilon,
        amsgrad=True,
        weight_decay=weight_decay,
    )


def stableadamw(theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None):
    """StableAdamW.

    Wortsman et al., "Stable and low-precision training for large-scale vision-language models"
    (arXiv 2304.13013), Algorithm 2:

        hat beta_i = beta_i (1 - beta_i^{t-1}) / (1 - beta_i^t)
        v_t = hat beta_1 v_{t-1} + (1 - hat beta_1) g_t
        u_t = hat beta_2 u_{t-1} + (1 - hat beta_2) g_t^2
        RMS_t = sqrt(E[g_t^2 / max(u_t, epsilon^2)])
        eta_t = alpha_t / max(1, RMS_t)
        theta_t = theta_{t-1} - eta_t lambda theta_{t-1} - eta_t v_t / (sqrt(u_t) + epsilon)

    E is the mean over this variable. v is the slot `momentum` and u is the slot `velocity`: with
    the hat beta_i these are averages that have no bias.

    Unlike in the other references, weight decay is multiplied by eta_t, as in the paper.

    Departures:
    *   RMS_t of a variable without elements, whose mean would be 0 / 0, is 0.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, weight_decay or 0.0
    v = np.zeros_like(theta)
    u = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        beta_1_hat = beta_1 * (1 - beta_1 ** (t - 1)) / (1 - beta_1**t)
        beta_2_hat = beta_2 * (1 - beta_2 ** (t - 1)) / (1 - beta_2**t)
        v = beta_1_hat * v + (1 - beta_1_hat) * g
        u = beta_2_hat * u + (1 - beta_2_hat) * g**2
        rms = np.sqrt(np.mean(g**2 / np.maximum(u, epsilon**2))) if g.size else 0.0
        eta = alpha / max(1.0, rms)
        theta = theta - eta * lamda * theta - eta * v / (np.sqrt(u) + epsilon)
        yield copies(theta, momentum=v, velocity=u)


def madgrad(theta, gradients, *, learning_rate, momentum, epsilon, weight_decay=None):
    """MADGRAD.

    Defazio and Jelassi, "Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged
    Gradient Method for Stochastic Optimization" (arXiv 2101.11075), Algorithm 1, with k from 0:

        lambda_k = gamma_k sqrt(k + 1)
        s_{k+1} = s_k + lambda_k g_k
        nu_{k+1} = nu_k + lambda_k g_k^2
        z_{k+1} = x_0 - s_{k+1} / (cbrt(nu_{k+1}) + epsilon)
        x_{k+1} = (1 - c_{k+1}) x_k + c_{k+1} z_{k+1}

    Here x is `theta`, gamma is `learning_rate`, c is one minus `momentum`, s is the slot
    `gradient_sum`, nu the slot `squared_sum` and x_0 the slot `initial_weights`.

    Departures:
    *   Weight decay is not in this algorithm. The update does not add to the weights but averages
        them with others, so that a decay before it would be weakened by that. It is hence
        subtracted from the new weights, as `learning_rate` times `weight_decay` times the old ones,
        like in the authors' code.
    *   The authors' code adds epsilon to gamma, too. This does not.
    """
    x = np.array(theta, np.float64)
    gamma, c, decay = learning_rate, 1 - momentum, weight_decay or 0.0
    x_0 = x
    s = np.zeros_like(x)
    nu = np.zeros_like(x)
    for k, g in enumerate(gradients):
        if g is not None:
            g = np.asarray(g, np.float64)
            lamda = gamma * np.sqrt(k + 1)
            s = s + lamda * g
            nu = nu + lamda * g**2
            z = x_0 - s / (np.cbrt(nu) + epsilon)
            x = (1 - c) * x + c * z - gamma * decay * x
        yield copies(x, gradient_sum=s, squared_sum=nu, initial_weights=x_0)


def mars(theta, gradients, *, learning_rate, beta_1, beta_2, gamma, epsilon, weight_decay=None):
    """MARS-AdamW, in its approximate version.

    Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models"
    (arXiv 2411.10438), Algorithm 2, with the previous gradient in place of the gradient which the
    present data have at the previous weights:

        c_t = g_t + gamma beta_1 / (1 - beta_1) (g_t - g_{t-1})
        tilde c_t = c_t / ||c_t||_2 if ||c_t||_2 > 1 else c_t
        m_t = beta_1 m_{t-1} + (1 - beta_1) tilde c_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) tilde c_t^2
        hat m_t = m_t / (1 - beta_1^t),  hat v_t = v_t / (1 - beta_2^t)
        x_{t+1} = x_t - eta_t (hat m_t / (sqrt(hat v_t) + epsilon) + lambda x_t)

    Here x is `theta`, the norm is that of this variable, m is the slot `momentum`, v the slot
    `velocity` and g_t the slot `previous_gradient`. g_0 is 0, as in the authors' code.

    No departures but the common ones.
    """
    x = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    g_before = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        if g is None:
            yield copies(x, momentum=m, velocity=v, previous_gradient=g_before)
            continue
        g = np.array(g, np.float64)
        c = g + gamma * beta_1 / (1 - beta_1) * (g - g_before)
        c = c / max(1.0, np.sqrt(np.sum(c**2)))
        x = x - eta * lamda * x
        m = beta_1 * m + (1 - beta_1) * c
        v = beta_2 * v + (1 - beta_2) * c**2
        m_hat = m / (1 - beta_1**t)
        v_hat = v / (1 - beta_2**t)
        x = x - eta * m_hat / (np.sqrt(v_hat) + epsilon)
        g_before = g
        yield copies(x, momentum=m, velocity=v, previous_gradient=g)


def grams(theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None):
    """Grams.

    Cao, Li and Song, "Grams: Gradient Descent with Adaptive Momentum Scaling" (arXiv 2412.17107),
    the algorithm with Adam:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        hat m_t = m_t / (1 - beta_1^t),  hat v_t = v_t / (1 - beta_2^t)
        u_t = hat m_t / (sqrt(hat v_t) + epsilon)
        w_t = w_{t-1} - eta_t sign(g_t) |u_t|

    Here w is `theta`, m is the slot `momentum` and v is the slot `velocity`. The sign of 0 is 0.
    No departures but the common ones. The authors' code has `epsilon` where `adam` has it.
    """
    w = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(w)
    v = np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        w = w - eta * lamda * w
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        m_hat = m / (1 - beta_1**t)
        v_hat = v / (1 - beta_2**t)
        u = m_hat / (np.sqrt(v_hat) + epsilon)
        w = w - eta * np.sign(g) * np.abs(u)
        yield copies(w, momentum=m, velocity=v)


def sophia(
    theta,
    gradients,
    *,
    learning_rate,
    beta_1,
    beta_2,
    rho,
    epsilon,
    weight_decay=None,
    hessian_estimates=None,
):
    """Sophia.

    Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
    Pre-training" (arXiv 2305.14342), Algorithm 3:

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        h_t = beta_2 h_{t-1} + (1 - beta_2) hat h_t  in the steps with an estimate hat h_t of the
              diagonal of the Hessian, else h_{t-1}
        theta_t = theta_t - eta_t lambda theta_t
        theta_{t+1} = theta_t - eta_t clip(m_t / max(gamma h_t, epsilon), 1)

    Here gamma is `rho`, m is the slot `momentum` and h is the slot `hessian`.

    Departures:
    *   The estimates are not made here, and not in every k-th step: `hessian_estimates` has them
        by the number of the step, from 1. The numbers may be text, as the keys in JSON are.
    """
    theta = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    estimates = {int(t): estimate for t, estimate in (hessian_estimates or {}).items()}
    m = np.zeros_like(theta)
    h = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        m = beta_1 * m + (1 - beta_1) * g
        if t in estimates:
            h = beta_2 * h + (1 - beta_2) * np.asarray(estimates[t], np.float64)
        theta = theta - eta * lamda * theta
        theta = theta - eta * np.clip(m / np.maximum(rho * h, epsilon), -1, 1)
        yield copies(theta, momentum=m, hessian=h)


def _cautious(u, g):
    """What is left of an update u, given the gradient g.

    Liang et al., "Cautious Optimizers: Improving Training with One Line of Code" (arXiv
    2411.16085), Algorithm 1:

        phi = [u g > 0]
        u phi / (mean(phi) + eps)

    The mean is over this variable. Instead of adding eps, the mean is at least 1e-3, as in the
    authors' code, so that an update that agrees with the gradient everywhere stays as it is.
    """
    phi = (u * g > 0).astype(np.float64)
    return u * phi / max(np.mean(phi), 1e-3) if g.size else u


def cautious_adamw(theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None):
    """AdamW with cautious updates.

    AdamW as in `adamw`, of whose update

        u_t = hat m_t / (sqrt(hat v_t) + epsilon)

    only what `_cautious` makes of it is subtracted. The decay is of all weights.

    Departures:
    *   `epsilon` is, as in `adamw`, the epsilon_hat of Kingma and Ba.
    """
    theta = np.array(theta, np.float64)
    alpha, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        theta = theta - alpha * lamda * theta
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        u = np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
        theta = theta - alpha * _cautious(u, g)
        yield copies(theta, momentum=m, velocity=v)


def cautious_lion(theta, gradients, *, learning_rate, beta_1, beta_2, weight_decay=None):
    """Lion with cautious updates.

    Lion as in `lion`, of whose update u_t = sign(c_t) only what `_cautious` makes of it is
    subtracted. The decay is of all weights.
    """
    theta = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(theta)
    for g in gradients:
        g = np.asarray(g, np.float64)
        theta = theta - eta * lamda * theta
        u = np.sign(beta_1 * m + (1 - beta_1) * g)
        theta = theta - eta * _cautious(u, g)
        m = beta_2 * m + (1 - beta_2) * g
        yield copies(theta, momentum=m)


def cautious_decay_adamw(
    theta, gradients, *, learning_rate, beta_1, beta_2, epsilon, weight_decay=None
):
    """AdamW with cautious weight decay.

    Chen et al., "Cautious Weight Decay" (arXiv 2510.12402), with the update u_t of AdamW:

        x_{t+1} = x_t - eta_t (u_t + lambda [u_t x_t >= 0] x_t)

    Here x is `theta`. The weights, where they are compared and where they decay, are those before
    the update.

    Departures:
    *   `epsilon` is, as in `adamw`, the epsilon_hat of Kingma and Ba.
    """
    x = np.array(theta, np.float64)
    eta, lamda = learning_rate, weight_decay or 0.0
    m = np.zeros_like(x)
    v = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        u = np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
        x = x - eta * (u + lamda * (u * x >= 0) * x)
        yield copies(x, momentum=m, velocity=v)
