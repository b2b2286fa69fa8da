"""Fused operators through both their doors: what they compute, in which layout, how they trace."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import relative_error
from tests.marks import slow
from tests.ops.calls import ACTIVATIONS, FORMS, FULL, OPERATORS, WITHOUT_ACTIVATION, Call, Form
from updp_rt import ops

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

Door = Callable[[Call], Tensor]


def by_function(call: Call) -> Tensor:
    found = getattr(ops, call.operator)(*call.args)
    return torch.cat(found, -1) if isinstance(found, tuple) else found  # of parts, which lie side by side


def by_torch_ops(call: Call) -> Tensor:
    return getattr(torch.ops.updp_rt, call.operator)(*call.args)


either_door = pytest.mark.parametrize("run", [by_function, by_torch_ops])
every_operator = pytest.mark.parametrize("form", FULL.values(), ids=str)


class Chain(nn.Module):
    """One call of every operator, each on what the one before gave."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(21)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.5 * torch.randn(*shape, generator=generator))

        self.conv, self.conv_bias = weight(6, 3, 3, 3), weight(6)
        self.depthwise, self.pointwise, self.pointwise_bias = weight(6, 1, 3, 3), weight(6, 6, 1, 1), weight(6)
        self.qkv, self.qkv_bias = weight(18, 6), weight(18)
        self.w_x, self.w_a = weight(5, 6), weight(5, 6)
        self.gain, self.shift = weight(6), weight(5)

    def forward(self, x: Tensor) -> Tensor:
        x = ops.conv2d(x, self.conv, self.conv_bias, None, "silu", stride=(2, 2), padding=(1, 1))
        x = ops.depthwise_pointwise(x, self.depthwise, None, self.pointwise, self.pointwise_bias, x, padding=(1, 1))
        tokens = x.flatten(2).transpose(1, 2)
        attended = ops.attention(ops.norm_linear(tokens, self.qkv, self.qkv_bias, 1e-2), 3)
        total, normed = ops.add_layer_norm(tokens, ops.linear(attended, self.pointwise[:, :, 0, 0]), self.gain)
        return ops.layer_norm(ops.dual_linear(total, normed, self.w_x, self.w_a, None, "gelu"), None, self.shift)

    def in_standard_operators(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(nn.functional.conv2d(x, self.conv, self.conv_bias, 2, 1))
        inner = nn.functional.conv2d(x, self.depthwise, None, 1, 1, 1, 6)
        x = nn.functional.conv2d(inner, self.pointwise, self.pointwise_bias) + x
        tokens = x.flatten(2).transpose(1, 2)
        normed = nn.functional.layer_norm(tokens, (6,), eps=1e-2)
        q, k, v = (normed @ self.qkv.T + self.qkv_bias).view(len(x), -1, 3, 3, 2).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.mT / 2**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        total = tokens + attended @ self.pointwise[:, :, 0, 0].T
        normed = nn.functional.layer_norm(total, (6,), self.gain)
        y = nn.functional.gelu(total @ self.w_x.T + normed @ self.w_a.T)
        return nn.functional.layer_norm(y, (5,), None, self.shift)


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 9, 7, generator=torch.Generator().manual_seed(batch))


# Meaning


@either_door
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("operator", [name for name in OPERATORS if name not in WITHOUT_ACTIVATION])
def test_bias_then_residual_then_activation(operator: str, act: str, run: Door) -> None:
    call = replace(FULL[operator], act=act).call(torch.float64)
    assert relative_error(run(call), call.exact()) <= TOLERANCE[torch.float64]


@either_door
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_shape(form: Form, run: Door) -> None:
    call = form.call(torch.float32)
    assert relative_error(run(call).double(), call.exact()) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", TOLERANCE)
@every_operator
def test_every_dtype(form: Form, dtype: torch.dtype) -> None:
    call = form.call(dtype)
    found = by_function(call)
    assert found.dtype is dtype
    assert relative_error(found.double(), call.exact()) <= TOLERANCE[dtype]


