"""The two designs that the project grew from, to be trained and measured beside the others."""

from torch import Tensor, nn

from stream_sr.networks.layers import Deconvolution


class BareDeconvolution(nn.Module):
    """A deconvolution (kernel 4, stride 2, padding 1) with ReLU and a 3x3 output convolution; x2 only; Adam, MSE.

    A single learned interpolation filter per channel: what "deconvolution" alone can do.
    """

    def __init__(self, *, scale: int, width: int = 64) -> None:
        super().__init__()
        if scale != 2:
            raise ValueError(f"the bare deconvolution enlarges by 2, not by {scale}")
        self.scale = scale
        self.head = Deconvolution(1, width, 4, 2)
        self.last = nn.ReLU()
        self.output = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W]
        return self.output(self.last(self.head(x)))  # [N, 1, 2*H, 2*W]


class Autoencoder(nn.Module):
    """Two convolutions with 2x2 pooling down, two deconvolutions up, sigmoid output, for the same size; BCE loss.

    The denoising autoencoder of the text books (Vincent and others, ICML 2008, made convolutional). It knows no skip:
    what pooling threw away is gone. Sides that are no multiples of 4 come out smaller, and no engine takes them.
    """

    def __init__(self, *, scale: int, width: int = 32) -> None:
        super().__init__()
        if scale != 1:
            raise ValueError(f"the autoencoder restores at the same size, it does not enlarge by {scale}")
        self.scale = scale
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.decoder = nn.Sequential(
            Deconvolution(width, width, 4, 2), nn.ReLU(), Deconvolution(width, width, 4, 2), nn.ReLU()
        )
        self.output = nn.Conv2d(width, 1, 3, padding=1)
        self.squash = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W], sides multiples of 4
        return self.squash(self.output(self.decoder(self.encoder(x))))  # [N, 1, H, W]
