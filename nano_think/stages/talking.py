"""Talking to a trained mixture from Python: `nano_think.load("path").chat("hi")`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nano_think.core.errors import ArtifactError
from nano_think.data.tokenizer_chat import CHAT
from nano_think.inference.dialogue import encode_fitting, last_turn
from nano_think.inference.engine import Engine
from nano_think.inference.ranking import best_of
from nano_think.inference.request import Event, Memory, Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.parts import Dials
from nano_think.stages.opening import Opened, open_model

USUAL = SamplingConfig()


class Talker:
    """A conversation with a mixture. `messages` is what was said; `names` are the experts, in the order of weights."""

    def __init__(self, opened: Opened, engine: Engine):
        self.opened, self.engine = opened, engine
        self.messages: list[dict[str, str]] = []

    @property
    def names(self) -> list[str]:
        return self.engine.names

    @property
    def dials(self) -> list[str]:
        """What can be steered."""
        return self.engine.dials

    @property
    def figures(self) -> list[str]:
        """What the model's parts tell of each token."""
        return self.engine.figures

    def chat(self, text: str, max_new_tokens: int = 128, sampling: SamplingConfig = USUAL) -> str:
        """What it answers; both sides are kept for the next turn."""
        return "".join(event.text for event in self.stream(text, max_new_tokens, sampling))

    def stream(
        self,
        text: str,
        max_new_tokens: int = 128,
        sampling: SamplingConfig = USUAL,
        memory: Memory = "off",
        namespace: str = "default",
        psyche: Dials | None = None,
        best: int = 1,
    ) -> Iterator[Event]:
        """`chat` token by token, steered by `psyche` where the model has one; of `best` answers that of the lowest
        energy, when all are there. Who stops reading ends the answer: what was said until then is kept. Of a turn that
        fails nothing is.
        """
        wanted = [*self.messages, {"role": "user", "content": text}]
        special = self.opened.tokenizer.special
        ids = encode_fitting(wanted, self.opened.tokenizer, self.opened.shape.window)
        request = Request(
            prompt=tuple(ids), turn=last_turn(ids, self.opened.tokenizer),
            max_new_tokens=max_new_tokens, sampling=sampling, stop_tokens=tuple(special[name] for name in CHAT),
            memory=memory, namespace=namespace, psyche=psyche or {},
        )  # fmt: skip
        said, failed = list[str](), False
        try:
            for event in self._answer(request, best):
                said.append(event.text)
                yield event
        except Exception:
            failed = True
            raise
        finally:
            if not failed:
                self.messages = [*wanted, {"role": "assistant", "content": "".join(said)}]

    def complete(self, prompt: str, max_new_tokens: int = 128, sampling: SamplingConfig = USUAL) -> str:
        """How a text goes on; nothing is kept."""
        ids = tuple(self.opened.tokenizer.encode_document(prompt))
        request = Request(prompt=ids, max_new_tokens=max_new_tokens, sampling=sampling)
        return "".join(event.text for event in self._answer(request))

    def reset(self, messages: Sequence[dict[str, str]] = ()) -> None:
        """Begin anew, or from what was said before."""
        self.messages = list(messages)

    def _answer(self, request: Request, best: int = 1) -> Iterator[Event]:
        for event in self.engine.stream(request) if best == 1 else best_of(self.engine, request, best):
            if event.finish == "error":
                raise event.failure or ArtifactError(event.error)
            yield event


def load(model: str | Path = "latest", root: str | Path = "artifacts") -> Talker:
    """The mixture of a folder, or the newest one under a root, ready to talk; memory is off."""
    opened = open_model(str(model), Path(root))
    return Talker(opened, opened.engine(rows=1))
