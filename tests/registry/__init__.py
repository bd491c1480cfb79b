"""One entry per optimizer; every contract test is a product over `ENTRIES`.

Arguments are never the defaults: a test with the default proves nothing about the argument.
"""

from registry import addons, builtin, descendants, stateful, twins
from registry.entry import Entry

ENTRIES = [
    *builtin.ENTRIES,
    *twins.ENTRIES,
    *addons.ENTRIES,
    *descendants.ENTRIES,
    *stateful.ENTRIES,
]
# What differs in more than its formula: one slot, the usual, two passes, scalar state of each
# variable or of all, sums over all variables, slots that start as weights. Tests that have little
# to do with formulas run for these, and for all others among the long tests.
REPRESENTATIVE = (
    "SGD-nesterov",
    "AdamW",
    "Lamb",
    "NovoGrad",
    "Prodigy",
    "ScheduleFreeAdamW",
)
# Tests that are expensive, and marked `few`: the usual one, and one with all that is unusual but
# averaged weights, which have tests of their own. Where scalar state counts, NovoGrad has some of
# each variable.
FEW = ("AdamW", "Prodigy")
BY_NAME = {entry.name: entry for entry in ENTRIES}

__all__ = ["BY_NAME", "ENTRIES", "FEW", "REPRESENTATIVE", "Entry"]
