"""How time grows with the size of the work."""

import numpy as np


def growth_exponent(seconds: dict[int, float]) -> float | None:
    """The k of seconds ~ size^k, fitted on logarithms; `None` of fewer than two sizes."""
    if len(seconds) < 2:
        return None
    return float(np.polyfit(np.log([*seconds]), np.log([*seconds.values()]), 1)[0])
