"""Check 15 of the specification, and insertion into real networks."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from jostle import JostleError
from jostle.style import DSU, AdvStyle, enabled, insert, param_groups, places, scales, style_layers
from jostle.zoo import normalised


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))


X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_insert_then_remove_restores_outputs_and_keys():
    model = net().train()
    before, keys = model(X), set(model.state_dict())
    handle = insert(model, ["1", "2"], "dsu", example=X, p=1.0)
    assert not torch.equal(model(X), before)
    assert handle.names == ("1", "2")
    handle.active(False)
    assert torch.equal(model(X), before)
    handle.remove()
    handle.remove()
    assert torch.equal(model(X), before) and set(model.state_dict()) == keys


def test_the_layers_are_the_models_own():
    model = net()
    with insert(model, ["1"], example=X, lam=3.0, generator=torch.Generator().manual_seed(0)):
        assert "style_layers.1.sigma_mu" in model.state_dict()
        assert len(scales(model)) == 2 and style_layers(model)["1"].lam == 3.0
        weights, own = param_groups(model, weight_decay=0.1, weight_decay_scales=0.0)
        assert len(weights["params"]) == 6 and own["params"] == scales(model) and own["weight_decay"] == 0
        model.eval()
        assert torch.equal(model(X), net().eval()(X))
        with pytest.raises(JostleError, match="already"):
            insert(model, ["1"], example=X)


def test_a_copy_has_layers_of_its_own():
    model = net()
    insert(model, ["1"], example=X, probs=(0.0, 1.0, 0.0))
    twin = copy.deepcopy(model)
    twin(X)
    assert bool(style_layers(twin)["1"].initialised) and not bool(style_layers(model)["1"].initialised)


def test_enabled_goes_back():
    model = nn.Sequential(DSU(3, p=1.0))
    with enabled(model, False):
        assert model(X) is X
    assert model(X) is not X


def wrapped():
    return normalised(timm.create_model("resnet18"), (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (torchvision.models.resnet18, "maxpool layer1 layer2 layer3"),
        (wrapped, "model.maxpool model.layer1 model.layer2 model.layer3"),
        (torchvision.models.mobilenet_v2, "features.1 features.3 features.6 features.13"),
        (torchvision.models.efficientnet_b0, "features.1 features.2 features.3 features.5"),
    ],
)
def test_automatic_places(make, wanted):
    model = make()
    example = torch.rand(2, 3, 64, 64)
    assert places(model, "auto", example) == tuple(wanted.split())
    handle = insert(model, "auto", example=example, probs=(0.0, 0.5, 0.5))
    model.train()
    model(example).sum().backward()
    assert all(int(layer.n_adv + layer.n_dsu) == 1 for layer in handle.layers.values())


def test_the_official_places_are_for_resnets():
    wanted = ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    assert places(torchvision.models.resnet18(), "official") == wanted
    assert places(torchvision.models.resnet18(), "early") == wanted[:4]
    with pytest.raises(JostleError, match="ResNets"):
        places(torchvision.models.mobilenet_v2(), "official")


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_transformers_keep_their_class_token(family):
    if family == "timm":
        model = timm.create_model("vit_tiny_patch16_224", img_size=32)
    else:
        model = torchvision.models.VisionTransformer(32, 16, 4, 2, 16, 32)
    handle = insert(model, "auto", "dsu", example=torch.rand(2, 3, 32, 32), p=1.0)
    assert len(handle.layers) == 3
    block = model.get_submodule(handle.names[-1])
    seen = []
    hook = block.register_forward_hook(lambda m, i, o: seen.append(o))  # after the style layer's
    model.train()
    x = torch.rand(2, 3, 32, 32)
    model(x)
    handle.remove()
    hook.remove()
    assert seen[0].shape[1] == 5
    probe = torch.rand(2, 5, seen[0].shape[2])
    hook_free = block(probe)
    handle = insert(model, [handle.names[-1]], "dsu", example=x, p=1.0)
    styled = block(probe)
    if family == "timm":  # its blocks are deterministic
        assert torch.equal(styled[:, 0], hook_free[:, 0]) and not torch.equal(styled[:, 1:], hook_free[:, 1:])


def test_errors_name_what_is_near():
    with pytest.raises(JostleError, match="layer1"):
        insert(torchvision.models.resnet18(), ["layr1"])
    with pytest.raises(JostleError, match="needs \\(batch, channels"):
        insert(net(), ["3"], example=X)
    with pytest.raises(JostleError, match="dry run"):
        insert(net(), ["1"], example=torch.rand(2, 5, 8, 8))
    with pytest.raises(JostleError, match="kind"):
        insert(net(), ["1"], "nothing", example=X)
    with pytest.raises(JostleError, match="twice"):
        insert(net(), ["1", "1"], example=X)


def test_a_class_and_a_function_serve_as_kinds():
    for kind in (AdvStyle, lambda channels: AdvStyle(channels, lam=0.0)):
        with insert(net(), ["1"], kind, example=X) as handle:
            assert isinstance(handle.layers["1"], AdvStyle)
