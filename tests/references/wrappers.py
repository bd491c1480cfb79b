"""What optimizers around others do to the weights that those give."""

import itertools

import numpy as np


def increments(reference, **arguments):
    """An optimizer A of Lookahead's paper: a function of gradients that returns what is added.

    Args:
        reference: one of the generators of this package whose update does not depend on the
            weights, but on gradients and state alone.
        **arguments: its keyword arguments.
    """
    pending = []

    def taken():
        while True:
            yield pending.pop()

    steps = None
    before = None

    def step(gradient):
        nonlocal steps, before
        gradient = np.asarray(gradient, np.float64)
        if steps is None:
            before = np.zeros_like(gradient)
            steps = reference(before, taken(), **arguments)
        pending.append(gradient)
        after, _ = next(steps)
        added, before = after - before, after
        return added

    return step


def lookahead(phi, gradients, A, *, k, alpha):
    """Lookahead.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (arXiv 1907.08610), Algorithm
    1: for t = 1, 2, ...

        theta_{t,0} = phi_{t-1}
        theta_{t,i} = theta_{t,i-1} + A(L, theta_{t,i-1}, d)        for i = 1 ... k
        phi_t = phi_{t-1} + alpha (theta_{t,k} - phi_{t-1})

    After i = k steps, the model holds phi_t, the next theta_{t+1,0}.

    Yields:
        theta, and phi as the slot `slow`.
    """
    phi = np.array(phi, np.float64)
    theta = phi.copy()
    for i, d in enumerate(gradients, start=1):
        theta = theta + A(d)
        if i % k == 0:
            phi = phi + alpha * (theta - phi)
            theta = phi.copy()
        yield theta.copy(), {"slow": phi.copy()}


def moving_average(weights, *, decay, start=0, num_updates=None, dynamic=False):
    """An exponential moving average with a delayed start and a decay that warms up.

    As TensorFlow Addons documents it. Before `start` updates, the average is the weights, which
    the slot, NaN, stands for.

    Args:
        weights: the weights before the first step, and after each one.
        decay: a number, or a function of the number of updates before.
        start, num_updates, dynamic: see `MovingAverage`.

    Yields:
        The average after each step.
    """
    average = None
    for n, (before, after) in enumerate(itertools.pairwise(weights)):
        if n < start:
            yield np.full_like(after, np.nan)
            continue
        average = before if average is None else average
        d = decay(n) if callable(decay) else decay
        if num_updates is not None:
            d = min(d, (1 + num_updates) / (10 + num_updates))
        if dynamic:
            d = min(d, (1 + n - start) / (10 + n - start))
        average = d * average + (1 - d) * after
        yield average


def swa(weights, *, start, period):
    """Stochastic weight averaging.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv
    1803.05407), section 3.2: w_SWA is the mean of the weights at every c-th iteration i.

    Args:
        weights: the weights before the first step, and after each one.
        start: number of updates before the one after which the first weights are taken.
        period: c.

    Yields:
        The mean after each step; NaN before the first weights are taken.
    """
    for n in range(1, len(weights)):
        taken = [weights[i] for i in range(start + 1, n + 1, period)]
        yield np.mean(taken, axis=0) if taken else np.full_like(weights[0], np.nan)
