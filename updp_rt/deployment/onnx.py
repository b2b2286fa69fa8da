"""ONNX files: standard operators only, weights beside the file where it would be larger than ONNX allows."""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from updp_rt.artifacts.atomic import atomic_path, sync
from updp_rt.artifacts.onnx import INPUT, OPSET, missing_packages, program_to_onnx
from updp_rt.artifacts.preprocessing import model_preprocessing
from updp_rt.blocks.inspect import architecture
from updp_rt.deployment.agreement import Check
from updp_rt.deployment.errors import ExportError, first_line
from updp_rt.deployment.program import BATCH, SIZE

# A protobuf holds 2 GB; what is not weights is small.
LARGEST = 2**31 - 2**26


def lacks_onnx(dtype: torch.dtype) -> None:
    """Raise `ExportError` where ONNX cannot be written here, or in this dtype."""
    if missing := missing_packages():
        raise ExportError(f"{missing}; or, with all that ONNX files are run by here: pip install 'updp_rt[engines]'")
    if dtype not in (torch.float32, torch.float16):
        raise ExportError(f"ONNX files are written in float32 and float16, not in {dtype}: give another dtype")


def write_onnx(
    program: ExportedProgram, path: Path, check: Check, *, about: dict[str, str], any_size: bool
) -> dict[str, Any]:
    """Write a program as ONNX to `path`, once ONNX's checker accepts it and ONNX Runtime, where there is one, agrees.

    Weights of more than 2 GB go to a file beside it, ``STEM-….data``, which has to be moved with it.

    Args:
        about: the file's metadata.

    Raises:
        ExportError: the file would hold operators that are not ONNX's, or computes something else.
        WriteError: it cannot be written.
    """
    import onnx_ir

    try:
        found = program_to_onnx(program, {**BATCH, **(SIZE if any_size else {})})
    except Exception as error:  # whatever torch's exporter raises
        raise ExportError(f"torch cannot write this model as ONNX: {first_line(error)}") from error
    operators = Counter(_name(node) for node in found.graph.all_nodes())
    if foreign := [name for name in operators if "::" in name]:
        raise ExportError(f"ONNX has no operators for this model; it would need {', '.join(foreign)}")
    found.metadata_props.update(about)
    beside: Path | None = None
    if sum(weight.nbytes for weight in {**program.state_dict, **program.constants}.values()) > LARGEST:
        beside = path.with_name(f"{path.stem}-{secrets.token_hex(8)}.data")
    try:
        with atomic_path(path) as temporary:
            onnx_ir.save(found, temporary, external_data=beside.name if beside else None)
            if beside:
                sync(beside)
            _check_format(temporary)
            compared = importlib.util.find_spec("onnxruntime") is not None
            if compared:
                check(_session(temporary))
    except BaseException:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise
    for stale in path.parent.glob("*.data"):
        if re.fullmatch(re.escape(path.stem) + r"-[0-9a-f]{16}\.data", stale.name) and stale != beside:
            stale.unlink()
    return {
        "opset": OPSET,
        "operators": dict(operators.most_common()),
        "compared_in": "ONNX Runtime" if compared else None,
        "weights": beside.name if beside else None,
        "needs": "a runtime for ONNX alone",
    }


def _name(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def about(model: nn.Module, channels: int) -> dict[str, str]:
    """What who serves the file has to know: the architecture, and what pictures go through before."""
    found = {"architecture": architecture(model)}
    preprocessing = model_preprocessing(model, channels) if hasattr(model, "pretrained_cfg") else None
    return found | ({"preprocessing": json.dumps(preprocessing.model_dump())} if preprocessing else {})


def _check_format(file: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses the file: {first_line(error)}") from error


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # one class for each of its statuses
        raise ExportError(f"ONNX Runtime does not take the file: {first_line(error)}") from error

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in session.run(None, {INPUT: images.contiguous().numpy()})]

    return run
