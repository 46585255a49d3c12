"""Floor 0: what every other room stands on, and what knows none of them."""
