"""How well a model talks: bits per byte of held-out chats, choices by likelihood, answers to questions, programs."""
