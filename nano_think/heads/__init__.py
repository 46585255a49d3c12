"""Between layers and experts: what turns hidden states into predictions."""
