"""Folders and archives of images: layouts, laziness, and a sentence for what is wrong."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from jostle.core.errors import JostleError
from jostle.zoo import load_data


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def packed(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as sink:
        for path in sorted(folder.rglob("*"), reverse=True):  # not in the order that is wanted
            sink.write(path, path.relative_to(folder).as_posix())
    return archive


@pytest.fixture
def pets(tmp_path) -> Path:
    root = tmp_path / "pets"
    for seed, name in enumerate(
        ["dog/b.png", "dog/a.PNG", "cat/x/2.webp", "cat/1.jpg", "emu/0.bmp", "emu/1.tif"]
    ):
        draw(root / name, seed)
    draw(root / "emu" / "2.ppm", 7)
    (root / "notes.txt").write_text("not an image")
    draw(root / "preview.png", 8)
    draw(root / ".hidden" / "0.png", 9)
    draw(root / "dog" / ".thumb.png", 10)
    draw(root / "__MACOSX" / "cat" / "._1.jpg.png", 11)
    return root


def test_folder_is_what_torchvision_reads(pets):
    images = load_data(pets)
    peer = ImageFolder(str(pets), is_valid_file=lambda path: path in images.paths, allow_empty=True)
    assert images.classes == ("cat", "dog", "emu") and images.labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert sorted(images.paths) == sorted(path for path, _ in peer.samples)
    for path, (image, label) in zip(images.paths, images, strict=True):
        with Image.open(path) as file:
            assert torch.equal(
                (image * 255).round().byte(), torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
            )
        assert Path(path).relative_to(pets).parts[0] == images.classes[label]


def test_archive_is_the_folder(pets, tmp_path):
    folder, archive = load_data(pets), load_data(packed(pets, tmp_path / "pets.zip"))
    assert torch.equal(folder.tensors()[0], archive.tensors()[0])
    assert folder.labels.tolist() == archive.labels.tolist() and folder.classes == archive.classes
    assert folder.fingerprint() == archive.fingerprint()
    assert archive.paths[0] == f"{tmp_path / 'pets.zip'}::cat/1.jpg" and archive.name == "pets.zip"


def test_archive_is_read_by_workers_and_after_pickling(pets, tmp_path):
    images = load_data(packed(pets, tmp_path / "pets.zip"))
    expected = images.tensors()[0]  # opens the archive here, before the workers start
    loader = DataLoader(images, batch_size=2, num_workers=1)
    assert torch.equal(torch.cat([batch for batch, _ in loader]), expected)
    assert torch.equal(pickle.loads(pickle.dumps(images)).tensors()[0], expected)


def test_forked_process_opens_the_archive_for_itself(pets, tmp_path):
    images = load_data(packed(pets, tmp_path / "pets.zip"))
    images[0]
    opened = images._source._opened
    assert opened[0] == os.getpid()
    images._source._opened = (-1, opened[1])  # as a forked child finds it
    images[0]
    assert images._source._opened[0] == os.getpid() and images._source._opened[1] is not opened[1]
    opened[1].close()


def test_part_of_a_set(pets, tmp_path):
    split = tmp_path / "split"
    for name in ("train/cat/0.png", "train/dog/0.png", "test/dog/1.png", "test/cat/1.png"):
        draw(split / name, len(name))
    archive = packed(split, tmp_path / "split.zip")
    for place in (split, archive):
        images = load_data(f"{place}::test")
        assert images.classes == ("cat", "dog") and len(images) == 2 and images.name == f"{place.name}::test"
        with pytest.raises(JostleError, match=r"holds test, train, which hold class folders.*::test"):
            load_data(place)
        with pytest.raises(JostleError, match=r"holds no folder 'tset'; did you mean 'test'"):
            load_data(f"{place}::tset")


def test_lone_folder_around_the_classes_is_entered(pets, tmp_path):
    outer = tmp_path / "outer"
    draw(outer / "set" / "v1" / "cat" / "0.png")
    draw(outer / "set" / "v1" / "dog" / "0.png", 1)
    for place in (outer, packed(outer, tmp_path / "outer.zip")):
        assert load_data(place).classes == ("cat", "dog")
        assert torch.equal(load_data(place)[1][0], load_data(f"{place}::set/v1")[1][0])


def test_sentence_for_nested_splits_can_be_typed(tmp_path):
    for name in ("a/train/cat/0.png", "a/test/cat/0.png", "b/train/cat/0.png"):
        draw(tmp_path / name)
    with pytest.raises(JostleError, match=rf"for example {tmp_path}::a/test$"):
        load_data(f"{tmp_path}::a")
    assert load_data(f"{tmp_path}::a/test").classes == ("cat",)


def test_found_under_jostle_data(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "pets")
    monkeypatch.setenv("JOSTLE_DATA", str(tmp_path))
    packed(pets, tmp_path / "pets.zip")
    assert len(load_data("pets")) == len(load_data("pets.zip")) == 7
    with pytest.raises(JostleError, match=r"'pest' is none of .* nor .*pest; did you mean 'pets'"):
        load_data("pest")


def test_sizes(pets):
    images = load_data(pets, size=4)
    assert images.tensors()[0].shape == (7, 3, 4, 4)


def test_differing_sizes_need_a_size(tmp_path):
    draw(tmp_path / "a" / "0.png")
    draw(tmp_path / "a" / "1.png", size=(4, 4))
    with pytest.raises(JostleError, match=r"image 0 has \(3, 5, 6\), image 1 has \(3, 4, 4\)\); give size"):
        next(load_data(tmp_path).batches(2))
    assert next(load_data(tmp_path, size=3).batches(2))[0].shape == (2, 3, 3, 3)


def test_thousand_wordnet_folders_are_imagenet(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as sink:
        draw(tmp_path / "0.png")
        for k in reversed(range(1000)):
            sink.write(tmp_path / "0.png", f"n{k:08d}/0.png")
    images = load_data(tmp_path / "in.zip")
    assert images.classes[281] == "tabby" and images.labels.tolist() == list(range(1000))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    draw(tmp_path / "a" / ("0.tif" if mode == "CMYK" else "0.png"), mode=mode)
    assert load_data(tmp_path)[0][0].shape == (3, 5, 6)


def test_palette_with_transparent_bytes_is_read_in_silence(tmp_path):
    image = Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).convert("P")
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png", transparency=bytes([0, 128]))
    assert load_data(tmp_path)[0][0].shape == (3, 4, 4)


def test_sixteen_bits_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "a" / "0.png")
    with pytest.raises(JostleError, match=r"a/0.png has more than 8 bits a channel"):
        load_data(tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_broken_image_is_named(tmp_path, content, kind):
    root = tmp_path / "root"
    draw(root / "a" / "0.png", size=(60, 50))
    path = root / "a" / "0.png"
    path.write_bytes(path.read_bytes()[:2000] if content == "cut" else content)
    place = root if kind == "folder" else packed(root, tmp_path / "root.zip")
    with pytest.raises(JostleError, match=r"a/0.png is not a readable image"):
        load_data(place)[0]


def test_damaged_member_is_named(tmp_path):
    draw(tmp_path / "root" / "a" / "0.bmp", size=(60, 50))
    archive = packed(tmp_path / "root", tmp_path / "root.zip")
    data = bytearray(archive.read_bytes())
    data[3000] ^= 255  # within the pixels: only the checksum can tell
    archive.write_bytes(data)
    with pytest.raises(JostleError, match=r"root.zip::a/0.bmp is not a readable image: Bad CRC-32"):
        load_data(archive)[0]


def test_deleted_image_is_named(pets):
    images = load_data(pets)
    Path(images.paths[0]).unlink()
    with pytest.raises(JostleError, match=r"cat/1.jpg is not a readable image"):
        images[0]
    with pytest.raises(JostleError, match=r"could not read .*cat/1.jpg"):
        images.fingerprint()


def test_layout_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(JostleError, match=r"empty holds no images"):
        load_data(tmp_path / "empty")
    draw(tmp_path / "flat" / "0.png")
    with pytest.raises(JostleError, match=r"flat holds images but no class folders"):
        load_data(tmp_path / "flat")
    draw(tmp_path / "hole" / "cat" / "0.png")
    (tmp_path / "hole" / "dog").mkdir()
    for place in (tmp_path / "hole", packed(tmp_path / "hole", tmp_path / "hole.zip")):
        with pytest.raises(JostleError, match=r"class folder 'dog' of .*hole.* holds no images"):
            load_data(place)


def test_path_errors(tmp_path):
    with pytest.raises(
        JostleError, match=r"'digts' is none of digits, mnist5k, photographs .*did you mean 'digits'"
    ):
        load_data("digts")
    (tmp_path / "set.tar").write_bytes(b"")
    with pytest.raises(JostleError, match=r"a folder or a .zip archive, but .*set.tar"):
        load_data(tmp_path / "set.tar")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(JostleError, match=r"bad.zip is not a readable zip archive"):
        load_data(tmp_path / "bad.zip")
    for empty in ("", "::photo"):
        with pytest.raises(JostleError, match=r"data must be a name or a path"):
            load_data(empty)


@pytest.mark.study
def test_real_archives(shared_data):
    photo = load_data(f"{shared_data}/pacs-128.zip::photo")
    assert photo.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert len(photo) == 1670 and next(photo.batches(4))[0].shape == (4, 3, 128, 128)
    cifar = load_data(f"{shared_data}/cifar10-jpeg.zip::test", size=32)
    assert len(cifar) == 10_000 and torch.bincount(cifar.labels).tolist() == [1000] * 10
    assert torch.equal(cifar[9999][0], load_data(f"{shared_data}/cifar10-jpeg.zip::test")[9999][0])
    assert cifar.classes[9] == "truck"
    with pytest.raises(JostleError, match=r"art_painting, cartoon, photo, sketch, which hold class folders"):
        load_data(shared_data / "pacs-128.zip")