@pytest.mark.slow
def test_the_plain_operators_mean_this_without_the_runtime() -> None:
    """Within this process the runtime may have brought its kernels, so another one runs what is there without it."""
    command = [sys.executable, "-m", "tests.ops.without_runtime"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]


@either_door
@every_operator
def test_no_images_and_no_rows_give_none(form: Form, run: Door) -> None:
    empty = replace(form, x=(0, *form.x[1:]))
    found = run(empty.call(torch.float32))
    assert found.shape == empty.shape
    assert found.shape[0] == 0


@every_operator
def test_nan_in_the_input_reaches_what_depends_on_it_and_no_more(form: Form) -> None:
    own_shape = replace(form, x=(form.x[0] + 3, *form.x[1:]))  # of which nothing is known when NaN is met first
    call = own_shape.call(torch.float32)
    call.x[-1] = torch.nan
    found = by_function(call)
    assert found[-1, form.k_a if form.operator == "prepend_tokens" else 0 :].isnan().all()
    assert found[:-1].isfinite().all()


# Memory


def apart(tensor: Tensor) -> Tensor:
    """The same values, every second one along the last dimension of a larger tensor."""
    spaced = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    spaced[..., ::2] = tensor
    return spaced[..., ::2]


def backwards(tensor: Tensor) -> Tensor:
    """The same values, in memory from the last dimension to the first."""
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def offset(tensor: Tensor) -> Tensor:
    """The same values, beginning at the second element of their storage, which kernels cannot load in vectors."""
    storage = torch.full((tensor.numel() + 1,), torch.nan, dtype=tensor.dtype)
    shifted = torch.as_strided(storage, tensor.shape, tensor.stride(), 1)
    return shifted.copy_(tensor)


def expanded(tensor: Tensor) -> Tensor:
    """One value everywhere, held in memory once."""
    return tensor.flatten()[:1].expand(tensor.shape)


@pytest.mark.parametrize("placed", [apart, backwards, offset, expanded, Tensor.contiguous])
@either_door
@every_operator
def test_tensors_may_lie_in_memory_in_any_way(form: Form, run: Door, placed: Callable[[Tensor], Tensor]) -> None:
    call = form.call(torch.float32).map(placed)
    before = call.map(Tensor.clone)
    found = run(call)
    assert relative_error(found.double(), call.exact()) <= TOLERANCE[torch.float32]
    for tensor, kept in zip(call.tensors, before.tensors, strict=True):
        assert torch.equal(tensor, kept)


@pytest.mark.parametrize("placed", [Tensor.clone, Tensor.contiguous, backwards])
@either_door
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_results_are_channels_last_or_row_major(form: Form, run: Door, placed: Callable[[Tensor], Tensor]) -> None:
    found = run(form.call(torch.float32).map(placed))
    assert found.is_contiguous(memory_format=form.layout)


@either_door
@pytest.mark.parametrize("operator", ["linear", "conv2d"])
def test_an_operator_that_does_nothing_still_gives_a_tensor_of_its_own(operator: str, run: Door) -> None:
    unit = torch.eye(5) if operator == "linear" else torch.eye(5)[:, :, None, None]
    x = torch.randn(3, 5) if operator == "linear" else torch.randn(3, 5, 2, 2)
    found = run(Call(operator, x, None, (unit, None), "none", (1, 1), (0, 0), 1))
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()


def test_a_weight_changed_in_place_counts_at_the_next_call() -> None:
    call = FULL["linear"].call(torch.float32)
    by_function(call)
    weight = call.weights[0]
    assert weight is not None
    weight.mul_(-2)
    assert relative_error(by_function(call).double(), call.exact()) <= TOLERANCE[torch.float32]


# Tracing


