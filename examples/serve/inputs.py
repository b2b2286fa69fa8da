"""What requests carry, read safely: JPEG and PNG pictures, and tensors as safetensors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

MAX_BYTES = 8 * 2**20
MAX_PIXELS = 24_000_000

# Before it decodes anything, Pillow refuses what claims more; twice as many would be an error, so many a warning.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class RefusedError(ValueError):
    """A request that is not served.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def read_picture(data: bytes, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """A JPEG or PNG file as the model takes it, ``[1, 3, H, W]``.

    Raises:
        RefusedError: 415 what is no such file, 413 too many pixels, 422 a damaged file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
                return transform(picture.convert("RGB"))[None]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RefusedError(413, f"the picture has more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise RefusedError(415, "this is no JPEG or PNG file") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises of damaged files
        raise RefusedError(422, f"the picture is damaged: {error}") from None


def read_tensor(data: bytes, shape: tuple[int, int, int], most: int) -> Tensor:
    """The tensor ``x``, ``[N, *shape]`` in float32, of a safetensors file; N is at most `most`.

    Raises:
        RefusedError: 415 what is no such file, 422 another tensor than is expected, or values that are not finite.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError):
        raise RefusedError(415, "this is no safetensors file") from None
    x = tensors.get("x")
    wanted = f"a float32 tensor x of shape [1 to {most}, {', '.join(map(str, shape))}]"
    if x is None or x.dtype != torch.float32 or x.dim() != 4 or tuple(x.shape[1:]) != shape or not 1 <= len(x) <= most:
        found = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3]}
        raise RefusedError(422, f"expected {wanted}, not {found}")
    if not bool(x.isfinite().all()):
        raise RefusedError(422, "x holds NaN or infinity")
    return x
