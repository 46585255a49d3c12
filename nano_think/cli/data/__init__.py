"""`nano-think data stats|preview|check`: what the text is, before and after it has been read."""

from nano_think.cli.verbs import Verb, hand_over

VERBS = {
    "stats": Verb("documents, bytes, tokens, cleaning, lengths and licences", "nano_think.cli.data.stats:main"),
    "preview": Verb("a few documents as they are trained on", "nano_think.cli.data.preview:main"),
    "check": Verb("whether sources can be read, without reading them all", "nano_think.cli.data.check:main"),
}


def main(arguments: list[str]) -> int:
    """Hand over to the verb below."""
    return hand_over("data", "What the text is.", VERBS, arguments)
