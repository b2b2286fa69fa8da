"""The operators as torch sees them: schemas, traced shapes, and what is refused, without running anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
import triton
from torch import Tensor
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from triton.backends.compiler import GPUTarget

from tests.kernels import plain, problems
from tests.kernels.problems import Problem
from updp_rt.kernels import triton as operators
from updp_rt.kernels.checks import DTYPES
from updp_rt.kernels.triton import ARCHITECTURES, OPERATORS, architecture, tile, tiles

PROBLEMS = {
    "linear": problems.linear(17, 31, 53, torch.float16, "gelu", gap=3),
    "conv2d": problems.conv2d((2, 5, 9, 7), 11, (3, 3), torch.float16, "relu", stride=(2, 1)),
    "depthwise_pointwise": problems.depthwise_pointwise((2, 5, 9, 7), 11, 3, torch.float16, "silu", stride=2),
    "dual_linear": problems.dual_linear(17, 31, 53, 7, torch.float16, "none"),
    "epilogue": problems.epilogue(problems.image(2, 5, 9, 7, torch.float16), "relu6"),
}


@pytest.fixture
def _pretend_mi100(monkeypatch: pytest.MonkeyPatch) -> None:
    # By way of sys.modules: the package holds a function of the same name as the module.
    monkeypatch.setattr(sys.modules["updp_rt.kernels.triton.tiles"], "architecture", lambda device: "gfx908")


def registered(operator: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.updp_rt, f"triton_{operator}").default


def on_fake_gpu(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def smallest_tile(problem: Problem) -> str:
    return tiles(problem.operator, "gfx908", torch.float16)[0].name


@pytest.mark.parametrize("operator", OPERATORS)
def test_schema(operator: str) -> None:
    schema = registered(operator)._schema
    allowed = {"Tensor", "Optional[Tensor]", "str", "List[int]"}
    assert {str(argument.type) for argument in schema.arguments} <= allowed
    assert [argument.name for argument in schema.arguments if argument.is_write] == (
        ["y"] if operator == "epilogue" else []
    )
    assert len(schema.returns) == (operator != "epilogue")
    assert schema.arguments[-1].name == "tile"


@pytest.mark.usefixtures("_pretend_mi100")
@pytest.mark.parametrize("operator", OPERATORS)
def test_fake_tensors_on_a_gpu_give_shape_dtype_and_layout(operator: str) -> None:
    problem = PROBLEMS[operator]
    with FakeTensorMode():
        fake = [on_fake_gpu(o) if isinstance(o, Tensor) else o for o in problem.operands]
        found = registered(operator)(*fake, smallest_tile(problem))
    if operator == "epilogue":
        assert found is None
        return
    wanted = plain.exact(operator, problem.operands)
    assert (found.shape, found.dtype, found.device.type) == (wanted.shape, torch.float16, "cuda")
    assert found.is_contiguous(memory_format=torch.channels_last if found.dim() == 4 else torch.contiguous_format)


def function_of_tensors(problem: Problem) -> tuple[Callable[..., tuple[Tensor]], list[Tensor]]:
    """A call of the registered operator with all but its tensors fixed, and these."""

    def call(*tensors: Tensor) -> tuple[Tensor]:
        rest = iter(tensors)
        operands = [next(rest) if isinstance(o, Tensor) else o for o in problem.operands]
        first = operands[0] * 1  # what the epilogue overwrites must be no input of a graph
        result = registered(problem.operator)(first, *operands[1:], smallest_tile(problem))
        return (first if result is None else result,)

    return call, [o for o in problem.operands if isinstance(o, Tensor)]


@pytest.mark.usefixtures("_pretend_mi100")
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_traces(operator: str, mode: str) -> None:
    problem = PROBLEMS[operator]
    call, tensors = function_of_tensors(problem)
    graph = make_fx(call, tracing_mode=mode)(*tensors)
    calls = [node for node in graph.graph.nodes if node.target is registered(operator)]
    assert len(calls) == 1
    if operator != "epilogue":
        assert tuple(calls[0].meta["val"].shape) == tuple(plain.exact(operator, problem.operands).shape)


@pytest.mark.usefixtures("_pretend_mi100")
@pytest.mark.parametrize("operator", OPERATORS)
def test_compilers_see_a_kernel_that_writes_only_its_result(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = SimpleNamespace(get_current_target=lambda: GPUTarget("hip", "gfx908", 64))
    monkeypatch.setattr(triton.runtime.driver, "_active", target)  # the analysis compiles for it
    call, tensors = function_of_tensors(PROBLEMS[operator])
    with FakeTensorMode(shape_env=ShapeEnv()) as mode, torch.no_grad():
        fake = [mode.from_tensor(tensor) for tensor in tensors]
        graph = aot_export_joint_simple(call, fake, trace_joint=False)
    calls = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
    assert [node.kwargs["tensors_to_clone"] for node in calls] == [["y"]]


@pytest.mark.usefixtures("_pretend_mi100")
def test_exports_with_any_batch() -> None:
    call, tensors = function_of_tensors(PROBLEMS["conv2d"])

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> tuple[Tensor]:
            return call(*tensors)

    batch = torch.export.Dim("batch")
    sizes = ({0: batch}, None, None, {0: batch})  # x, weight, bias, residual
    exported = torch.export.export(Module(), tuple(tensors), dynamic_shapes=(sizes,))
    assert any(node.target is registered("conv2d") for node in exported.graph.nodes)


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "interpreter"])
def test_names_are_unique_and_tables_serialise(arch: str) -> None:
    for operator in OPERATORS:
        for dtype in DTYPES if arch != "interpreter" else (torch.float16, torch.float32):
            table = tiles(operator, arch, dtype)
            assert len({entry.name for entry in table}) == len(table) > 0
            for entry in table:
                assert tile(operator, arch, dtype, entry.name) == entry
                assert type(entry)(**json.loads(json.dumps(asdict(entry)))) == entry


@pytest.mark.parametrize(("arch", "nearest"), [("gfx950", "gfx90a"), ("gfx906", "gfx90a"), ("sm_120", "sm_90")])
def test_other_architectures_use_the_nearest_table(arch: str, nearest: str) -> None:
    assert tiles("linear", arch, torch.float16) == tiles("linear", nearest, torch.float16)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no tiles for architecture 'xpu'"):
        tiles("linear", "xpu", torch.float16)
    with pytest.raises(ValueError, match="operator 'conv3d'"):
        tiles("conv3d", "gfx908", torch.float16)
    with pytest.raises(ValueError, match=r"no tiles for torch\.float64"):
        tiles("linear", "gfx908", torch.float64)
    with pytest.raises(ValueError, match=r"no tile '1x1x1w1s1', but 32x64x64w4s2"):
        tile("linear", "gfx908", torch.float16, "1x1x1w1s1")
    with pytest.raises(ValueError, match="do not run on cpu"):
        architecture(torch.device("cpu"))


def test_operands_that_do_not_fit_are_refused() -> None:
    x, weight, bias, residual, act = PROBLEMS["linear"].operands
    small = tiles("linear", "gfx908", torch.float16)[0]
    for message, operands in {
        "activation 'tanh'": (x, weight, bias, residual, "tanh"),
        "weight must be torch.float16": (x, weight.float(), bias, residual, act),
        r"weight must be contiguous \[31, 53\]": (x, weight.T.contiguous().T, bias, residual, act),
        r"x must be \[rows, 53\] with contiguous rows": (x.T.contiguous().T, weight, bias, residual, act),
        "residual has 5 rows, x 17": (x, weight, bias, residual[:5], act),
    }.items():
        with pytest.raises(ValueError, match=message):
            operators.linear(*operands, small)
    image, *rest = PROBLEMS["conv2d"].operands
    with pytest.raises(ValueError, match="channels_last"):
        operators.conv2d(image.contiguous(), *rest, small)
    with pytest.raises(ValueError, match="does not fit"):
        operators.conv2d(image[:1, :, :1], *rest[:-1], (0, 0), small)


def test_import_touches_no_device() -> None:
    code = "import torch, updp_rt.kernels.triton; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)
