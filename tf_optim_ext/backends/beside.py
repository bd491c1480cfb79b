"""What a step runs beside its rule, over the same segment of memory."""

import dataclasses
from typing import Any

SUMS, AVERAGES = "gradient_accumulator", "average"


@dataclasses.dataclass(frozen=True)
class Beside:
    """Programs that run before and after a rule.

    Attributes:
        has_sums: whether the gradients are summed in slots: the rule gets the sums, which are zero
            after the step.
        scale: factor of the gradients that the step adds to the sums; None: they are there already.
        momentum: that of the averages of the weights; None: the step does not update them.
    """

    has_sums: bool = False
    scale: Any = None
    momentum: Any = None

    @property
    def takes_gradients(self):
        """Whether the step needs gradients beside the sums."""
        return not self.has_sums or self.scale is not None

    @property
    def slots(self):
        """Names of the slots that it works on."""
        return (SUMS,) * self.has_sums + (AVERAGES,) * (self.momentum is not None)


NOTHING = Beside()
