"""Pictures as a sequence of patches.

B batch, H x W pixels, P patches, S pixels of a patch, D model width
"""

from torch import Tensor, nn


class Patches(nn.Module):
    """x_p = A s_p + b for each square patch s_p, row after row: (B, H, W), 0 to 1, -> (B, P, D) (Dosovitskiy et al.
    2021, eq. 1, without positions: those of the sequence tell where a patch is).
    """

    def __init__(self, side: int, width: int):
        super().__init__()
        assert side > 0
        self.side, self.embed = side, nn.Linear(side * side, width)

    def forward(self, pictures_BHW: Tensor) -> Tensor:
        height, wide = pictures_BHW.shape[1:]
        assert height % self.side == wide % self.side == 0, f"{height} x {wide} pixels in patches of {self.side}"
        cut_BPyPxss = pictures_BHW.unfold(1, self.side, self.side).unfold(2, self.side, self.side)
        return self.embed(cut_BPyPxss.flatten(3).flatten(1, 2))
