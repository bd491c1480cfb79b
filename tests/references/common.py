"""What references share."""

import numpy as np


def copies(theta, **slots):
    """What a reference yields after a step; a slot that is None, for nothing yet, as NaN."""
    unset = np.full_like(theta, np.nan)
    # np.array, as arithmetic on arrays without axes returns scalars.
    return np.array(theta), {n: np.array(unset if s is None else s) for n, s in slots.items()}
