"""How near a picture is to the one it was made from: PSNR, SSIM, MS-SSIM.  For autoencoders and other reconstructions.

SSIM: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity"; MS-SSIM: Wang,
Simoncelli and Bovik 2003, "Multiscale structural similarity for image quality assessment".  As in the authors' code,
windows lie wholly inside the picture; each colour is measured by itself, and the mean is taken.  Programs that pad, use
another window or measure grey pictures give other values.

Shapes: B batch, C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The weights of the scales, finest first; Wang et al. 2003, section 3.2."""


def psnr(pictures: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, per picture; infinite where they are equal.  uint8 B C H W -> B."""
    x, y = _checked(pictures, originals)
    error = (x - y).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim(pictures: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity, per picture, at most 1.  uint8 B C H W -> B, float64."""
    x, y = _checked(pictures, originals, least=WINDOW)
    luminance, contrast = _similarities(x, y)
    return (luminance * contrast).mean(dim=(1, 2, 3))


def ms_ssim(pictures: Tensor, originals: Tensor) -> Tensor:
    """SSIM over five scales, each half the one before, per picture.  uint8 B C H W, sides at least 176 -> B, float64.

    The coarsest scale counts with its luminance, the others without; one with opposite structures counts as 0.
    """
    x, y = _checked(pictures, originals, least=WINDOW * 2 ** (len(SCALES) - 1))
    product = x.new_ones(x.shape[:2])  # B C
    for scale, weight in enumerate(SCALES):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        luminance, contrast = _similarities(x, y)
        part = luminance * contrast if scale == len(SCALES) - 1 else contrast
        product = product * part.mean(dim=(2, 3)).clamp(min=0) ** weight
    return product.mean(dim=1)


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of brightness, and of contrast and structure together, at every window.  B C H W, 0 to 255 -> B C H' W' each."""
    # Equations 6, 9 and 13 of Wang et al. 2004, with C3 = C2 / 2.
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _blurred(x: Tensor) -> Tensor:
    """The mean under a Gaussian window at every place where it lies inside.  B C H W -> B C H-10 W-10."""
    places = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    bell = torch.exp(-places.square() / (2 * SIGMA**2))
    kernel = (bell / bell.sum()).expand(x.shape[1], 1, -1)
    rows = F.conv2d(x, kernel[:, :, None], groups=x.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=x.shape[1])


def _checked(pictures: Tensor, originals: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """In float64: of nearly equal variances little would be left in float32."""
    if pictures.shape != originals.shape or pictures.ndim != 4:
        raise ValueError(
            f"pictures are compared with originals of the same shape [batch, channels, height, width], not "
            f"{list(pictures.shape)} with {list(originals.shape)}"
        )
    if not pictures.dtype == originals.dtype == torch.uint8:
        raise ValueError(f"pictures are compared as uint8, 0 to 255, not as {pictures.dtype} and {originals.dtype}")
    if min(pictures.shape[2:]) < least:
        raise ValueError(f"pictures of {list(pictures.shape[2:])} pixels are too small; each side must have {least}")
    return pictures.double(), originals.double()
