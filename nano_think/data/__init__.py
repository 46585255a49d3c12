"""Floor 3: text from its sources to windows of token ids: ingest -> tokenizer -> tokens -> loader."""
