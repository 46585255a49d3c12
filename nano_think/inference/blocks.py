"""Writing many tokens at once with the diffuser: a block from noise, block after block, or into a gap.

B batch, K tokens of a block, D model width
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nano_think.experts.diffuser import Diffuser, DiffuserCache
from nano_think.heads.language import LanguageHead
from nano_think.nn.cache import Timeline
from nano_think.nn.documents import number_documents
from nano_think.nn.noise import bayes_skip, noise_window, signal_and_noise

Answer = Callable[[Tensor, Tensor], Tensor]
"""Hidden states without the skip term of a block that reads x at a log-SNR."""


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

    The tokens are drawn from the last answer of `denoise`, each by itself. With one step of one token that is
    next-token sampling.

    shift: how many positions behind the cache's end the block stands; minus the length of what follows a gap.
    """
    ahead = timeline.ahead(size)
    noise_BKD = torch.randn(len(ahead.documents_BS), size, head.width, generator=generator).to(head.table.device)
    query_BKD = expert.answer(torch.zeros_like(noise_BKD), None, ahead, cache, shift)

    def answer(x_BKD: Tensor, log_snr: Tensor) -> Tensor:
        return expert.answer(x_BKD, log_snr, ahead, cache, shift)

    p_SV = head.logits(denoise(expert, head, answer, query_BKD, noise_BKD, steps)).softmax(dim=-1).flatten(0, 1).cpu()
    return torch.multinomial(p_SV, 1, generator=generator).view(-1, size).to(head.table.device)


def denoise(expert: Diffuser, head: LanguageHead, answer: Answer, query: Tensor, noise: Tensor, steps: int) -> Tensor:
    """The hidden states of a block, (B, K, D) or (K, D) like its noise, after `steps` answers of the denoiser.

    DDIM (Song et al. 2021, eq. 12 with sigma = 0): z' = alpha' x0 + sigma' (z - alpha x0) / sigma with x0 = E[x0 | z],
    from pure noise over levels that gain equal information. The first answer is `query`, when z says nothing yet.
    """
    low, high = noise_window(*head.table.shape)
    levels = low + (high - low) * expert.levels.place(torch.arange(steps, device=noise.device) / steps)
    z, hidden, alpha, sigma = noise, query, noise.new_zeros(1), noise.new_ones(1)
    for level in levels[1:]:
        x, (next_alpha, next_sigma) = head.expect(hidden), signal_and_noise(level)
        z = next_alpha * x + next_sigma * (z - alpha * x) / sigma
        alpha, sigma, skip = next_alpha, next_sigma, bayes_skip(z, level)
        hidden = answer(head.expect(skip), level).float() + skip
    return hidden


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
