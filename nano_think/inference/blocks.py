"""Writing many tokens at once with the diffuser: a block from noise, block after block, or into a gap.

B batch, K tokens of a block, D model width
"""

import torch
from torch import Tensor

from nano_think.experts.diffuser import Diffuser, DiffuserCache
from nano_think.heads.language import LanguageHead
from nano_think.nn.cache import Timeline
from nano_think.nn.documents import number_documents
from nano_think.nn.noise import bayes_skip, noise_window, signal_and_noise


@torch.inference_mode()
def draw_block(
    expert: Diffuser,
    head: LanguageHead,
    timeline: Timeline,
    cache: DiffuserCache,
    size: int,
    steps: int = 10,
    generator: torch.Generator | None = None,
    shift: int = 0,
) -> Tensor:
    """Draw the next `size` tokens of every row, (B, K), in `steps` answers of the denoiser; nothing is kept of it.

    DDIM (Song et al. 2021, eq. 12 with sigma = 0): z' = alpha' x0 + sigma' (z - alpha x0) / sigma with x0 = E[x0 | z],
    from pure noise over levels that gain equal information. The first answer is the query's, when z says nothing
    yet; the tokens are drawn from the last, each by itself. With one step of one token that is next-token sampling.

    shift: how many positions behind the cache's end the block stands; minus the length of what follows a gap.
    """
    ahead, device = timeline.ahead(size), head.table.device
    low, high = noise_window(*head.table.shape)
    levels = low + (high - low) * expert.levels.place(torch.arange(steps, device=device) / steps)
    noise_BKD = torch.randn(len(ahead.documents_BS), size, head.width, generator=generator)
    z_BKD, alpha, sigma = noise_BKD.to(device), torch.zeros(1, device=device), torch.ones(1, device=device)
    hidden_BKD = expert.answer(torch.zeros_like(z_BKD), None, ahead, cache, shift)
    for level in levels[1:]:
        x_BKD, (next_alpha, next_sigma) = head.expect(hidden_BKD), signal_and_noise(level)
        z_BKD = next_alpha * x_BKD + next_sigma * (z_BKD - alpha * x_BKD) / sigma
        alpha, sigma, skip_BKD = next_alpha, next_sigma, bayes_skip(z_BKD, level)
        hidden_BKD = expert.answer(head.expect(skip_BKD), level, ahead, cache, shift).float() + skip_BKD
    p_SV = head.logits(hidden_BKD).softmax(dim=-1).flatten(0, 1).cpu()
    return torch.multinomial(p_SV, 1, generator=generator).view(-1, size).to(device)


@torch.inference_mode()
def write_blocks(
    expert: Diffuser,
    head: LanguageHead,
    tokens_BT: Tensor,
    start_token: int,
    blocks: int,
    size: int,
    steps: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`blocks` blocks of `size` tokens behind what is given, (B, T), each behind the clean rows of the ones before:
    (B, blocks * K).
    """
    B, T = tokens_BT.shape
    timeline, drawn = Timeline(B, T + blocks * size, tokens_BT.device), []
    cache = expert.start(B, timeline.capacity)
    for _ in range(blocks):
        expert.extend(head.embed(tokens_BT), timeline.append(timeline.number(tokens_BT, start_token)), cache)
        tokens_BT = draw_block(expert, head, timeline, cache, size, steps, generator)
        drawn.append(tokens_BT)
    return torch.cat(drawn, dim=1)


@torch.inference_mode()
def fill_gap(
    expert: Diffuser,
    head: LanguageHead,
    before_BT: Tensor,
    after_BT: Tensor,
    start_token: int,
    size: int,
    steps: int = 10,
    generator: torch.Generator | None = None,
    block: int | None = None,
) -> Tensor:
    """`size` tokens between what comes before and what comes after, (B, K), in sight of both.

    What follows the gap is read first, at its own positions, as in training (`infill_share`): rows behind the gap have
    then never seen it, and nothing leaks. A gap of more than `block` tokens is filled block after block, each in sight
    of those before it.
    """
    B, suffix = after_BT.shape
    timeline = Timeline(B, before_BT.shape[1] + suffix + size, before_BT.device)
    cache, documents_BT = expert.start(B, timeline.capacity), number_documents(before_BT, start_token)
    expert.extend(head.embed(before_BT), timeline.append(documents_BT), cache)
    if suffix:
        documents_BT = documents_BT[:, -1:].expand(-1, suffix)
        expert.extend(head.embed(after_BT), timeline.append(documents_BT), cache, shift=size)
    drawn = [draw_block(expert, head, timeline, cache, min(block or size, size), steps, generator, shift=-suffix)]
    while (left := size - sum(part.shape[1] for part in drawn)) > 0:
        documents_BT = documents_BT[:, -1:].expand(-1, drawn[-1].shape[1])
        expert.extend(head.embed(drawn[-1]), timeline.append(documents_BT), cache, shift=-suffix)
        drawn.append(draw_block(expert, head, timeline, cache, min(block or size, left), steps, generator, -suffix))
    return torch.cat(drawn, dim=1)
