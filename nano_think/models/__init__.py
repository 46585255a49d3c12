"""Floor 3: whole models, put together from the rooms below."""
