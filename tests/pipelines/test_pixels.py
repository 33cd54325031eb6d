"""Pictures to tensors and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from marmo.pipelines.pixels import to_pictures, to_tensor


def every_level() -> Image.Image:
    """256 levels in each of three channels."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1))


def test_there_and_back_every_level_is_itself():
    tensor = to_tensor(every_level(), 16, 16)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 16, 16), torch.float32)
    assert (float(tensor.min()), float(tensor.max())) == (-1.0, 1.0)
    assert to_pictures(tensor) == [every_level()]


def test_the_axes_are_where_they_belong():
    picture = Image.new("RGB", (3, 2), "black")
    picture.putpixel((2, 1), (255, 0, 0))
    tensor = to_tensor(picture, 3, 2)
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor[0, 0, 1, 2] == 1 and tensor[0, 1, 1, 2] == -1 and tensor[0, 0, 0, 2] == -1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_colours(mode: str):
    assert to_tensor(every_level().convert(mode), 16, 16).shape == (1, 3, 16, 16)


def test_another_size_is_resampled():
    tensor = to_tensor(Image.new("RGB", (30, 20), (255, 0, 51)), 16, 8)
    assert tensor.shape == (1, 3, 8, 16)
    assert torch.allclose(tensor, torch.tensor([1.0, -1.0, -0.6])[None, :, None, None].expand(1, 3, 8, 16))


def test_values_are_clamped_and_rounded():
    values = torch.tensor([-9.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 0.0, 1.0, 9.0])
    (picture,) = to_pictures(values.expand(1, 3, 1, 7))
    assert [picture.getpixel((x, 0))[0] for x in range(7)] == [0, 0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_and_any_number_of_pictures(dtype: torch.dtype):
    pictures = to_pictures(torch.zeros(3, 3, 4, 5, dtype=dtype))
    assert [picture.size for picture in pictures] == [(5, 4)] * 3
    assert to_pictures(torch.zeros(0, 3, 4, 5)) == []
