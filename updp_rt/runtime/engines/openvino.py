"""OpenVINO on the source model, on the CPU."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.runtime.engines.constant import ConstantEngine, Program

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoEngine(ConstantEngine):
    """OpenVINO's CPU plugin; in bfloat16 it computes in bfloat16.

    A program for the shape at hand is a few percent faster than one for any number of images, which is built only when
    others are asked for.
    """

    name = "openvino"
    exact = True

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        if importlib.util.find_spec("openvino") is None:
            return False, "openvino not installed (pip install openvino)"
        if example.device.type != "cpu":
            return False, f"it is used on the CPU, and this model is on {example.device.type}"
        if example.dtype not in _TYPES:
            return False, f"it is used in float32 and bfloat16, not in {example.dtype}"
        if example.dtype == torch.bfloat16 and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return False, "this CPU has no instructions for bfloat16"
        return True, ""

    def build(self, model: nn.Module, example: Tensor, wide: bool) -> Program:
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: what depends on values is found by comparing results
            shape = openvino.PartialShape([-1 if wide else len(example), *example.shape[1:]])
            graph = openvino.convert_model(model, example_input=example, input=[shape])
        kind = _TYPES[example.dtype]
        settings = {
            "INFERENCE_PRECISION_HINT": kind,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = _core().compile_model(graph, "CPU", settings)
        count = len(compiled.outputs)
        own = threading.local()  # a request runs one call at a time

        def run(x: Tensor) -> list[Tensor]:
            request: Any = own.__dict__.get("request")
            if request is None:
                request = own.request = compiled.create_infer_request()
            x = x.contiguous()
            # NumPy has no bfloat16, so both ways the bits go as 16-bit numbers.
            bits = x.view(torch.int16) if kind == "bf16" else x
            given = openvino.Tensor(bits.numpy(), list(x.shape), getattr(openvino.Type, kind))
            request.set_input_tensor(given)
            request.infer(share_outputs=True)  # it would copy them, too
            # One by one: the list of all takes as long as a layer.
            found = [torch.from_numpy(request.get_output_tensor(index).data) for index in range(count)]
            return [y.view(torch.bfloat16).clone() if kind == "bf16" else y.clone() for y in found]

        return run


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()
