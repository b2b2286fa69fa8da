"""AOTInductor packages: an accelerated model as machine code for this kind of processor, in a ``.pt2`` file."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.artifacts.atomic import atomic_path
from updp_rt.deployment.agreement import Check
from updp_rt.deployment.errors import ExportError, first_line
from updp_rt.deployment.program import trace
from updp_rt.ops.library import kept_operators
from updp_rt.runtime import accelerate
from updp_rt.runtime.engines.compiled import lacks_compiler


def write_package(model: nn.Module, images: Tensor, path: Path, check: Check, *, keep_kernels: bool) -> dict[str, Any]:
    """Accelerate `model`, a copy that may be changed, compile it, and write it to `path` once it agrees.

    It takes any number of images of the size of `images`.

    Args:
        keep_kernels: whether it calls this package's fused operators; otherwise torch's own, compiled, stand for them.

    Raises:
        ExportError: nothing compiles here, or the package computes something else.
    """
    if reason := lacks_compiler(images):
        raise ExportError(f"{reason}: install one")
    fast = accelerate(model, images, inplace=True)
    with kept_operators() if keep_kernels else nullcontext():
        program = trace(fast, images, any_size=False)
    kept = sorted({str(n.target) for n in program.graph.nodes if str(n.target).startswith("updp_rt.")})
    with tempfile.TemporaryDirectory() as folder:  # torch wants a path to end as it likes
        try:
            compiled = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        except Exception as error:  # whatever torch's compiler raises
            raise ExportError(f"AOTInductor cannot compile this model: {first_line(error)}") from error
        check(torch._inductor.aoti_load_package(compiled))
        with atomic_path(path) as temporary:
            shutil.copyfile(compiled, temporary)
    call = "torch._inductor.aoti_load_package(FILE)"
    return {
        "kept": kept,
        "needs": f"updp_rt, imported first (import updp_rt.runtime): {call}" if kept else f"torch alone: {call}",
    }
