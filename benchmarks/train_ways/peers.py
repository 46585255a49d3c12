"""What others would train: Hugging Face's Llama and Mamba, and mambapy, as they come."""

import torch
from mambapy.mamba import Mamba, MambaConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import MambaConfig as HuggingFaceMambaConfig
from transformers.models.mamba.modeling_mamba import MambaBlock

from train_ways.shape import Shape


class Llama(nn.Module):
    """Windows (B, T + 1) to the mean loss, in the way of `transformers`: all logits, then plain cross-entropy."""

    def __init__(self, shape: Shape):
        super().__init__()
        config = LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads, max_position_embeddings=shape.window,
            tie_word_embeddings=True, use_cache=False, rms_norm_eps=torch.finfo(torch.float32).eps,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config)

    def forward(self, tokens_BT1: Tensor) -> Tensor:
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:].contiguous()
        return self.model(input_ids=inputs_BT, labels=inputs_BT, shift_labels=targets_BT).loss


class MambaPy(nn.Module):
    """mambapy's stack between a tied token table and plain cross-entropy."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.table = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * 0.02)
        self.stack = Mamba(
            MambaConfig(d_model=shape.width, n_layers=shape.layers, rms_norm_eps=torch.finfo(torch.float32).eps)
        )
        self.norm = nn.RMSNorm(shape.width)

    def forward(self, tokens_BT1: Tensor) -> Tensor:
        hidden_BTD = self.norm(self.stack(self.table[tokens_BT1[:, :-1]]))
        return cross_entropy((hidden_BTD @ self.table.T).flatten(0, 1), tokens_BT1[:, 1:].flatten())


def build_mamba_layer(shape: Shape) -> nn.Module:
    """One layer of Hugging Face's Mamba; on a CPU its scan is a loop over tokens."""
    eps = torch.finfo(torch.float32).eps
    config = HuggingFaceMambaConfig(hidden_size=shape.width, num_hidden_layers=1, layer_norm_epsilon=eps)
    layer = MambaBlock(config, layer_idx=0)
    layer.mixer.init_mamba_weights()
    return layer
