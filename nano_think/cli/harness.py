"""`nano-think lm-eval`: lm-eval's own command line, with our models and local tasks."""

import sys

from nano_think.core.errors import UsageError


def main(arguments: list[str]) -> int:
    """Hand the arguments over; lm-eval reads the command line itself."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError:
        raise UsageError("lm-eval is not installed; install it with: pip install 'nano_think[eval]'") from None
    from nano_think.evaluation import harness

    sys.argv = ["lm_eval", *arguments]
    if arguments and arguments[0].startswith("-") and "--include_path" not in arguments:
        sys.argv += ["--include_path", str(harness.TASKS)]
    cli_evaluate()
    return 0
