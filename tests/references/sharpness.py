"""Sharpness-aware minimization around any reference.

A step has two gradients; the reference of the inner optimizer gets one, the gradient g' at the
weights w + e, or what GSAM makes of it. `theta` is a list of arrays, for the norms are over all of
them; `gradient` is a function from such a list to the list of gradients, of the loss in step t:
`gradient(t, theta)`.

*   Foret et al., "Sharpness-Aware Minimization" (arXiv 2010.01412), equation 2 with p = 2:
    e = rho g / ||g||.
*   Kwon et al., "ASAM" (arXiv 2102.11600), equation 4 with p = 2, and T_w + eta I for T_w, which is
    |w| for each element: e = rho T^2 g / ||T g||. The authors' code takes 1 for T of biases.
*   Zhuang et al., "Surrogate Gap Minimization" (arXiv 2203.08065), algorithm 1: e as in SAM,
    g = g_par + g_ort with respect to g', and the direction g' - alpha g_ort.

Where a norm is 0, the quotient with it is taken as 0.
"""

import numpy as np


def sam(theta, gradient, rho):
    """The perturbation e."""
    del theta
    return _scaled(gradient, rho, _norm(gradient))


def asam(theta, gradient, rho, eta, adaptive):
    """The perturbation e; `adaptive` tells for each array whether T is |w| + eta."""
    t_w = [np.abs(w) + eta if a else np.ones_like(w) for w, a in zip(theta, adaptive)]
    norm = _norm([t * g for t, g in zip(t_w, gradient)])
    return _scaled([t * t * g for t, g in zip(t_w, gradient)], rho, norm)


def gsam_direction(g, g_perturbed, alpha):
    """The direction of GSAM from both gradients."""
    square = _norm(g_perturbed) ** 2
    dot = sum(np.sum(a * b) for a, b in zip(g, g_perturbed))
    along = dot / square if square > 0 else 0.0
    orthogonal = [a - along * b for a, b in zip(g, g_perturbed)]
    return [b - alpha * o for b, o in zip(g_perturbed, orthogonal)]


def gsam_rho(rate, rho_max, rho_min, rate_max, rate_min):
    """Equation 8: rho follows the learning rate."""
    return rho_min + (rho_max - rho_min) * (rate - rate_min) / (rate_max - rate_min)


def trained(theta, gradient, steps, inner, perturbation, direction=None, *, joint=False):
    """Weights and slots after each step: pairs of lists, with one element for each array.

    Args:
        theta: list of arrays, the initial weights.
        gradient: see above.
        steps: how many.
        inner: function from initial weights and an iterable of gradients to the generator of a
            reference; of lists of arrays, if it is a `joint` one, and else of arrays.
        perturbation: function of the number of the step, weights and gradients.
        direction: function of both gradients. Default: the second.
    """
    theta = [np.asarray(w, np.float64) for w in theta]
    given = []

    def gradients_of(i):
        while True:
            yield given[-1][i]

    def gradients_of_all():
        while True:
            yield given[-1]

    if joint:
        of_all = inner(theta, gradients_of_all())
    else:
        of_each = [inner(w, gradients_of(i)) for i, w in enumerate(theta)]
    for t in range(steps):
        g = gradient(t, theta)
        moved = [w + e for w, e in zip(theta, perturbation(t, theta, g))]
        g_perturbed = gradient(t, moved)
        given.append(direction(g, g_perturbed) if direction else g_perturbed)
        if joint:
            theta, slots, _ = next(of_all)
        else:
            theta, slots = zip(*map(next, of_each))
        yield list(theta), list(slots)


def _norm(arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


def _scaled(arrays, length, norm):
    return [length / norm * a if norm > 0 else 0.0 * a for a in arrays]
