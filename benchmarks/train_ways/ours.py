"""nano_think's models as they are compared: with a table that learns, as the peers have it, and as they ship."""

import torch
from torch import Tensor, nn

from nano_think.experts import Expert, ExpertConfig, build_expert
from nano_think.experts.diffuser import DiffuserConfig
from nano_think.experts.state_space import StateSpaceConfig
from nano_think.experts.transformer import TransformerConfig
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.nn.documents import number_documents
from nano_think.training.objectives.expert import ExpertObjective
from train_ways.shape import Shape

# No token of the comparison begins a document: every window is one.
NO_START = -1


class Trained(nn.Module):
    """An expert between a tied table that learns: windows (B, T + 1) to the mean loss."""

    def __init__(self, expert: Expert, shape: Shape):
        super().__init__()
        self.expert = expert
        self.table = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * 0.02)
        self.register_buffer("bias", torch.zeros(shape.vocabulary))

    def forward(self, tokens_BT1: Tensor) -> Tensor:
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        head = LanguageHead(self.table, self.bias)
        hidden_BTD = self.expert(head.embed(inputs_BT), number_documents(inputs_BT, NO_START))
        # Products of the head are in the precision of the states, and the peers' are in that of autocast.
        if torch.is_autocast_enabled("cpu"):
            hidden_BTD = hidden_BTD.to(torch.get_autocast_dtype("cpu"))
        # The head divides by sqrt(D), which the peers do not.
        return head.mean_nll(hidden_BTD * head.width**0.5, targets_BT, torch.ones_like(targets_BT))


class Shipped(nn.Module):
    """An expert under the frozen head, as the pipeline trains it: windows (B, T + 1) to the loss."""

    def __init__(self, expert: Expert, shape: Shape):
        super().__init__()
        table_VD = normalise_table(torch.randn(shape.vocabulary, shape.width))
        head = LanguageHead(table_VD, torch.full((shape.vocabulary,), 1 / shape.vocabulary).log())
        self.objective = ExpertObjective(expert, head, NO_START)

    def forward(self, tokens_BT1: Tensor) -> Tensor:
        return torch.stack(list(self.objective(tokens_BT1, 0.0).values())).sum()


def build_llama(shape: Shape) -> Trained:
    """The transformer expert without what Llama has not: norms of queries and keys, and a last projection."""
    expert = build_transformer(shape)
    for block in expert.blocks:
        block.attention.norm_q = block.attention.norm_k = nn.Identity()
    expert.out = nn.Identity()
    return Trained(expert, shape)


def copy_llama(model: Trained, peer: nn.Module) -> None:
    """Give `build_llama`'s model the weights of Hugging Face's."""
    theirs = dict(peer.named_parameters())

    def put(parameter: Tensor, *names: str) -> None:
        parameter.copy_(torch.cat([theirs[f"model.model.{name}.weight"] for name in names]))

    with torch.no_grad():
        put(model.table, "embed_tokens")
        put(model.expert.norm.weight, "norm")
        for i, block in enumerate(model.expert.blocks):
            put(block.norm_attention.weight, f"layers.{i}.input_layernorm")
            put(block.norm_mlp.weight, f"layers.{i}.post_attention_layernorm")
            put(block.attention.qkv.weight, *(f"layers.{i}.self_attn.{name}_proj" for name in "qkv"))
            put(block.attention.out.weight, f"layers.{i}.self_attn.o_proj")
            put(block.mlp.gate_up.weight, *(f"layers.{i}.mlp.{name}_proj" for name in ("gate", "up")))
            put(block.mlp.down.weight, f"layers.{i}.mlp.down_proj")


def build_mamba(shape: Shape) -> Trained:
    """The state-space expert in its S6 form, without the last projection, which mambapy has not."""
    expert = build_state_space(shape, "s6")
    expert.out = nn.Identity()
    return Trained(expert, shape)


def copy_mamba(mixer: nn.Module, peer: nn.Module) -> None:
    """Give one mixer the weights of a peer's; mambapy and Hugging Face call them by the same names."""
    theirs = dict(peer.named_parameters())
    with torch.no_grad():
        mixer.project.weight.copy_(theirs["in_proj.weight"])
        # Ours begins with the weight of the token itself, theirs ends with it.
        mixer.conv.weight.copy_(theirs["conv1d.weight"][:, 0].flip(1).T)
        mixer.conv.bias.copy_(theirs["conv1d.bias"])
        mixer.select.weight.copy_(theirs["x_proj.weight"])
        mixer.step.weight.copy_(theirs["dt_proj.weight"])
        mixer.step_bias.copy_(theirs["dt_proj.bias"])
        mixer.log_A.copy_(theirs["A_log"])
        mixer.skip.copy_(theirs["D"])
        mixer.out.weight.copy_(theirs["out_proj.weight"])


class MambaLayer(nn.Module):
    """x + mixer(RMSNorm(x)): (B, T, D) -> (B, T, D), over windows of one document each."""

    def __init__(self, shape: Shape, form: str):
        super().__init__()
        stack = build_state_space(shape, form)
        self.norm, self.mixer = stack.norms[0], stack.mixers[0]

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.mixer(self.norm(x_BTD), torch.zeros(x_BTD.shape[:2], dtype=torch.long))


def build_transformer(shape: Shape) -> Expert:
    config = TransformerConfig(n_layers=shape.layers, n_heads=shape.heads, inner=shape.inner)
    return build_expert("transformer", config, shape.width)


def build_diffuser(shape: Shape, next_token_share: float) -> Expert:
    """The diffuser, with the share of steps whose blocks are single tokens."""
    config = DiffuserConfig(
        n_layers=shape.layers, n_heads=shape.heads, inner=shape.inner, next_token_share=next_token_share
    )
    return build_expert("diffuser", config, shape.width)


def build_state_space(shape: Shape, form: str) -> Expert:
    """The state-space expert with twice the width inside and 16 states per channel, as the peers have it."""
    config: ExpertConfig = StateSpaceConfig(n_layers=shape.layers, form=form, inner=2 * shape.width, n_state=16)
    return build_expert("state_space", config, shape.width)
