"""A mixture as MLflow's pyfunc, from code: MLflow keeps this file and the model's folder."""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from nano_think.stages.talking import load


class Speaker(PythonModel):
    """Texts in, how each goes on out. params: `max_new_tokens`; `chat` (true: each is a message to be answered)."""

    def load_context(self, context: Any) -> None:
        self.talker = load(context.artifacts["model"])

    def predict(self, context, model_input, params=None):
        """Without types: MLflow would make a signature out of them, one that has no params."""
        texts, wanted = model_input.iloc[:, 0].tolist(), params or {}
        length = int(wanted.get("max_new_tokens", 64))
        return [self._say(text, length, bool(wanted.get("chat"))) for text in texts]

    def _say(self, text: str, length: int, chat: bool) -> str:
        if not chat:
            return self.talker.complete(text, length)
        self.talker.reset()
        return self.talker.chat(text, length)


set_model(Speaker())
