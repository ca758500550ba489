"""FSRCNN, the baseline."""

import torch
from torch import Tensor, nn

from stream_sr.networks.layers import Deconvolution


class FSRCNN(nn.Module):
    """Dong, Loy and Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016.

    5x5 feature extraction (d channels), 1x1 shrinking (s), m 3x3 mapping layers, 1x1 expanding (d), 9x9
    deconvolution; PReLU after each but the last. (56, 12, 4) is the paper's FSRCNN, (32, 5, 1) its FSRCNN-s.
    Started as bilinear interpolation: channel 0 hands the luma through, which saves the first epochs.
    """

    def __init__(self, *, scale: int, d: int = 56, s: int = 12, m: int = 4, kernel: int = 9) -> None:
        super().__init__()
        self.scale = scale
        self.feature = nn.Sequential(nn.Conv2d(1, d, 5, padding=2), nn.PReLU(d))
        self.shrink = nn.Sequential(nn.Conv2d(d, s, 1), nn.PReLU(s))
        self.mapping = nn.Sequential()
        for _ in range(m):
            self.mapping.append(nn.Conv2d(s, s, 3, padding=1))
            self.mapping.append(nn.PReLU(s))
        self.expand = nn.Sequential(nn.Conv2d(s, d, 1), nn.PReLU(d))
        self.head = Deconvolution(d, 1, kernel, scale)
        self._start_as_interpolation()

    @torch.no_grad()
    def _start_as_interpolation(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                if layer.bias is not None:
                    layer.bias.zero_()
                layer.weight[0] = 0
                middle = layer.kernel_size[0] // 2
                layer.weight[0, 0, middle, middle] = 1
        nn.init.normal_(self.head.weight, std=0.001)
        hat = (1 - self.head.offsets().abs()).clamp(min=0)
        self.head.weight[0, 0] = torch.outer(hat, hat)
        if self.head.bias is not None:
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W]
        x = self.feature(x)  # [N, d, H, W]
        x = self.shrink(x)  # [N, s, H, W]
        x = self.mapping(x)  # [N, s, H, W]
        x = self.expand(x)  # [N, d, H, W]
        return self.head(x)  # [N, 1, scale*H, scale*W]
