"""The likelihoods of the diffuser, which are never mixed up: exact, bounded, factorised.

B windows, T rows, D model width
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from nano_think.evaluation.reading import Document, windows
from nano_think.experts.diffuser import Diffuser, noisy, queries
from nano_think.heads.language import LanguageHead
from nano_think.nn.documents import number_documents
from nano_think.nn.noise import add_noise, bayes_skip, noise_window


class Rows(NamedTuple):
    """A batch of windows as the denoiser takes it: inputs embedded, targets, and documents, (B, T) each but x."""

    x_BTD: Tensor
    targets_BT: Tensor
    documents_BT: Tensor


def one_step(expert: Diffuser, head: LanguageHead, rows: Rows) -> Tensor:
    """-log p(x_t | x_<t) in nats, (B, T), by query mode: exact, no bound and no sampling.

    The denoiser's posterior at zero signal, p(x_t | z = 0, x_<t) with blocks of one, is a next-token distribution.
    """
    return head.nll(expert(rows.x_BTD, rows.documents_BT), rows.targets_BT)


def factorised(expert: Diffuser, head: LanguageHead, rows: Rows, block: int) -> Tensor:
    """-log p(x_t | what came before its block) in nats, (B, T): all tokens of a block at once and independently.

    An exact likelihood of the block, -log prod_t p(x_t | past), of a model that does without any dependence inside it.
    """
    noise = queries(rows.x_BTD, _blocks(rows, block), rows.documents_BT)
    return head.nll(expert.denoise(rows.x_BTD, rows.documents_BT, noise), rows.targets_BT)


def elbo(expert: Diffuser, head: LanguageHead, rows: Rows, block: int, strata: int) -> Tensor:
    """A draw of the bound on -log p(block | past) in nats, by token, (B, T); the sum over a block bounds its joint
    likelihood.

    KL(q(z | x) at the noisiest level || N(0, I)) + 1/2 int e^lambda E |x0 - E[x0 | z]|^2 dlambda + E[-log p(x | z)] at
    the cleanest level (Kingma et al. 2021, eq. 11 and 15, in continuous time), with E[x0 | z] = sum_v p(v | z, past)
    e_v. The integral over the noise window is drawn once in each of `strata` equal parts, one level per block.

    Blocks of one are answered by Bayes' rule from the query, p(v | z, past) ~ p(v | past) N(z; alpha e_v, sigma^2):
    then the bound is tight (the I-MMSE identity, Guo et al. 2005), and only the draws part it from `one_step`.
    """
    low, high = noise_window(*head.table.shape)
    block_BT = _blocks(rows, block)
    clean_BTD = head.embed(rows.targets_BT)
    prior = expert(rows.x_BTD, rows.documents_BT) if block == 1 else None

    def posterior(log_snr_BT: Tensor) -> Tensor:
        z_BTD = add_noise(clean_BTD, log_snr_BT)
        if prior is not None:
            return prior + bayes_skip(z_BTD, log_snr_BT)
        no_BT = torch.zeros_like(block_BT, dtype=torch.bool)
        noise = noisy(head, z_BTD, log_snr_BT, no_BT, block_BT, rows.documents_BT)
        return expert.denoise(rows.x_BTD, rows.documents_BT, noise).float() + noise.skip_BTD

    nats_BT = torch.full(block_BT.shape, head.width / 2 * math.log1p(math.exp(low)), device=clean_BTD.device)
    for part in range(strata):
        place_BT = (part + torch.rand(block_BT.shape, device=clean_BTD.device).gather(1, block_BT)) / strata
        log_snr_BT = low + (high - low) * place_BT
        error_BT = (clean_BTD - head.expect(posterior(log_snr_BT))).square().sum(-1)
        nats_BT += (high - low) / strata / 2 * log_snr_BT.exp() * error_BT
    return nats_BT + head.nll(posterior(torch.full_like(nats_BT, high)), rows.targets_BT)


def _blocks(rows: Rows, block: int) -> Tensor:
    """Blocks of `block` tokens from the start of each window, cut where documents end, (B, T)."""
    grid_T = torch.arange(rows.targets_BT.shape[1], device=rows.targets_BT.device) // block
    new_BT = (grid_T[1:] != grid_T[:-1]) | (rows.documents_BT[:, 1:] != rows.documents_BT[:, :-1])
    return pad(new_BT.cumsum(dim=1), (1, 0))


@torch.inference_mode()
def likelihoods(
    expert: Diffuser,
    head: LanguageHead,
    documents: Sequence[Document],
    window: int,
    start_token: int,
    block: int = 8,
    strata: int = 16,
    seed: int = 0,
) -> dict[str, float]:
    """Bits per byte of documents: "one_step", "elbo_1" (K = 1), "factorised" and "elbo" (K = `block`).

    "elbo_1_error" and "elbo_error" are standard errors over the draws, from windows.
    """
    assert not expert.training, "evaluate in evaluation mode"
    per_bit = 1 / math.log(2) / max(1, sum(document.bytes for document in documents))
    sums: dict[str, list[Tensor]] = {"one_step": [], "elbo_1": [], "factorised": [], "elbo": []}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs_BT, targets_BT, real_BT in windows(documents, window, start_token):
            inputs_BT, targets_BT = inputs_BT.to(head.table.device), targets_BT.to(head.table.device)
            rows = Rows(head.embed(inputs_BT), targets_BT, number_documents(inputs_BT, start_token))
            drawn = {
                "one_step": one_step(expert, head, rows),
                "elbo_1": elbo(expert, head, rows, 1, strata),
                "factorised": factorised(expert, head, rows, block),
                "elbo": elbo(expert, head, rows, block, strata),
            }
            for name, nats_BT in drawn.items():
                sums[name].append((nats_BT.cpu() * real_BT).sum(1).double())
    return {name: float(torch.cat(parts).sum()) * per_bit for name, parts in sums.items()}
