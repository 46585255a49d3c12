"""Floor 2: what turns hidden states into predictions."""
