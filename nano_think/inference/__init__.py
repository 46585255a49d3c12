"""Floor 4: models that answer."""
