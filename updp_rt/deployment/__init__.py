"""Models for other runtimes: ONNX, torch.export, AOTInductor."""

from updp_rt.deployment.errors import ExportError
from updp_rt.deployment.write import FORMATS, Exported, export

__all__ = ["FORMATS", "ExportError", "Exported", "export"]
