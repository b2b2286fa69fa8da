"""Models of any kind: other inputs than images, tensors beside parameters, casts, modes, names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import updp_rt
from tests.channels.layers import Layers, X, kept, prune
from updp_rt.channels import Selecting, Selection, mask_model, select_input
from updp_rt.channels.check import check_equal
from updp_rt.runtime.engines.base import OnEngine

# Inputs.


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(10, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.down(F.gelu(self.up(x)))


class Several(nn.Module):
    """Takes a dictionary and a tensor, and reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(3, 8), nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, first: dict[str, Tensor], second: Tensor) -> Tensor:
        return self.last(F.relu(self.left(first["x"]) + self.right(second)))


@pytest.mark.parametrize(
    ("model", "example", "macs"),
    [
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), torch.randn(2, 3, 9), 36 * 7 + 48 * 5),
        (
            nn.Sequential(nn.Conv1d(3, 8, 3), nn.MaxPool1d(2), nn.Conv1d(8, 4, 1)),
            torch.randn(3, 9),
            36 * 7 + 16 * 3,
        ),  # no batch
        (
            nn.Sequential(
                nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(64, 4)
            ),
            torch.randn(2, 3, 4, 4, 4),
            None,
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 4, 1)),
            torch.randn(3, 6, 6),
            12 * 36 + 16 * 4,
        ),
        (nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 3), 12 + 16),
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(3), 12 + 16),
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 5, 3), 5 * (12 + 16)),
        (Tokens(), torch.randint(0, 10, (2, 5)), 5 * (4 * 6 + 6 * 8)),
        (Layers(lambda s, x: s.c(s.b(s.a(x["image"])))), {"image": X}, None),
        (Several(), ({"x": torch.randn(2, 3)}, torch.randn(2, 5)), 12 + 20 + 16),
    ],
)
def test_inputs_of_any_kind(model: nn.Module, example: Any, macs: int | None) -> None:
    result = prune(model, example)
    assert result.pruned_cost.params < result.cost.params
    arguments = example if isinstance(example, tuple) else (example,)
    with torch.no_grad():
        torch.testing.assert_close(result.model(*arguments), mask_model(model, result.masks)(*arguments))
    if macs is not None:
        assert result.pruned_cost.macs == macs


def test_ranks_and_outputs_of_several_inputs() -> None:
    batches = [({"x": torch.randn(2, 3)}, torch.randn(2, 5)) for _ in range(2)]
    result = updp_rt.prune_channels(Several(), batches[0], 0.3, "hrank", images=batches)
    assert kept(result)["last"] < 8


def test_ranks_of_images_without_a_batch() -> None:
    model, image = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), torch.randn(3, 6, 6)
    with torch.no_grad():
        model[0].weight[5:], model[0].bias[5:] = 0, 1  # maps of rank 1, which go first
    result = updp_rt.prune_channels(model, image, 3 / 8, "hrank", scope="local", images=[image])
    assert result.masks["1"].tolist() == [True] * 5 + [False] * 3
    vectors = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    assert kept(prune(vectors, torch.randn(3), importance="hrank", images=[torch.randn(3)])) == {"2": 4}


@pytest.mark.parametrize("example", [(), {}, {"x": 1}, np.zeros((1, 3)), torch.randn(0, 3)])
def test_an_example_without_numbers_is_refused(example: Any) -> None:
    with pytest.raises(updp_rt.ChannelError, match="example_input holds no numbers"):
        updp_rt.prune_channels(nn.Linear(3, 3), example)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(updp_rt.ChannelError, match="on the meta device"):
        updp_rt.prune_channels(nn.Linear(3, 3).to("meta"), torch.randn(2, 3, device="meta"))


