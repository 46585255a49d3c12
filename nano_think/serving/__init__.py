"""Floor 8: a model behind HTTP: an OpenAI-compatible interface and a page to talk on."""
