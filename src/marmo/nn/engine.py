"""The three operations where the time goes, behind one door, so that another engine can take their place.

Every network of Marmo attends, convolves and multiplies through this module and no other.
Shapes: B batch, C channels, H W height and width, N heads, T tokens, D width of a head.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORE_BYTES = 1 << 30
"""Attention's score matrix never takes more; longer sequences are attended slice by slice."""
LARGE_KERNEL = 32 << 20
"""Bytes.  From here on glibc takes new pages for every rearranged kernel, and the system clears them first."""


class Wrap(NamedTuple):
    """Along which axes a picture's opposite edges meet, as in a tile that is laid beside itself."""

    height: bool = False
    width: bool = False


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, score_bytes: int = SCORE_BYTES) -> Tensor:
    """Softmax attention.  q BNTD, k and v BNSD -> BNTD.

    The queries are cut into slices whose scores (B N T S numbers) fit `score_bytes`, whether or not the device has a
    kernel that never stores them: the bound holds everywhere and a long slice costs a fused kernel nothing.
    """
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and _tracked(q, k):
        return _attend_plainly(q, k, v, causal)
    batch, heads, length, _ = q.shape
    rows = max(1, score_bytes // (batch * heads * k.shape[2] * q.element_size()))
    if causal or rows >= length:  # causal sequences are captions: short
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return torch.cat([F.scaled_dot_product_attention(part, k, v) for part in torch.split(q, rows, dim=2)], dim=2)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The same, score by score: torch's fused kernel takes 2 to 7 times as long back in bfloat16 on the CPU."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)                          # B N T S
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(-1) @ v                                                     # B N T D


Edge = Literal["constant", "reflect"]
"""Beyond a picture there is nothing, or its mirror."""


class Edged(nn.Module):
    """A layer that sees beyond the edge of a picture."""

    wrap = Wrap()
    """What lies there: the layer's own padding, or the picture's other edge; see `wrapped`."""


class Linear(nn.Linear):
    """x @ weight.T + bias over the last axis.

    torch gives float32 products on the CPU to MKL, which is slow on processors that are not Intel's; oneDNN is not.
    """

    def forward(self, input: Tensor) -> Tensor:
        """... I -> ... O."""
        if _by_onednn(input, self.weight):
            return _multiply(input, self.weight, self.bias)
        return super().forward(input)


class Conv2d(nn.Conv2d, Edged):
    """Convolution over H and W of BCHW.

    On the CPU a picture is laid out channels last, as oneDNN computes; else it would be rearranged there and back at
    every call.  The kernel is rearranged too, and for a large one over a small picture (the inner levels of Stable
    Diffusion's U-Net) that costs more than the product of kernel and patches, which takes it as it is.
    """

    def forward(self, input: Tensor) -> Tensor:
        """B C H W -> B O H' W'."""
        if input.device.type == "cpu" and not _tracked(input, self.weight):
            input = input.contiguous(memory_format=torch.channels_last)
        if any(self.wrap):
            assert not isinstance(self.padding, str)
            rows, columns = self.padding
            around = pad(input, columns, columns, rows, rows, self.wrap)
            return F.conv2d(around, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        if self._outweighs(input):
            return convolve_patches(input, self.weight, self.bias)
        return super().forward(input)

    def _outweighs(self, x: Tensor) -> bool:
        """Whether the kernel is large and has more rows than the picture has pixels."""
        form = self.kernel_size, self.stride, self.padding, self.dilation, self.groups
        plain = form == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and self.padding_mode == "zeros"
        large = self.weight.nbytes > LARGE_KERNEL and x.numel() <= x.shape[1] * self.out_channels
        return plain and large and _by_onednn(x, self.weight)


class GroupNorm(nn.GroupNorm):
    """Normalisation over groups of channels.

    torch's kernel for bfloat16 with the channels last takes ten times as long on the CPU as the other one, and far more
    than laying the picture out anew, twice.
    """

    def forward(self, input: Tensor) -> Tensor:
        """B C H W -> B C H W."""
        narrow = input.device.type == "cpu" and input.dtype is torch.bfloat16
        if narrow and input.ndim == 4 and not input.is_contiguous():
            return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(input)


@contextmanager
def wrapped(network: nn.Module, wrap: Wrap) -> Generator[None]:
    """A network whose layers, for a while, see a picture's opposite edges as neighbours."""
    layers = [module for module in network.modules() if isinstance(module, Edged)] if any(wrap) else []
    for layer in layers:
        layer.wrap = wrap
    try:
        yield
    finally:
        for layer in layers:
            layer.wrap = Wrap()


def pad(
    x: Tensor, left: int, right: int, top: int, bottom: int, wrap: Wrap, edge: Edge = "constant"
) -> Tensor:
    """x with something around it: its other edge along the axes that wrap, zeros or its mirror along the others.

    B C H W.  A picture that is too small for a mirror repeats its last pixels.
    """
    for axis, around, circular in ((3, (left, right, 0, 0), wrap.width), (2, (0, 0, top, bottom), wrap.height)):
        mode = "replicate" if edge == "reflect" and x.shape[axis] <= max(around) else edge
        x = F.pad(x, around, "circular" if circular else mode)
    return x


def convolve_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution with zeros around the picture, as one product.  x B C H W, weight O C 3 3 -> B O H W."""
    batch, channels, height, width = x.shape
    pixels = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)                               # B H+2 W+2 C
    patches = x.new_empty(batch, height, width, channels, 9)
    for offset in range(9):
        top, left = divmod(offset, 3)
        patches[..., offset] = pixels[:, top : top + height, left : left + width]
    y = _multiply(patches.flatten(3), weight.flatten(1), bias)                        # B H W O
    return y.permute(0, 3, 1, 2)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether torch would ask MKL, and for a product that no gradient is wanted of."""
    there = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    kinds = {(tensor.device.type, tensor.dtype) for tensor in (x, weight)}
    return there and kinds == {("cpu", torch.float32)} and not _tracked(x, weight)


def _tracked(x: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias by oneDNN.  No gradient flows through it."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
