"""Temperature scaling of probabilities (Guo et al., ICML 2017)."""

import numpy as np
from numpy.typing import NDArray

_SMALLEST = np.float32(1e-12)


def temper(probabilities: NDArray[np.float32], mode: str, temperature: float) -> NDArray[np.float32]:
    """Return probabilities K ... of logits divided by the temperature; masks stay as they are.

    In `mode` "labels" they are those of classes, in "regions" each channel stands for itself. What is certain, as
    the background outside the brain, stays so.
    """
    if temperature == 1:
        return probabilities
    powers = _power(probabilities, temperature)
    total = powers.sum(axis=0, keepdims=True) if mode == "labels" else powers + _power(1 - probabilities, temperature)
    tempered: NDArray[np.float32] = powers / total
    return tempered


def _power(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    powers: NDArray[np.float32] = np.maximum(probabilities, _SMALLEST) ** np.float32(1 / temperature)
    powers[probabilities <= 0] = 0
    return powers
