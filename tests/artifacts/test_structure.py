"""Models changed in code come back: what timm builds from arguments, other layers by structure, the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath, GroupNorm
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils._pytree import tree_leaves

import updp_rt
from updp_rt.artifacts import ArtifactError, read_manifest
from updp_rt.artifacts.describe import baseline, describe_model, skeleton
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize

Edit = Callable[[Any], Any]


def create(name: str, edit: Edit | None = None, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model = randomize(timm.create_model(name, **arguments))
    if edit is not None:
        edit(model)
    return model.eval()


def head(*layers: nn.Module) -> Edit:
    def edit(model: Any) -> None:
        model.fc = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    return edit


def assert_comes_back(model: nn.Module, folder: Path, **options: Any) -> dict[str, Any]:
    """Saves and loads; returns the manifest."""
    again = updp_rt.load(updp_rt.save(model, folder, **options))
    assert repr(again) == repr(model)
    ours, theirs = model.state_dict(), again.state_dict()
    assert {name: value.dtype for name, value in ours.items()} == {name: value.dtype for name, value in theirs.items()}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert len(list(again.parameters())) == len(list(model.parameters()))
    x = torch.randn(2, *read_manifest(folder).input_size).to(next(model.parameters()).dtype)
    with torch.no_grad():
        pairs = list(zip(tree_leaves(again(x)), tree_leaves(model(x)), strict=True))
    assert all(torch.equal(got, want) for got, want in pairs)
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("name", "arguments", "kept"),
    [
        ("test_vit", {"qk_norm": True}, {"qk_norm": True}),
        ("test_vit", {"img_size": (48, 64), "class_token": False, "global_pool": "avg"}, {"img_size": [48, 64]}),
        ("test_vit", {"norm_layer": timm.layers.RmsNorm}, {"norm_layer": "rmsnorm"}),
        ("resnet10t", {"output_stride": 8, "global_pool": "catavgmax"}, {"output_stride": 8}),
        ("test_resnet", {"drop_rate": 0.1, "drop_path_rate": 0.2}, {"drop_rate": 0.1, "drop_path_rate": 0.2}),
        ("test_resnet", {"in_chans": 1, "num_classes": 0}, {"in_chans": 1, "num_classes": 0}),
        ("test_resnet", {"act_layer": nn.SiLU, "block_args": {"attn_layer": "se"}}, {"act_layer": "silu"}),
        ("test_resnet", {"features_only": True, "out_indices": (1, 3)}, {"out_indices": [1, 3]}),
        ("test_resnet", {"features_only": True, "feature_cls": FeatureListNet}, {"feature_cls": "list"}),
        ("test_resnet", {"features_only": True, "feature_cls": "fx"}, {"feature_cls": "fx"}),
        ("test_vit", {"features_only": True, "img_size": 32}, {"features_only": True}),
        ("test_convnext", {"conv_mlp": True, "num_classes": 4}, {"conv_mlp": True}),
    ],
)
def test_arguments_of_create_model_are_known(
    name: str, arguments: dict[str, Any], kept: dict[str, Any], tmp_path: Path
) -> None:
    manifest = assert_comes_back(create(name, **arguments), tmp_path)
    assert kept.items() <= manifest["model_args"].items()
    assert "layers" not in manifest


def test_models_that_take_no_names_of_layers(tmp_path: Path) -> None:
    manifest = assert_comes_back(create("test_vit_relpos", act_layer=nn.SiLU), tmp_path)
    assert manifest["model_args"]["act_layer"] == "silu"


def test_a_head_that_timm_resets(tmp_path: Path) -> None:
    manifest = assert_comes_back(create("test_resnet", lambda m: m.reset_classifier(5, "max")), tmp_path)
    assert manifest["model_args"] == {"num_classes": 5, "global_pool": "max"}


WIDTH = timm.create_model("test_resnet").num_features


def small_stem(model: Any) -> None:
    model.conv1 = nn.Conv2d(3, model.bn1.num_features, 5, padding=2, bias=False)
    model.maxpool = nn.Identity()


def other_eps(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


@pytest.mark.parametrize(
    ("name", "edit", "layers"),
    [
        ("test_resnet", head(nn.Dropout(0.3), nn.Linear(WIDTH, 7)), {"fc"}),
        ("test_resnet", head(nn.Linear(WIDTH, 1000, bias=False)), {"fc"}),
        ("test_resnet", head(nn.Linear(WIDTH, 7)), set()),
        ("test_resnet", head(nn.Identity()), {"fc"}),
        (
            "test_resnet",
            head(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Sequential(nn.Linear(8, 3))),
            {"fc"},
        ),
        (
            "test_convnext",
            lambda m: setattr(m.head, "fc", nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 3))),
            {"head.fc"},
        ),
        ("test_vit", lambda m: setattr(m, "head", nn.Sequential(nn.Linear(64, 9), nn.Tanh())), {"head"}),
        ("test_resnet", head(timm.layers.GELU(), timm.layers.GELUTanh(), timm.layers.PReLU()), {"fc"}),
        ("test_resnet", head(nn.Linear(WIDTH, 8), timm.layers.activations_me.HardSwishMe()), {"fc"}),
        ("test_vit", lambda m: setattr(m, "blocks", m.blocks[:3]), {"blocks.3", "blocks.4", "blocks.5"}),
        ("test_resnet", small_stem, {"conv1", "maxpool"}),
        ("test_resnet", lambda m: setattr(m.layer1[0], "act1", nn.LeakyReLU(0.2)), {"layer1.0.act1"}),
    ],
)
def test_layers_changed_in_code_are_told_by_structure(name: str, edit: Edit, layers: set[str], tmp_path: Path) -> None:
    manifest = assert_comes_back(create(name, edit), tmp_path)
    assert set(manifest.get("layers", {})) == layers
    assert "settings" not in manifest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_changed_head_in_another_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    assert_comes_back(create("test_resnet", head(nn.Dropout(), nn.Linear(WIDTH, 3))).to(dtype), tmp_path)


def test_settings_changed_in_code(tmp_path: Path) -> None:
    manifest = assert_comes_back(create("test_efficientnet", other_eps), tmp_path)
    assert set(manifest["settings"].values()) == {1e-3}

    def change(model: Any) -> None:
        model.layer1[0].conv1.stride = (2, 2)
        model.layer1[0].downsample = nn.Sequential(nn.AvgPool2d(2), *model.layer1[0].downsample or [])
        model.drop_rate = 0.5

    manifest = assert_comes_back(create("resnet10t", change), tmp_path)
    assert manifest["settings"] == {"drop_rate": 0.5}
    assert set(manifest["layers"]) == {"layer1.0.conv1", "layer1.0.downsample"}


def test_models_of_timm_s_own_functions_have_no_arguments_on_record(tmp_path: Path) -> None:
    manifest = assert_comes_back(timm.models.resnet18(output_stride=16).eval(), tmp_path)
    assert manifest["model_args"] == {}
    model = timm.models.test_resnet(drop_path_rate=0.2).eval()
    with pytest.raises(ArtifactError, match=r"drop_path is a DropPath.*model_args, or keep its weights"):
        updp_rt.save(model, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    assert_comes_back(model, tmp_path / "yes", model_args={"drop_path_rate": 0.2})
    assert isinstance(updp_rt.load(tmp_path / "yes").layer4[0].drop_path, DropPath)


def test_model_args_may_be_any_plain_argument(tmp_path: Path) -> None:
    model = create("test_vit", qk_norm=True, init_values=1e-5)
    del model._model_args
    with pytest.raises(ArtifactError, match=r"could not be loaded again: blocks\.0\.attn\.q_norm is a LayerNorm"):
        updp_rt.save(model, tmp_path)
    assert_comes_back(model, tmp_path, model_args={"qk_norm": True, "init_values": 1e-5, "act_layer": timm.layers.GELU})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nonsense": 1}, r"timm cannot build test_vit with \{'nonsense': 1\}: .*nonsense"),
        ({"embed_dim": 32, "num_heads": 1}, "could not be loaded again: .*(32|64)"),
        ({"act_layer": nn.Module()}, "model_args cannot be saved: act_layer: a Module is not a number"),
        ({"pretrained_cfg": "x"}, "model_args cannot be saved: pretrained_cfg: not an argument that is saved"),
    ],
)
def test_model_args_are_verified(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        updp_rt.save(create("test_vit"), tmp_path, model_args=arguments)


class Mine(nn.Linear):
    pass


def masked(model: Any) -> None:
    prune.l1_unstructured(model.layer1[0].conv1, "weight", amount=0.5)


@pytest.mark.parametrize(
    ("arguments", "edit", "message"),
    [
        ({}, head(Mine(WIDTH, 3)), r"fc is a Mine that timm does not put there, and no plain layer of torch\. Pass"),
        ({}, head(nn.Dropout(), Mine(WIDTH, 3)), r"fc\.1 is a Mine"),
        ({}, lambda m: parametrizations.weight_norm(m.fc), r"fc is parametrized: make that permanent"),
        ({}, masked, r"layer1\.0\.conv1 is a Conv2d that holds weight, weight_mask, weight_orig: make .*prune\.remove"),
        ({"norm_layer": partial(GroupNorm, num_groups=2)}, None, r"GroupNorm.*norm_layer cannot be kept as it was"),
        ({}, lambda m: setattr(m.fc, "forward", lambda x: x.flatten(1)[:, :5]), "computes something else"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_with_a_way_out(
    arguments: dict[str, Any], edit: Edit | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        updp_rt.save(create("test_resnet", edit, **arguments), tmp_path / "no")
    assert "state_dict()" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "no").exists()


def test_weights_in_another_memory_format_are_the_same_weights(tmp_path: Path) -> None:
    model = create("resnet10t", num_classes=3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loaded = updp_rt.load(updp_rt.save(model, tmp_path / "m"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_norms_that_were_made_to_synchronise(tmp_path: Path) -> None:
    assert_comes_back(nn.SyncBatchNorm.convert_sync_batchnorm(create("test_resnet")), tmp_path)


def test_wrappers_are_named_as_such(tmp_path: Path) -> None:
    model = create("test_resnet")
    for wrapped, name in ((torch.compile(model), "_orig_mod"), (nn.DataParallel(model), "module")):
        with pytest.raises(ArtifactError, match=rf"is a wrapper: give the model in it, which is its \.{name}$"):
            updp_rt.save(wrapped, tmp_path / "m")  # type: ignore[arg-type]
    model.register_buffer("seen", torch.zeros(1))
    with pytest.raises(ArtifactError, match="only this model has seen beside its layers"):
        updp_rt.save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_progressive_model_is_to_be_merged_first(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a ProgressiveBasicBlock"):
        updp_rt.save(make_progressive(create("test_resnet")), tmp_path)


# Weights that are the same tensor.


def tie_layers(model: Any) -> None:
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight


def share_module(model: Any) -> None:
    model.head_dist = model.head


@pytest.mark.parametrize(
    ("name", "edit", "tied"),
    [
        ("resnet10t", tie_layers, {"layer1.0.conv2.weight": "layer1.0.conv1.weight"}),
        (
            "deit_tiny_distilled_patch16_224",
            share_module,
            {"head_dist.weight": "head.weight", "head_dist.bias": "head.bias"},
        ),
    ],
)
def test_tied_weights_are_stored_once_and_tied_again(
    name: str, edit: Edit, tied: dict[str, str], tmp_path: Path
) -> None:
    arguments = {"img_size": 32} if "deit" in name else {}
    manifest = assert_comes_back(create(name, edit, **arguments), tmp_path)
    assert manifest["tied"] == tied
    weights = dict(updp_rt.load(tmp_path).named_parameters(remove_duplicate=False))
    assert all(weights[name] is weights[source] for name, source in tied.items())


def test_weights_that_share_memory_without_being_one(tmp_path: Path) -> None:
    def slices(model: Any) -> None:
        both = torch.randn(2, *model.fc.bias.shape)
        model.fc.bias.data, model.fc.weight.data[0] = both[0], 1.0
        model.bn1.running_mean = both[1, : len(model.bn1.running_mean)]

    assert "tied" not in assert_comes_back(create("test_resnet", slices), tmp_path)


# Changed models that were then pruned.


def changed() -> nn.Module:
    return create("resnet10t", head(nn.Dropout(0.3), nn.Linear(512, 5)), drop_rate=0.1)


def test_a_merged_model_with_a_changed_head(tmp_path: Path) -> None:
    subnet = make_progressive(changed(), prunable_blocks(changed())[:2])
    set_lambda(subnet, 1.0)
    manifest = assert_comes_back(merge_model(subnet), tmp_path)
    assert set(manifest["layers"]) == {"fc"}
    before = baseline(read_manifest(tmp_path))
    assert repr(before) == repr(changed())


def test_a_changed_head_behind_pruned_channels(tmp_path: Path) -> None:
    pruned = updp_rt.prune_channels(changed(), torch.randn(1, 3, 32, 32)).model
    manifest = assert_comes_back(pruned, tmp_path, input_size=(3, 64, 64))
    assert set(manifest["layers"]) == {"fc"}
    assert manifest["channels"]["shapes"]
    with pytest.raises(ArtifactError, match="how large its own layers were"):
        baseline(read_manifest(tmp_path))


def test_a_skeleton_has_the_structure_and_takes_the_weights() -> None:
    model = create("resnet10t", tie_layers)
    model.fc = nn.Sequential(nn.Dropout(0.3), nn.Linear(512, 5))
    again = skeleton(describe_model(model))
    assert repr(again) == repr(model)
    again.load_state_dict(model.state_dict())
    assert again.layer1[0].conv2.weight is again.layer1[0].conv1.weight


# Manifests that others wrote.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create("test_resnet", head(nn.Dropout(0.3), nn.Linear(WIDTH, 7)))
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight
    return updp_rt.save(model, tmp_path_factory.mktemp("saved"))


HUGE = {"kind": "Linear", "arguments": {"in_features": 10**6, "out_features": 10**6}}
LINEAR = {"kind": "Linear", "arguments": {"in_features": WIDTH, "out_features": 7}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"fc": {"kind": "Embedding"}}}, "no plain layer of torch is called 'Embedding'"),
        ({"layers": {"fc": {"kind": "os.system"}}}, "damaged .*layers"),
        ({"layers": {"fc": {"kind": "Linear", "arguments": {"cmd": "x"}}}}, "torch makes no Linear of"),
        ({"layers": {"fc": {"kind": "Linear", "arguments": {"in_features": 10**12}}}}, "damaged .*in_features"),
        (
            {"layers": {"fc": {"kind": "Linear", "arguments": {"in_features": 10**6, "out_features": 10**6}}}},
            "not those",
        ),
        ({"layers": {"fc": LINEAR}}, "not those of this architecture"),
        ({"layers": {"forward": LINEAR}}, "'forward' is a name that ResNet uses itself"),
        ({"layers": {"__class__": LINEAR}}, "'__class__' is a name that ResNet uses itself"),
        ({"layers": {"nothing.fc": LINEAR}}, "no 'nothing' to put 'fc' in"),
        ({"layers": {"nothing": None}}, "no 'nothing' to leave out"),
        ({"layers": {"a b": None}}, "damaged .*layers"),
        ({"layers": {}}, "not those of this architecture"),
        ({"settings": {"drop_rate": "../x"}}, "damaged .*drop_rate"),
        ({"settings": {"forward": 1}}, "no setting 'forward'"),
        ({"settings": {"nothing.p": 1}}, "no module 'nothing'"),
        ({"settings": {"training": True}}, "no setting 'training'"),
        ({"settings": {"layer1._modules": 1}}, "no setting 'layer1._modules'"),
        ({"tied": {}}, "not those of this architecture"),
        ({"tied": {"layer1.0.conv2.weight": "nothing"}}, "no weights 'nothing'"),
        ({"tied": {"layer1.0.conv2.weight": "bn1.running_mean"}}, "not of one kind|not those"),
    ],
)
def test_hostile_manifests(saved: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((saved / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(ArtifactError, match=message) as caught:
        updp_rt.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_deep_nests_of_layers_are_damage(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    nest = '{"kind": "Sequential", "layers": {"0": ' * 10_000 + '{"kind": "Identity"}' + "}}" * 10_000
    manifest = json.loads((saved / "manifest.json").read_text()) | {"layers": {"fc": "NEST"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest).replace('"NEST"', nest))
    with pytest.raises(ArtifactError, match="not a manifest of updp_rt"):
        updp_rt.load(tmp_path)


def test_outputs_that_are_nan_are_saved_as_they_are(tmp_path: Path) -> None:
    model = create("test_resnet")
    with torch.no_grad():
        model.fc.weight.fill_(float("nan"))
    out: Tensor = updp_rt.load(updp_rt.save(model, tmp_path))(torch.randn(1, 3, 32, 32))
    assert out.isnan().all()


def test_models_made_in_inference_mode_can_be_trained(tmp_path: Path) -> None:
    model = create("test_resnet", head(nn.Linear(WIDTH, 3)))
    with torch.inference_mode():
        subnet = make_progressive(model, prunable_blocks(model)[:1])
        set_lambda(subnet, 1.0)
        merged = merge_model(subnet)
        loaded = updp_rt.load(updp_rt.save(merged, tmp_path))
    for made in (subnet, merged, loaded):
        assert not any(tensor.is_inference() for tensor in made.state_dict(keep_vars=True).values())
        made.train()(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(p.requires_grad for p in made.parameters())
