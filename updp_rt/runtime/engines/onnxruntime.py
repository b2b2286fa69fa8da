"""ONNX Runtime on the source model, on the CPU; with MIGraphX, AMD's compiler, beneath it on an AMD GPU."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from updp_rt.artifacts.onnx import INPUT, missing_packages, to_onnx
from updp_rt.runtime.engines.constant import ConstantEngine, Program


class OnnxRuntimeEngine(ConstantEngine):
    """ONNX Runtime's own kernels on the CPU, for any number of images."""

    name = "onnxruntime"
    provider: ClassVar[str] = "CPUExecutionProvider"
    device: ClassVar[str] = "cpu"
    dtypes: ClassVar[dict[torch.dtype, str]] = {torch.float32: "float32"}

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        missing = missing_packages("onnxruntime")
        if missing:
            return False, missing
        if example.device.type != self.device:
            return False, f"{self.provider} runs on {self.device}, and this model is on {example.device.type}"
        if example.dtype not in self.dtypes:
            return False, f"{self.provider} has no kernels for {example.dtype}"
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            return False, f"this onnxruntime was built without {self.provider}"
        return True, ""

    def build(self, model: nn.Module, example: Tensor, wide: bool) -> Program:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait by spinning would take the cores from torch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        content = to_onnx(model, example).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=[self.provider])
        outputs = [(output.name, output.shape[1:]) for output in session.get_outputs()]
        dtype, (kind, number) = self.dtypes[example.dtype], (self.device, example.device.index or 0)

        def run(x: Tensor) -> list[Tensor]:
            x = x.contiguous()
            binding = session.io_binding()
            binding.bind_input(INPUT, kind, number, dtype, tuple(x.shape), x.data_ptr())
            found = []
            for name, shape in outputs:
                y = torch.empty((len(x), *shape), dtype=x.dtype, device=x.device)
                binding.bind_output(name, kind, number, dtype, tuple(y.shape), y.data_ptr())
                found.append(y)
            session.run_with_iobinding(binding)
            return found

        return run


class MigraphxEngine(OnnxRuntimeEngine):
    """AMD's graph compiler, by ONNX Runtime's provider for it. Not run on AMD hardware yet."""

    name = "migraphx"
    provider = "MIGraphXExecutionProvider"
    device = "cuda"  # torch's name for ROCm's GPUs
    dtypes: ClassVar[dict[torch.dtype, str]] = {torch.float32: "float32", torch.float16: "float16"}
