"""The second way to read a memory: its entries are slots of a latent attention, whose sum joins the hidden state.

An entry becomes a latent c_j = RMSNorm(W_d [k_j; e(v_j)]), of what was thought there and of the token that came next.
Head n of a token with hidden state h, key k(h) and q = W_q RMSNorm(h) reads

    s_nj = (W_uk,n^T q_n) c_j / sqrt(H) + tau_n <k(h), k_j>,   a_n = softmax over [s_n; tau_n theta_n]
    h' = h + W_o [tanh(g_n) W_uv,n sum_j a_nj c_j]_n

which is multi-head latent attention without the channels that are rotated (DeepSeek-AI 2024, DeepSeek-V2, eq. 9-11,
absorbed): a slot has no position, so that what is remembered counts alike wherever it stood, and nothing in the text is
shifted. theta_n is the similarity above which head n would rather read than not. The gates g start at zero (one for
each head, as in Wu et al. 2022, "Memorizing transformers", section 3.1): until they have learned, h' is h, bit for bit.
Everything is learned with the model frozen, each token shown the entries that it would be shown when the memory is used
(Zhong, Lei and Chen 2022, "Training language models with memory augmentation").

S entries, T tokens, k slots of a token, D model width, N heads, H head width
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from nano_think.heads.language import LanguageHead
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm

Source = Literal["persistent", "scratch"]
SOURCES: tuple[Source, ...] = ("persistent", "scratch")
HEADS = 4
# Tokens of a training step, and of a block, for which all slots' latents are in memory at once.
BATCH, BLOCK = 512, 4096


class Slots(NamedTuple):
    """The entries that each of T tokens is shown: similarities (T, k), -inf for none, and numbers (T, k), -1."""

    similarity: Tensor
    entry: Tensor

    def at(self, rows: Tensor | slice) -> "Slots":
        """Those of some of the tokens."""
        return Slots(self.similarity[rows], self.entry[rows])

    def to(self, device: torch.device) -> "Slots":
        return Slots(self.similarity.to(device), self.entry.to(device))

    @classmethod
    def join(cls, parts: list["Slots"]) -> "Slots":
        """The rows of all parts, in order; there is at least one part."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class SlotReader(nn.Module):
    """Latent attention over slots without a position: (T, D) and the slots' latents -> (T, D).

    It begins as a memory of tokens: a latent is the row of the token that came next, which all heads together give
    back; what was thought counts by its similarity alone. Each source of entries has sharpnesses tau, thresholds theta
    and gates g of its own, (2, N); the maps are the same for both.
    """

    def __init__(self, width: int, sharpness: float = 20.0, threshold: float = 0.8):
        super().__init__()
        self.n_heads = HEADS if width % HEADS == 0 else 1
        self.head = width // self.n_heads
        self.norm, self.norm_latent = RMSNorm(width), RMSNorm(width)
        self.query, self.down = linear(width, width), linear(2 * width, width, zero=True)
        self.up, self.out = linear(width, 2 * width, zero=True), linear(width, width)
        with torch.no_grad():
            for begins in (self.down.weight[:, width:], self.up.weight[width:], self.out.weight):
                begins.copy_(torch.eye(width))
        self.log_sharpness = nn.Parameter(torch.full((len(SOURCES), self.n_heads), sharpness).log())
        self.threshold = nn.Parameter(torch.full((len(SOURCES), self.n_heads), threshold))
        self.gate = nn.Parameter(torch.zeros(len(SOURCES), self.n_heads))

    def latents(self, key_SD: Tensor, next_SD: Tensor) -> Tensor:
        """c of entries, (S, D), from their keys of length 1 and the rows of the table that belong to what came next."""
        return self.norm_latent(self.down(torch.cat([key_SD * key_SD.shape[1] ** 0.5, next_SD], dim=1)))

    def forward(self, hidden_TD: Tensor, latent_SD: Tensor, slots: Slots, source: Source) -> Tensor:
        """h', (T, D). Keys and values are never made ("absorbed"); a token without slots keeps its h, bit for bit."""
        if not len(latent_SD):
            return hidden_TD
        # Not by an index, whose gradient is summed up in no fixed order by several threads.
        (up_k_NHD, up_v_NHD), c_TkD = self._up(), embedding(slots.entry.clamp_min(0), latent_SD)
        q_TND = torch.einsum("tnh,nhd->tnd", self._query(hidden_TD), up_k_NHD)
        share_TNk = self._share(q_TND @ c_TkD.mT, slots, source)
        o_TNH = torch.einsum("tnd,nhd->tnh", share_TNk @ c_TkD, up_v_NHD)
        return self._add(hidden_TD, o_TNH, slots, source)

    def read_plainly(self, hidden_TD: Tensor, latent_SD: Tensor, slots: Slots, source: Source) -> Tensor:
        """The plain twin of `forward`: with a key and a value of every entry for every head."""
        k_SNH, v_SNH = (torch.einsum("sd,nhd->snh", latent_SD, up_NHD) for up_NHD in self._up())
        score_TNS, entry_Tk = torch.einsum("tnh,snh->tns", self._query(hidden_TD), k_SNH), slots.entry.clamp_min(0)
        share_TNk = self._share(score_TNS.gather(2, entry_Tk[:, None].expand(-1, self.n_heads, -1)), slots, source)
        return self._add(hidden_TD, torch.einsum("tnk,tknh->tnh", share_TNk, v_SNH[entry_Tk]), slots, source)

    def _query(self, hidden_TD: Tensor) -> Tensor:
        return self.query(self.norm(hidden_TD)).unflatten(-1, (self.n_heads, -1))

    def _up(self) -> tuple[Tensor, Tensor]:
        """W_uk and W_uv, (N, H, D) each."""
        up_k_NHD, up_v_NHD = self.up.weight.view(2, self.n_heads, self.head, -1)
        return up_k_NHD, up_v_NHD

    def _share(self, score_TNk: Tensor, slots: Slots, source: Source) -> Tensor:
        """a of the slots, (T, N, k): 0 where no entry is, and less than 1 in all by what is kept from reading."""
        at, none_T1k = SOURCES.index(source), (slots.entry < 0)[:, None]
        tau_N1, theta_N1 = self.log_sharpness[at].exp()[:, None], self.threshold[at][:, None]
        similarity_T1k = slots.similarity[:, None].masked_fill(none_T1k, 0.0)
        score_TNk = (score_TNk * self.head**-0.5 + tau_N1 * similarity_T1k).masked_fill(none_T1k, -torch.inf)
        nothing_TN1 = (tau_N1 * theta_N1).expand(len(score_TNk), -1, -1)
        return torch.cat([score_TNk, nothing_TN1], dim=-1).softmax(dim=-1)[..., :-1]

    def _add(self, hidden_TD: Tensor, o_TNH: Tensor, slots: Slots, source: Source) -> Tensor:
        gate_N1 = self.gate[SOURCES.index(source)].tanh()[:, None]
        some_T1 = (slots.entry >= 0).any(dim=-1, keepdim=True)
        return torch.where(some_T1, hidden_TD + self.out((gate_N1 * o_TNH).flatten(1)), hidden_TD)


