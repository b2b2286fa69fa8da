"""What a GPU may draw and how fast it may run: a cap below the board's own explains times that nothing else does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

DEVICES = Path("/sys/bus/pci/devices")


def power(device: torch.device) -> dict[str, float | str] | None:
    """Watts, the highest clocks in MHz and the driver's setting, as amdgpu tells them; None where it does not."""
    if device.type != "cuda":
        return None
    properties: Any = torch.cuda.get_device_properties(device)
    try:
        place = (properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id)
    except AttributeError:  # of an older torch
        return None
    folder = DEVICES / "{:04x}:{:02x}:{:02x}.0".format(*place)
    found: dict[str, float | str | None] = {
        "cap_watts": _watts(folder, "power1_cap"),
        "most_watts": _watts(folder, "power1_cap_max"),
        "clock_mhz": _highest(folder / "pp_dpm_sclk"),
        "memory_clock_mhz": _highest(folder / "pp_dpm_mclk"),
        "level": _read(folder / "power_dpm_force_performance_level"),
    }
    return {name: value for name, value in found.items() if value is not None} or None


def _watts(folder: Path, name: str) -> float | None:
    texts = (_read(path) for path in sorted(folder.glob(f"hwmon/hwmon*/{name}")))
    return next((int(text) / 1e6 for text in texts if text and text.isdigit()), None)


def _highest(levels: Path) -> float | None:
    """Of lines such as ``1: 1502Mhz *``."""
    return max(map(float, re.findall(r"(\d+)Mhz", _read(levels) or "", re.IGNORECASE)), default=None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
