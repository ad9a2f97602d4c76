import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jostle.core.errors import JostleError
from jostle.universal.perturbation import UniversalPerturbation, perturb, spectrum


@pytest.fixture
def up(generator):
    delta = (torch.rand(1, 3, 6, 5, generator=generator) - 0.5) / 10
    return UniversalPerturbation(delta, {"radius": 0.05}, [{"step": 1, "objective": 2.5}])


def test_apply_clamps_the_image_and_not_the_perturbation(up):
    images = torch.ones(2, 3, 6, 5)
    before = up.delta.clone()
    out = up.apply(images)
    assert (
        float(out.max()) <= 1
        and torch.equal(up.delta, before)
        and torch.equal(images, torch.ones(2, 3, 6, 5))
    )
    assert torch.equal(up.apply(images, clamp=False), images + up.delta)


def test_eight_bits_are_those_of_a_png(up):
    out = up.apply(torch.full((1, 3, 6, 5), 0.5), bits=8)
    assert torch.allclose(out * 255, (out * 255).round(), atol=1e-4)


def test_other_sizes_are_refused_tiled_or_resampled(up):
    images = torch.zeros(1, 3, 12, 11)
    with pytest.raises(JostleError, match=r"must be \(6, 5\) pixels like delta, but \(12, 11\) came"):
        up.apply(images)
    tiled = up.apply(images, clamp=False, fit="tile")
    assert torch.equal(tiled[..., 6:, 5:10], up.delta) and torch.equal(tiled[..., :6, 10:], up.delta[..., :1])
    assert up.apply(images, clamp=False, fit="resize").shape == images.shape


def test_files_go_round(up, tmp_path):
    again = UniversalPerturbation.load(up.save(tmp_path / "uap.safetensors"))
    assert torch.equal(again.delta, up.delta)
    assert again.record == {"radius": 0.05} and list(again.history) == [{"step": 1, "objective": 2.5}]


def test_any_file_with_a_delta_will_do(tmp_path):
    save_file({"delta": torch.zeros(3, 4, 4)}, tmp_path / "plain.safetensors")
    assert UniversalPerturbation.load(tmp_path / "plain.safetensors").delta.shape == (1, 3, 4, 4)


def test_broken_files_are_one_sentence(tmp_path):
    with pytest.raises(JostleError, match="does not exist"):
        UniversalPerturbation.load(tmp_path / "absent.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(JostleError, match="cannot be read"):
        UniversalPerturbation.load(tmp_path / "torn.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(JostleError, match="must hold a tensor 'delta', but it holds other"):
        UniversalPerturbation.load(tmp_path / "other.safetensors")
    save_file({"delta": torch.full((3, 2, 2), float("nan"))}, tmp_path / "nan.safetensors")
    with pytest.raises(JostleError, match="NaN"):
        UniversalPerturbation.load(tmp_path / "nan.safetensors")


def test_wrong_arguments_are_one_sentence(up, tmp_path):
    with pytest.raises(JostleError, match="must have 3 channels like delta, but 1"):
        up.apply(torch.zeros(1, 1, 6, 5))
    with pytest.raises(JostleError, match="bits must lie in 1 to 16"):
        up.apply(torch.zeros(1, 3, 6, 5), bits=0)
    with pytest.raises(JostleError, match=r"must end in \.safetensors"):
        up.save(tmp_path / "uap.npz")


def test_spectrum_finds_the_frequency_of_a_wave():
    columns = torch.arange(16) / 16
    wave = torch.cos(2 * np.pi * 3 * columns).expand(1, 1, 16, 16)
    power = spectrum(wave)
    assert int(power.argmax()) in (8 * 16 + 8 + 3, 8 * 16 + 8 - 3)
    assert torch.allclose(power.sum() / 16**2, wave.square().sum(), rtol=1e-5)  # Parseval


def test_batches_of_perturbations_meet_their_images():
    delta = torch.tensor([0.1, 0.2]).reshape(2, 1, 1, 1)
    assert torch.allclose(perturb(torch.zeros(2, 1, 1, 1), delta), delta)


def test_the_shell_draws_it_into_a_picture(up, tmp_path):
    from PIL import Image

    from jostle import cli

    up.save(tmp_path / "uap.safetensors")
    target = tmp_path / "uap.png"
    words = ["universal", "show", "--perturbation", str(tmp_path / "uap.safetensors"), "--out", str(target)]
    assert cli.main(words) == 0
    with Image.open(target) as picture:
        assert min(picture.size) > 100