class Lesson(NamedTuple):
    """T tokens to learn from: hidden states (T, D), the tokens that came (T), and the slots of each by source."""

    hidden: Tensor
    target: Tensor
    slots: Mapping[Source, Slots]


def train_slots(
    head: LanguageHead, key_SD: Tensor, value_S: Tensor, lesson: Lesson, epochs: int = 6, rate: float = 0.03
) -> SlotReader:
    """A reader of S entries, trained on a text with all sources in turn by Adam with a falling rate. The model, the
    keys and the table stay as they are; so does the state of torch's draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = SlotReader(key_SD.shape[1]).to(key_SD.device)
        batches = [rows for _ in range(epochs) for rows in torch.randperm(len(lesson.target)).split(BATCH)]
    few = [reader.log_sharpness, reader.threshold, reader.gate]
    known = {id(parameter) for parameter in few}
    # The maps have many entries that add up, and begin as something that works.
    maps = [parameter for parameter in reader.parameters() if id(parameter) not in known]
    optimizer = torch.optim.Adam([{"params": maps, "lr": rate / 100}, {"params": few, "lr": rate}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, len(batches)))
    next_SD = head.embed(value_S)
    for rows in batches:
        rows = rows.to(key_SD.device)
        latent_SD, hidden_TD, target_T = reader.latents(key_SD, next_SD), lesson.hidden[rows], lesson.target[rows]
        told = [reader(hidden_TD, latent_SD, slots.at(rows), source) for source, slots in lesson.slots.items()]
        optimizer.zero_grad()
        head.nll(torch.stack(told), target_T.expand(len(told), -1)).mean().backward()
        optimizer.step()
        schedule.step()
    return reader.requires_grad_(False)
