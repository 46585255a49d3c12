"""Floor 1: layers, (B, T, D) in and out, that know nothing of experts, data or training."""
