"""Pictures cut into patches."""

import pytest
import torch

from nano_think.nn.patches import Patches


def test_patches_stand_row_after_row():
    """Each is the linear map of its own pixels, by a loop that cuts them one by one."""
    patches, pictures_BHW = Patches(2, 5), torch.rand(3, 4, 6)
    corners = [(y, x) for y in range(0, 4, 2) for x in range(0, 6, 2)]
    plain = [patches.embed(pictures_BHW[:, y : y + 2, x : x + 2].reshape(3, 4)) for y, x in corners]
    torch.testing.assert_close(patches(pictures_BHW), torch.stack(plain, dim=1))


def test_a_picture_must_be_whole_patches():
    with pytest.raises(AssertionError, match="4 x 5 pixels in patches of 2"):
        Patches(2, 5)(torch.rand(1, 4, 5))
