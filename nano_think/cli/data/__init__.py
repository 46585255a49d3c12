"""`nano-think data stats|preview|check`: what the text is, before and after it has been read."""

from nano_think.cli.verbs import Verb, described
from nano_think.core.errors import UsageError, nearest

VERBS = {
    "stats": Verb("documents, bytes, tokens, cleaning, lengths and licences", "nano_think.cli.data.stats:main"),
    "preview": Verb("a few documents as they are trained on", "nano_think.cli.data.preview:main"),
    "check": Verb("whether sources can be read, without reading them all", "nano_think.cli.data.check:main"),
}


def main(arguments: list[str]) -> int:
    """Hand over to the verb below."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] not in VERBS:
        raise UsageError(f"unknown verb 'data {arguments[0]}'.{nearest(arguments[0], VERBS)}")
    return VERBS[arguments[0]](arguments[1:])


def _help() -> str:
    return "\n".join([
        "usage: nano-think data VERB [options]", "",
        "What the text is.", "",
        "verbs:", described(VERBS), "",
        "nano-think data VERB --help shows a verb's options with their types, defaults and units.",
    ])  # fmt: skip
