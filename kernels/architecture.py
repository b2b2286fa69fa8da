"""What a device is called by those who compile for it."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def architecture(device: torch.device) -> str:
    """``gfx908`` and the like for an AMD device, ``sm_90`` and the like for an NVIDIA one.

    A CPU under Triton's interpreter (``TRITON_INTERPRET=1``) is ``interpreter``.

    Raises:
        ValueError: nothing is compiled for `device`.
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        if torch.version.hip:
            return str(properties.gcnArchName).split(":")[0]
        return f"sm_{properties.major}{properties.minor}"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return "interpreter"
    raise ValueError(f"no kernels are compiled for {device}")
