"""`nano-think memory stats|search|forget|sleep|export`: what conversations have left behind."""

from nano_think.cli.verbs import Verb, described
from nano_think.core.errors import UsageError, nearest

VERBS = {
    "stats": Verb("what is remembered, of whom and for which model", "nano_think.cli.memory.stats:main"),
    "search": Verb("the entries nearest to a text", "nano_think.cli.memory.search:main"),
    "forget": Verb("erase conversations, or a namespace, from the disk", "nano_think.cli.memory.forget:main"),
    "sleep": Verb("merge near-duplicates", "nano_think.cli.memory.sleep:main"),
    "export": Verb("the text of every turn, as JSON lines", "nano_think.cli.memory.export:main"),
}


def main(arguments: list[str]) -> int:
    """Hand over to the verb below."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] not in VERBS:
        raise UsageError(f"unknown verb 'memory {arguments[0]}'.{nearest(arguments[0], VERBS)}")
    return VERBS[arguments[0]](arguments[1:])


def _help() -> str:
    return "\n".join([
        "usage: nano-think memory VERB [options]", "",
        "What conversations have left behind, under ROOT/memory/.", "",
        "verbs:", described(VERBS), "",
        "nano-think memory VERB --help shows a verb's options with their types, defaults and units.",
    ])  # fmt: skip
