"""The ladder: plain 3x3 networks with an anchor."""

from torch import Tensor, nn

from stream_sr.networks.layers import Deconvolution, make_anchor, start_quietly


class PlainSR(nn.Module):
    """Plain 3x3 convolutions with ReLU and a deconvolution head (k = 3s, p = s), plus the anchor: the input, repeated.

    The shape of ECBSR (Zhang, Zeng and Zhang, ACM MM 2021), SESR (Bhardwaj and others, MLSys 2022) and ABPN (Du and
    others, CVPRW 2021): ``depth`` middle layers of ``width`` channels. The network computes only what the repeated
    pixel lacks, so a low precision costs little. It is trained in the form that `expand` gives it.
    """

    def __init__(self, *, scale: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.feature = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Sequential()
        for _ in range(depth):
            self.body.append(nn.ReLU())
            self.body.append(nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.ReLU()
        self.head = Deconvolution(width, 1, 3 * scale, scale)
        self.anchor = make_anchor(scale)
        start_quietly(self)

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W]
        features = self.last(self.body(self.feature(x)))  # [N, width, H, W]
        return self.head(features) + self.anchor(x)  # [N, 1, scale*H, scale*W]
