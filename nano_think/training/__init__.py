"""Floor 4: one loop for everything that learns."""
