"""Floor 5: what a model is worth, in bits per byte of text that it has not seen."""
