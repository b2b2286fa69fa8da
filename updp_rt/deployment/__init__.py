"""Models for other runtimes (ONNX, torch.export, AOTInductor) and for the Hugging Face Hub."""

from updp_rt.deployment.errors import ExportError
from updp_rt.deployment.hub import from_pretrained, push_to_hub, save_pretrained
from updp_rt.deployment.write import FORMATS, Exported, export

__all__ = ["FORMATS", "ExportError", "Exported", "export", "from_pretrained", "push_to_hub", "save_pretrained"]
