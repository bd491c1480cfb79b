"""What runs in the same pass as a rule: scaling, clipping, weight decay, caution."""

from tf_optim_ext.rule import clip, maximum, reduce_mean, sign, square, where
from tf_optim_ext.rule.catch_up import NotConstant, catch_up

HYPERPARAMETERS = ("clipvalue", "weight_decay", "fully_decoupled_weight_decay")
FLAGS = ("cautious", "cautious_weight_decay")
NEEDS_ALL_ROWS = "its update needs norms or scalars of whole variables, and cannot treat rows alone"


class Unsupported(TypeError):
    """A rule cannot have an option; the message says why."""


def decay_rate(h, rate=None):
    """Fraction of a weight that decoupled weight decay takes away in a step.

    Args:
        h: as in a rule.
        rate: the step's effective learning rate; default: `h.learning_rate`.
    """
    rate = h.learning_rate if rate is None else rate
    return where(h.fully_decoupled_weight_decay != 0, 1.0, rate) * h.weight_decay


def decay(w, h, rate=None):
    """Decoupled weight decay; `rate` as of `decay_rate`."""
    return where(h.weight_decay != 0, w - decay_rate(h, rate) * w, w)


def subtract_decay(new, w, h):
    """Decoupled weight decay, of the old weights `w`, for a rule that does not start from them."""
    return where(h.weight_decay != 0, new - decay_rate(h) * w, new)


def squared(g, h):
    """The squares of the gradient; with `row_wise`, their mean over each row."""
    return reduce_mean(square(g)) if h.row_wise else square(g)


def complete(rule, stateful_decay, w, g, s, h):
    """The new weights: a rule with all transforms around it.

    Args:
        rule: a rule.
        stateful_decay: function of `w`, `s` and `h`: what the rule gets as `w`.
        w, g, s, h: as in a rule.
    """
    before = s.fresh()

    def decay(w, h):
        return stateful_decay(w, before, h)

    g = clip(g * h.gradient_scale, -h.clipvalue, h.clipvalue)
    if h.catch_up:
        try:
            w = catch_up(rule, decay, w, s, h)
        except NotConstant as error:
            raise Unsupported(f'`sparse="catch_up"` is not possible: {error}') from error
    if not h.cautious and not h.cautious_weight_decay:
        return rule(decay(w, h), g, s, h)
    if not h.cautious_weight_decay:
        start = decay(w, h)
        return start - _cautious(_difference(rule(start, g, s, h), start), g)
    update = _difference(rule(w, g, s, h), w)
    if h.cautious:
        update = _cautious(update, g)
    decayed = decay(w, h)
    if decayed is w:
        raise Unsupported(
            "`cautious_weight_decay` is not possible: its weight decay is a part of the update"
        )
    return where(sign(update) * sign(w) >= 0, decayed, w) - update


def _difference(new, start):
    """`start - new`, without rounding where the rule ends with this subtraction."""
    if new.op == "subtract" and new.args[0] is start:
        return new.args[1]
    if new.op == "add" and new.args[0] is start:
        return -new.args[1]
    return start - new


def _cautious(update, g):
    """Only where update and gradient agree, and longer by as much as is left out.

    Liang et al., *Cautious Optimizers*, arXiv:2411.16085; the bound is that of the authors' code.
    """
    # Signs, as the product of what is tiny would be 0.
    mask = where(sign(update) * sign(g) > 0, 1.0, 0.0)
    return update * mask / maximum(reduce_mean(mask), 1e-3)
