"""Train a chat model: `nano-think sft`, by the name that the second design gives it."""

from nano_think.cli.doors import enter

if __name__ == "__main__":
    raise SystemExit(enter("sft"))
