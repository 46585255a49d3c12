"""The verbs, by name: what each is for, and where its code is. Nothing here imports any of it."""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from nano_think.core.errors import UsageError, nearest

GROUP = "nano_think.verbs"


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of the command line. `target` is "module:function" of a function from arguments to an exit code."""

    summary: str
    target: str

    def __call__(self, arguments: list[str]) -> int:
        module, _, function = self.target.partition(":")
        return getattr(import_module(module), function)(arguments)


VERBS = {
    "dag": Verb("the graph of stages, for the terminal, Mermaid or Graphviz", "nano_think.cli.dag:main"),
    "lineage": Verb("what an artifact was made of, back to the text", "nano_think.cli.lineage:main"),
    "concepts": Verb("the texts nearest to a phrase by a chat model's concepts", "nano_think.cli.concepts:main"),
    "compare": Verb("two finished runs side by side: settings, figures, losses", "nano_think.cli.compare:main"),
    "completion": Verb(
        "a script that completes verbs and flags in bash, zsh or fish", "nano_think.cli.completion:main"
    ),
    "doctor": Verb("versions, ports, disk, devices, compiler: what a run needs", "nano_think.cli.doctor:main"),
    "gc": Verb("remove artifacts that no run to be kept was made of", "nano_think.cli.gc:main"),
    "plan": Verb("what a run would do, stage by stage, and why; nothing is made", "nano_think.cli.plan:main"),
    "generate": Verb(
        "write on from a prompt, with the experts' weights beside each token", "nano_think.cli.generate:main"
    ),
    "infill": Verb("fill a gap in a text by the diffuser, in sight of both sides", "nano_think.cli.infill:main"),
    "data": Verb("what the text is: stats, preview, check", "nano_think.cli.data:main"),
    "memory": Verb("what conversations have left: stats, search, forget, sleep, export", "nano_think.cli.memory:main"),
    "export": Verb("a Hugging Face folder, compared with the model", "nano_think.cli.export:main"),
    "chat": Verb("talk in the terminal, with a bar of the experts' weights", "nano_think.cli.chat:main"),
    "lm-eval": Verb("lm-eval's own command line, with our models and local tasks", "nano_think.cli.harness:main"),
    "serve": Verb("answer over HTTP as OpenAI's servers do, with a page to talk on", "nano_think.cli.serve:main"),
    "chat-eval": Verb(
        "how well a chat model answers, with chance levels and intervals", "nano_think.cli.chat_eval:main"
    ),
    "eval": Verb("bits per byte of JSON lines files, by domain and expert", "nano_think.cli.evaluate:main"),
}


def hand_over(group: str, about: str, verbs: dict[str, Verb], arguments: list[str]) -> int:
    """Run the verb below `group` that the first argument names; without one, or on request, tell what there is."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(group, about, verbs))
        return 0
    if arguments[0] not in verbs:
        raise UsageError(f"unknown verb '{group} {arguments[0]}'.{nearest(arguments[0], verbs)}")
    return verbs[arguments[0]](arguments[1:])


def _help(group: str, about: str, verbs: dict[str, Verb]) -> str:
    return "\n".join([
        f"usage: nano-think {group} VERB [options]", "",
        about, "",
        "verbs:", described(verbs), "",
        f"nano-think {group} VERB --help shows a verb's options with their types, defaults and units.",
    ])  # fmt: skip


def described(verbs: dict[str, Verb]) -> str:
    """A line for each verb, for the help."""
    return "\n".join(f"  {name:<10} {verb.summary}" for name, verb in verbs.items())


def all_verbs() -> dict[str, Verb]:
    """Our verbs and those that other packages bring through the entry-point group `nano_think.verbs`."""
    return dict(sorted(VERBS.items() | {(entry.name, entry.load()) for entry in entry_points(group=GROUP)}))
