"""Floor 2: a memory of what was read: vectors and what followed them."""
