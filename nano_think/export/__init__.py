"""Floor 6: a trained mixture in the form that others read."""
