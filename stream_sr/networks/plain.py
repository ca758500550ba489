"""The ladder: plain 3x3 networks with an anchor."""

from torch import Tensor, nn

from stream_sr.networks.layers import Anchor, Deconvolution, start_quietly


class PlainSR(nn.Module):
    """Plain 3x3 convolutions with ReLU and a deconvolution head (k = 3s, p = s), plus the anchor: the input repeated.

    The shape of ECBSR (Zhang, Zeng and Zhang, ACM MM 2021), SESR (Bhardwaj and others, MLSys 2022) and ABPN (Du and
    others, CVPRW 2021): ``depth`` middle layers of ``width`` channels. The network computes only what the repeated
    pixel lacks, so a low precision costs little. It is trained in the form that `expand` gives it. With ``skip`` the
    first layer's result is added to the last middle layer's, before its ReLU (SESR's long residual): a narrow network
    need not carry it through every layer. ``kernel`` is the convolutions' side, ``taps`` the head's in input pixels;
    both are odd.
    """

    def __init__(
        self, *, scale: int, width: int = 16, depth: int = 4, skip: bool = False, kernel: int = 3, taps: int = 3
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or taps % 2 == 0:
            raise ValueError(f"kernel {kernel} and taps {taps} must be odd")
        self.scale, self.skip = scale, skip
        self.feature = nn.Conv2d(1, width, kernel, padding=kernel // 2)
        self.body = nn.Sequential()
        for _ in range(depth):
            self.body.append(nn.ReLU())
            self.body.append(nn.Conv2d(width, width, kernel, padding=kernel // 2))
        self.last = nn.ReLU()
        self.head = Deconvolution(width, 1, taps * scale, scale)
        self.anchor = Anchor(scale)
        start_quietly(self)

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W]
        first = self.feature(x)  # [N, width, H, W]
        features = self.body(first) + first if self.skip else self.body(first)
        return self.head(self.last(features)) + self.anchor(x)  # [N, 1, scale*H, scale*W]