@every_operator
def test_opcheck(form: Form) -> None:
    operator = getattr(torch.ops.updp_rt, form.operator).default
    bare = replace(form, bias=False, residual=False, act="relu")
    wanting = form.call(torch.float32).map(Tensor.requires_grad_)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for call in (form.call(torch.float32), bare.call(torch.float32)):
        torch.library.opcheck(operator, call.args)
    # Its fourth test asks for gradients, which there are none of.
    torch.library.opcheck(operator, wanting.args, test_utils=tests)


def strides_that_count(tensor: Tensor) -> list[int]:
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@either_door
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_fake_tensors_get_the_shape_dtype_and_strides_of_real_ones(form: Form, run: Door) -> None:
    call = form.call(torch.bfloat16)
    real = run(call)
    with FakeTensorMode() as mode:
        fake = run(call.map(mode.from_tensor))
    assert fake.shape == real.shape == form.shape
    assert fake.dtype is real.dtype
    assert strides_that_count(fake) == strides_that_count(real)


@either_door
@every_operator
def test_one_graph_serves_every_batch_size(form: Form, run: Door) -> None:
    torch.compiler.reset()  # what is compiled is counted by line of source, over all tests
    counter = CompileCounter()
    first = form.call(torch.float32)

    @torch.compile(fullgraph=True, backend=counter)
    def compiled(x: Tensor, other: Tensor | None) -> Tensor:
        return run(replace(first, x=x, other=other))

    for batch in (3, 5, 11):
        call = replace(form, x=(batch, *form.x[1:])).call(torch.float32)
        for tensor in (call.x, call.other):
            if tensor is not None:
                torch._dynamo.mark_dynamic(tensor, 0)
        wanted = replace(first, x=call.x, other=call.other).exact()
        with torch.no_grad():
            assert relative_error(compiled(call.x, call.other).double(), wanted) <= TOLERANCE[torch.float32]
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", [slow("aot_eager"), "inductor"])
def test_compiles_as_one_graph(backend: str) -> None:
    chain = Chain()
    compiled = torch.compile(chain, fullgraph=True, backend=backend)
    with torch.inference_mode():
        for batch in (2, 3):
            x = images(batch)
            assert relative_error(compiled(x), chain.in_standard_operators(x)) <= 1e-5


@pytest.mark.parametrize("batch", [None, torch.export.Dim("batch", min=1, max=64)], ids=["fixed", "any"])
def test_an_exported_program_is_of_standard_operators(batch: Any) -> None:
    chain = Chain().requires_grad_(False)
    program = torch.export.export(chain, (images(2),), dynamic_shapes=None if batch is None else {"x": {0: batch}})
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called
    assert not {name for name in called if "updp_rt" in name}
    x = images(2 if batch is None else 5)
    assert relative_error(program.module()(x), chain.in_standard_operators(x)) <= 1e-5


# No gradient


@either_door
@every_operator
def test_asking_for_a_gradient_names_what_to_do(form: Form, run: Door) -> None:
    call = form.call(torch.float32)
    for wanting in call.tensors:
        wanting.requires_grad_()
        result = run(call)
        with pytest.raises(ops.InferenceOnlyError, match=r"(?s)inference_mode\(\).*updp_rt\.restore") as error:
            result.sum().backward()
        assert isinstance(error.value, RuntimeError)
        assert "\n" not in str(error.value)
        wanting.requires_grad_(False)


@either_door
@every_operator
def test_parameters_that_want_gradients_are_fine_where_none_are_recorded(form: Form, run: Door) -> None:
    call = form.call(torch.float32).map(Tensor.requires_grad_)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            found = run(call)
        assert not found.requires_grad
        assert relative_error(found.double(), call.exact().detach()) <= TOLERANCE[torch.float32]


@every_operator
def test_copies_and_pickles_of_an_operator_are_the_one_registered(form: Form) -> None:
    operator = ops.OPERATORS[form.operator]
    assert copy.deepcopy(operator) is operator
    assert pickle.loads(pickle.dumps(operator)) is operator
