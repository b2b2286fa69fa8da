"""Kernel bodies, one folder a language. The folder stands at the top level, and is the package ``updp_rt.kernels``."""

from __future__ import annotations

from typing import Final

import torch

# Of tensors that kernels take; they sum in float32.
DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
