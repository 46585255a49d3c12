"""`nano-think VERB ...`: finds the verb, runs it, and turns errors into one line and an exit code."""

import atexit
import errno
import gc
import os
import signal
import sys
import traceback

from nano_think import __version__
from nano_think.cli.signals import leave_at_the_second_signal
from nano_think.cli.verbs import all_verbs, described
from nano_think.core.console import clean
from nano_think.core.errors import Interrupted, NanoThinkError, UsageError, nearest

DEBUG = "--debug"


def main() -> int:
    """The `nano-think` command; exit codes are listed in docs/exit-codes.md."""
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    debug = DEBUG in sys.argv
    leave_at_the_second_signal()
    # Without it the interpreter spends seconds on looking for garbage among all that torch and Prefect have made.
    atexit.register(gc.freeze)
    # Read when torch is first imported: threads that wait for each other sleep (see core/process.py).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(arguments)
    except NanoThinkError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt as error:
        stopped = Interrupted(getattr(error, "signum", signal.SIGINT))
        return _fail(str(stopped), stopped.exit_code, debug)
    except BrokenPipeError:
        # Whoever read our output has left; nothing is wrong, and nothing can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _fail(f"'{str(error.filename)[:60]}...': the name is too long for a file", 2, debug)
        return _fail(f"our own mistake: {type(error).__name__}: {error} (see it whole with {DEBUG})", 1, debug)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"nano-think {__version__}")
        return 0
    verbs = all_verbs()
    if arguments[0] not in verbs:
        raise UsageError(f"unknown verb '{arguments[0]}'.{nearest(arguments[0], verbs)}")
    return verbs[arguments[0]](arguments[1:])


def _help() -> str:
    return "\n".join([
        "usage: nano-think VERB [options]", "",
        "Train, take apart and compare small language models made of different kinds of experts.", "",
        "verbs:", described(all_verbs()), "",
        "nano-think VERB --help shows a verb's options with their types, defaults and units.",
        "--version prints the version; --debug, with any verb, shows a failure's traceback.",
    ])  # fmt: skip


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"nano-think: error: {clean(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
