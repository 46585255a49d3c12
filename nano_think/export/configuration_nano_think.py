"""The shape of an exported mixture, as transformers reads it."""

from typing import Any

from transformers import PreTrainedConfig


class NanoThinkConfig(PreTrainedConfig):
    """width: model width; window: longest context that was trained (tokens); start_token: opens every document;
    router and experts: their configurations, as in the library.
    """

    model_type = "nano_think"

    def __init__(
        self,
        width: int = 0,
        vocab_size: int = 0,
        window: int = 0,
        start_token: int = 0,
        router: dict[str, Any] | None = None,
        experts: dict[str, dict[str, Any]] | None = None,
        **others: Any,
    ):
        self.width = self.hidden_size = width
        self.vocab_size = vocab_size
        self.window = self.max_position_embeddings = window
        self.start_token = start_token
        self.router, self.experts = router or {}, experts or {}
        self.num_hidden_layers = max((int(one["n_layers"]) for one in self.experts.values()), default=0)
        super().__init__(**others)
