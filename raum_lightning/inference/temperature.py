"""Temperature scaling of probabilities (Guo et al., ICML 2017)."""

import numpy as np
from numpy.typing import NDArray

_SMALLEST = np.float32(1e-12)


def temper(probabilities: NDArray[np.float32], mode: str, temperature: float) -> NDArray[np.float32]:
    """Return probabilities K ... of logits divided by the temperature; masks stay as they are.

    In `mode` "labels" they are those of classes, in "regions" each channel stands for itself.
    """
    if temperature == 1:
        return probabilities
    powers = np.maximum(probabilities, _SMALLEST) ** np.float32(1 / temperature)
    if mode == "labels":
        total = powers.sum(axis=0, keepdims=True)
    else:
        total = powers + np.maximum(1 - probabilities, _SMALLEST) ** np.float32(1 / temperature)
    tempered: NDArray[np.float32] = powers / total
    return tempered
