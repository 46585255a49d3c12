"""The mixture as a model of transformers: `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)`.

B batch, T tokens, D model width, K experts, V vocabulary
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from nano_think.experts import EXPERTS, build_expert, kind_of
from nano_think.export.configuration_nano_think import NanoThinkConfig
from nano_think.heads.language import LanguageHead
from nano_think.models.think import NanoThink, Routed, Router, RouterConfig
from nano_think.nn.documents import number_documents

PADDING = -1


@dataclass
class MixtureOutput(ModelOutput):
    """loss (), logits (B, T, V) in fp32, and the weights of the experts (B, T, K)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    weights: Tensor | None = None


class NanoThinkForCausalLM(PreTrainedModel, GenerationMixin):
    """A mixture of frozen experts under one head. Nothing is cached: each new token reads the text again."""

    config_class = NanoThinkConfig
    config: NanoThinkConfig
    _supports_sdpa = True

    def __init__(self, config: NanoThinkConfig):
        super().__init__(config)
        # On the processor even where transformers asks for empty weights: what is computed and not saved, such as the
        # frequencies of rotary positions, would be empty too.
        with torch.device("cpu"):
            self.mixture = build(config)
            saved = self.mixture.state_dict().keys()
            self._computed = {n: b.clone() for n, b in self.mixture.named_buffers() if n not in saved}
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Every weight is in the file; what is computed and not saved, transformers has emptied, and is put back."""
        buffers = dict(self.mixture.named_buffers())
        for name, values in self._computed.items():
            buffers[name].copy_(values)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> MixtureOutput:
        """Logits of the token after each; positions where `attention_mask` (B, T) is 0 are padding, seen by none."""
        documents_BT = number_documents(input_ids, self.config.start_token)
        if attention_mask is not None:
            documents_BT = documents_BT.masked_fill(attention_mask == 0, PADDING)
        x_BTD = self.mixture.head.embed(input_ids)
        streams_BTKD = self.mixture.streams(x_BTD, documents_BT)
        hidden_BTD, weights_BTK = self.mixture.router(x_BTD, streams_BTKD, documents_BT)
        logits_BTV = self.mixture.logits(Routed(hidden_BTD, weights_BTK, streams_BTKD))
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return MixtureOutput(loss=loss, logits=logits_BTV, weights=weights_BTK)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, *_: Any, attention_mask: Tensor | None = None, **__: Any
    ) -> dict[str, Tensor | None]:
        """All of the text, at every step: nothing of what a cache would need is taken."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def build(config: NanoThinkConfig) -> NanoThink:
    """The mixture of a configuration, with an empty head."""
    head = LanguageHead(torch.zeros(config.vocab_size, config.width), torch.zeros(config.vocab_size))
    kinds = {name: EXPERTS[kind_of(name)].Config for name in config.experts}
    experts = {name: build_expert(name, kinds[name](**shape), config.width) for name, shape in config.experts.items()}
    router = Router(RouterConfig(**config.router), config.width, len(experts))
    return NanoThink(head, experts, router, config.start_token)