def test_an_example_that_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(updp_rt.ChannelError, match="invalid combination of arguments") as refused:
        updp_rt.prune_channels(Layers(lambda s, x: s.c(s.b(s.a([x])))), X)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"amount": 1.5}, "from 0 to below 1, not 1.5"),
        ({"scope": "everywhere"}, "choose among local, global"),
        ({"importance": "luck"}, "choose among magnitude"),
        ({"importance": "hrank"}, "needs images"),
        ({"limits": {"*": 2}}, "is a share from 0 to below 1"),
    ],
)
def test_settings_are_refused_before_any_work(settings: dict[str, Any], message: str) -> None:
    def never(s: Any, x: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(updp_rt.ChannelError, match=message):
        updp_rt.prune_channels(Layers(never), X, **settings)


# Tensors beside parameters.


def scaled(scale: Callable[[Any], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda s, x: s.c(F.relu(s.b(F.relu(s.a(x)) * scale(s))))


SCALE = torch.rand(8, 1, 1)


@pytest.mark.parametrize(
    ("run", "attributes", "narrowed"),
    [
        (lambda s, x: s.c(s.b(s.a(x - s.mean))), {"mean": torch.rand(1, 3, 1, 1)}, True),
        (lambda s, x: s.c(s.b(s.a(x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)))), {}, True),
        (scaled(lambda s: s.scale), {"scale": SCALE}, True),
        (scaled(lambda s: s.scale + 1), {"scale": SCALE}, True),
        (scaled(lambda s: s.scale[0]), {"scale": [SCALE]}, False),
        (scaled(lambda s: s.scale["x"]), {"scale": {"x": torch.tensor(2.0)}}, True),
        (scaled(lambda s: torch.from_numpy(s.scale)), {"scale": SCALE.numpy()}, False),
        (scaled(lambda s: s.c.scale), {}, True),
        (scaled(lambda s: s.one * s.two[0]), {"one": SCALE, "two": [SCALE]}, False),  # one tensor in two places
        (scaled(lambda s: torch.full((8, 1, 1), 0.5)), {}, False),
    ],
)
def test_plain_tensors(run: Callable[..., Tensor], attributes: dict[str, Any], narrowed: bool) -> None:
    model = Layers(run, **attributes)
    model.c.scale = SCALE.clone()  # in a submodule
    result = prune(model)
    assert kept(result) == ({"b": 4, "c": 4} if narrowed else {"c": 4})
    assert model.c.scale.shape == SCALE.shape
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), mask_model(model, result.masks)(x))


def test_a_tensor_of_two_names_stays() -> None:
    model = Layers(scaled(lambda s: s.one), one=SCALE, two=SCALE)
    assert kept(prune(model)) == {"c": 4}
    norm = nn.BatchNorm2d(8)
    model = Layers(lambda s, x: s.c(s.b(s.norm(s.a(x)) + s.mean.view(1, -1, 1, 1))), norm=norm, mean=norm.running_mean)
    assert kept(prune(model)) == {"c": 4}


def test_a_plain_tensor_that_is_trained() -> None:
    result = prune(Layers(scaled(lambda s: s.scale), scale=SCALE.clone().requires_grad_()))
    result.model(X).sum().backward()
    assert result.model.scale.grad.shape == (4, 1, 1)


def test_buffers_that_are_not_saved() -> None:
    model = Layers(scaled(lambda s: s.scale))
    model.register_buffer("scale", SCALE, persistent=False)
    result = prune(model)
    assert result.model.scale.shape == (4, 1, 1)
    assert result.model.state_dict().keys() == model.state_dict().keys()


# Casts.


