"""From a trained network and a case to a mask; `sliding_window` alone is pure functions on tensors."""
