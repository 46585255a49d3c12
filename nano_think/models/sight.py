"""A chat model that is shown a picture before the words.

B batch, H x W pixels, P patches, T tokens, D model width, V vocabulary
"""

import torch
from torch import Tensor, nn

from nano_think.models.chat import Chat
from nano_think.models.think import Routed
from nano_think.nn.patches import Patches


class Sight(nn.Module):
    """One sequence of the start token, P patches and the other tokens, (B, P + T): patches stand where embeddings of
    tokens would, and all behind the embedding is the chat model's own, its causal mask included.

    What it says without a picture stays as it is, as long as `chat` learns nothing.
    """

    def __init__(self, chat: Chat, side: int):
        super().__init__()
        self.chat, self.patches = chat, Patches(side, chat.head.width)

    def forward(self, pictures_BHW: Tensor, tokens_BT: Tensor) -> Routed:
        """What is said at each position of the whole sequence, (B, P + T, ...)."""
        start = tokens_BT == self.chat.start_token
        assert start[:, 0].all() and not start[:, 1:].any(), "wanted one document, its start token first"
        words_BTD = self.chat.embed(tokens_BT, start.cumsum(dim=1))
        seen_BPD = self.patches(pictures_BHW).to(words_BTD.dtype)
        x_BSD = torch.cat([words_BTD[:, :1], seen_BPD, words_BTD[:, 1:]], dim=1)
        return self.chat.hear(x_BSD, torch.ones(x_BSD.shape[:2], dtype=torch.long, device=x_BSD.device))

    def nll(self, pictures_BHW: Tensor, tokens_BT: Tensor) -> Tensor:
        """Negative log-likelihood of the tokens behind the picture in nats, (B, T - 1)."""
        routed = self(pictures_BHW, tokens_BT)
        # The last patch predicts the first word.
        return self.chat.head.nll(routed.hidden[:, -tokens_BT.shape[1] : -1], tokens_BT[:, 1:])

    @torch.no_grad()
    def name(self, pictures_BHW: Tensor) -> Tensor:
        """The likeliest token of the whole vocabulary behind each picture, (B,)."""
        start_B1 = torch.full((len(pictures_BHW), 1), self.chat.start_token, device=pictures_BHW.device)
        return self.chat.logits(self(pictures_BHW, start_B1).last())[:, 0].argmax(dim=-1)