def under_autocast(s: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = F.relu(s.b(s.a(x)))
    return s.c(y.float())


class FloatNorm(nn.Module):
    """As language models have them: in float32, then back, so that float64 runs but is rounded."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * 0.3).to(x.dtype)


@pytest.mark.parametrize(
    "model",
    [
        Layers(lambda s, x: s.c(s.b(s.a(x.float())))),
        Layers(lambda s, x: s.c(s.b(F.relu(s.a(x)).half().float()))),
        Layers(lambda s, x: s.c(s.b(F.relu(s.a(x)).double().float()))),
        Layers(lambda s, x: s.c(s.b(F.relu(s.a(x)).to(torch.bfloat16).type_as(x)))),
        Layers(lambda s, x: s.c(s.b(s.a(x) * torch.ones(1, dtype=torch.float32)).to(s.c.weight.dtype))),
        Layers(lambda s, x: s.c(s.norm(s.b(s.norm(s.a(x))))), norm=FloatNorm()),
        Layers(under_autocast),
        Layers(lambda s, x: s.c(s.b(s.a(x.bfloat16())))).bfloat16(),
        Layers(lambda s, x: s.c(s.b(s.a(x.half()))).float()).half(),
    ],
)
def test_models_that_cast(model: nn.Module) -> None:
    result = prune(model)
    assert kept(result) == {"b": 4, "c": 4}
    assert {p.dtype for p in result.model.parameters()} == {p.dtype for p in model.parameters()}
    assert result.model(X).isfinite().all()
    prune(model, amount=0.2, images=[X])


@torch.library.custom_op("updp_rt_tests::only_float32", mutates_args=())
def only_float32(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise TypeError("float32 alone")
    return x * 2


@only_float32.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_the_models_own_dtype_where_float64_does_not_run() -> None:
    model = Layers(lambda s, x: only_float32(s.c(F.relu(s.b(F.relu(s.a(x)))))))
    result = updp_rt.prune_channels(model, X, scope="local", images=[X])
    assert result.precision == result.to_dict()["precision"] == "float32"
    assert result.error < 1e-3
    wrong = copy.deepcopy(result.model)
    with torch.no_grad():
        wrong.c.weight[:, 0] *= 1.5
    with pytest.raises(updp_rt.ChannelError, match="differs from the masked one"):
        check_equal(mask_model(model, result.masks), wrong, X, exact=False)


def test_outputs_of_other_dtypes_are_compared() -> None:
    def run(s: Any, x: Tensor) -> Any:
        y = s.c(s.b(s.a(x)))
        return y.argmax(1), y > 0, torch.view_as_complex(y.reshape(-1, 2)), y[:0]

    prune(Layers(run))


# Names.


@pytest.mark.parametrize("name", ["fusion", "selection", "without_selection", "selected_channels", "source", "sites"])
def test_children_of_any_name(name: str) -> None:
    model = Layers(lambda s, x: s.c(getattr(s, name)(s.b(s.a(x)))), **{name: nn.Conv2d(8, 8, 1)})
    assert kept(prune(model))[name] == 4


class Own(nn.Conv2d):
    """A layer with a `selection` of its own."""

    selection = "mine"


def test_attributes_of_any_name_are_left_alone() -> None:
    model = Layers(lambda s, x: s.c(s.own(s.b(s.a(x)))), own=Own(8, 8, 1))
    result = prune(model, masks={"b": np.arange(8) < 4, "c": np.arange(8) < 8})
    assert result.model.own.selection == "mine"
    assert not isinstance(result.model.own, Selecting)


def test_an_accelerated_model_is_refused_by_its_mark() -> None:
    model = Layers(lambda s, x: s.c(s.b(s.a(x)))).eval()
    fast = updp_rt.accelerate(model, X, backends=["reference"])
    with pytest.raises(updp_rt.ChannelError, match=r"updp_rt\.restore it"):
        updp_rt.prune_channels(fast, X)


def test_a_model_on_an_engine_is_refused_by_its_mark() -> None:
    model = Layers(lambda s, x: s.c(s.b(s.a(x)))).eval()
    model.__class__ = type("Compiled", (OnEngine, Layers), {})
    with pytest.raises(updp_rt.ChannelError, match=r"updp_rt\.restore it"):
        updp_rt.prune_channels(nn.Sequential(model), X)


def test_what_is_not_finite_is_refused_by_name() -> None:
    model = Layers(lambda s, x: s.c(s.b(s.a(x)))).eval()
    with pytest.raises(updp_rt.ChannelError, match="example_input holds NaN or infinity"):
        updp_rt.prune_channels(model, X / 0)
    with torch.no_grad():
        next(iter(model.b.parameters()))[0] = float("nan")
    with pytest.raises(updp_rt.ChannelError, match=r"b\.weight holds NaN or infinity"):
        updp_rt.prune_channels(model, X)


# Modes.


def modal() -> nn.Module:
    """On one image its norm refuses to train: there is one value a channel."""
    return Layers(lambda s, x: s.norm(s.c(s.b(s.a(x))).mean((2, 3))), norm=nn.BatchNorm1d(4))


@pytest.mark.parametrize("change", [lambda m: m.train(), lambda m: m.norm.train(), lambda m: m.append_dropout()])
def test_train_mode_is_refused_where_it_matters(change: Callable[[Any], Any]) -> None:
    model: Any = modal().eval()
    model.append_dropout = lambda: model.add_module("drop", nn.Dropout(0.5))
    change(model)
    with pytest.raises(updp_rt.ChannelError, match=r"call model\.eval\(\) first"):
        updp_rt.prune_channels(model, X[:1])


def test_a_model_without_modes_keeps_its_own() -> None:
    model = Layers(lambda s, x: s.c(s.b(s.a(x)))).train()
    model.b.eval()
    narrow = updp_rt.prune_channels(model, X[:1], scope="local").model
    assert [m.training for m in narrow.modules()] == [m.training for m in model.modules()]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("made_inside", [False, True])
def test_the_result_can_be_trained(mode: Callable[[], Any], made_inside: bool) -> None:
    model = modal().eval()
    with mode():
        if made_inside:
            model = modal().eval()
        narrow = updp_rt.prune_channels(model, torch.randn(1, 3, 6, 6), scope="local").model
    assert all(p.requires_grad and not p.is_inference() for p in narrow.parameters())
    narrow.train()(X).sum().backward()
    assert all(p.grad is not None for p in narrow.parameters())


def test_layers_that_select_can_be_trained_wherever_they_were_made() -> None:
    layer, x = nn.Conv2d(3, 2, 1), torch.randn(2, 8, 4, 4, requires_grad=True)
    with torch.inference_mode():
        select_input(layer, Selection.gather(1, [0, 3, 4], 8))
        whole = layer.without_selection()
    torch.testing.assert_close(layer(x), whole(x))
    (layer(x).sum() + whole(x).sum()).backward()
    torch.testing.assert_close(whole.weight.grad[:, [0, 3, 4]], layer.weight.grad)
