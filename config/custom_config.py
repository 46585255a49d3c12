"""Settings of a chat model: every name here is a setting, laid over the preset. `--print-config` shows what results.

    python scripts/chat_sft.py --config config/custom_config.py

A YAML or TOML file with the same keys does as well. What each setting means: `nano-think sft --help`.
"""

preset = "chat"

space = {"width": 128, "window": 256}
backbone = {"n_layers": 4, "n_heads": 4, "inner": 384}

# Chats of your own: "chats:PATH/*.jsonl", rows of {"messages": [{"role": "user", "content": "..."}, ...]}.
chats = {"sources": ["starter_chat"]}

sft = {"tokens": 1_200_000}
evaluate = {"tasks": ["spelling", "sums"]}
