"""The torch engine on a GPU is the reference, bit for bit."""

import pytest
import torch
from quantization.nets import Branches, Tiny, pictures, seeded

from jostle.quantization import QuantConfig, deploy, quantize, to_integer, verify_engine
from jostle.quantization.integer import to_pixels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("build", [Branches, Tiny])
@pytest.mark.parametrize(
    "config", [QuantConfig(), QuantConfig(weight_bits=4, act_bits=4), QuantConfig(residual_bits=16)]
)
def test_gpu_and_reference_agree_on_every_tensor(build: type, config: QuantConfig) -> None:
    images = pictures(16, *build.input_shape)
    integers = to_integer(quantize(seeded(build), images, config))
    found = verify_engine(integers, deploy(integers, "torch", device="cuda"), to_pixels(images))
    assert found.exact, found.numbers()


def test_a_resnet_on_the_gpu() -> None:
    from torchvision.models import resnet18

    images = pictures(4, 3, 64, 64)
    integers = to_integer(quantize(seeded(resnet18), images))
    assert verify_engine(integers, deploy(integers, "torch", device="cuda"), to_pixels(images)).exact


def test_training_forward_on_the_gpu_is_the_integer_model() -> None:
    images = pictures(16, *Tiny.input_shape)
    network = quantize(seeded(Tiny), images).cuda()
    integers = to_integer(network)
    codes = network.codes(images.cuda())
    wanted = integers.tensors(to_pixels(images))
    for name, tensor in wanted.items():
        assert bool((codes[name].cpu().long() == tensor).all()), name
