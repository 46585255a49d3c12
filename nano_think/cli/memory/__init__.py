"""`nano-think memory stats|search|forget|sleep|export`: what conversations have left behind."""

from nano_think.cli.verbs import Verb, hand_over

VERBS = {
    "stats": Verb("what is remembered, of whom and for which model", "nano_think.cli.memory.stats:main"),
    "search": Verb("the entries nearest to a text", "nano_think.cli.memory.search:main"),
    "forget": Verb("erase conversations, or a namespace, from the disk", "nano_think.cli.memory.forget:main"),
    "sleep": Verb("merge near-duplicates within each conversation", "nano_think.cli.memory.sleep:main"),
    "export": Verb("the text of every turn, as JSON lines", "nano_think.cli.memory.export:main"),
}


def main(arguments: list[str]) -> int:
    """Hand over to the verb below."""
    return hand_over("memory", "What conversations have left behind, under ROOT/memory/.", VERBS, arguments)
