"""Reading pictures and sets of images: beside what pypng and Pillow read (see reference/make_png.py), and by hand."""
import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import os
import re
import struct
import sys
import tarfile
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.data.images import image_folder, image_sets
from mini.data.images.image_sets import CIFAR10, FASHION, SETS, read_images
from mini.utils.config import UserError
from mini.utils.images import make_square, to_size
from mini.utils.png import over_white, read_image, read_png, write_png
from mini.utils.run import write_json
from tests.helpers import refused

REFERENCE = Path(__file__).parent / "reference"
PNG = {path.stem: path.read_bytes() for path in (REFERENCE / "png").glob("*.png")}
with np.load(REFERENCE / "png.npz") as file:
    GOLDEN = dict(file)
PILLOW = importlib.util.find_spec("PIL") is not None


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- PNG files

@pytest.mark.parametrize("name", PNG)
def test_golden(name):
    pixels = read_png(REFERENCE / "png" / f"{name}.png")
    assert pixels.dtype == np.uint8 and pixels.shape == GOLDEN[name].shape
    assert (pixels == GOLDEN[name]).all()


def test_golden_leaves_nothing_out():
    """Every colour type and depth, straight, interlaced and with transparency; gray ones have one channel."""
    kinds = {(content[25], content[24], content[28], b"tRNS" in content) for content in PNG.values()}
    for colour, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
        for depth, interlaced, transparent in itertools.product(depths, (0, 1), (False, True)):
            assert (colour, depth, interlaced, transparent) in kinds or (transparent and colour in (4, 6))
    for name, content in PNG.items():
        assert GOLDEN[name].shape[2] == (1 if content[25] in (0, 4) else 3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (5, 7, 1), (5, 7, 3), (1, 300, 3), (300, 1)])
def test_what_we_write_we_read(tmp_path, shape):
    pixels = noise(*shape)
    write_png(tmp_path / "a.png", pixels)
    assert (read_png(str(tmp_path / "a.png")) == pixels.reshape(*shape[:2], -1)).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*header, data=b"", more=b"", end=True) -> bytes:
    """A file with the header (W, H, depth, colour type, compression, filter, interlace)."""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + more
            + (chunk(b"IDAT", data) if data else b"") + (chunk(b"IEND", b"") if end else b""))


ONE = zlib.compress(b"\0\x07")      # one pixel, without a filter
MANY = zlib.compress(bytes(1000))   # enough for whatever a header may mean
HEADERS = {     # that make no sense
    "no width": (0, 1, 8, 0, 0, 0, 0), "no height": (1, 0, 8, 0, 0, 0, 0), "3 bits": (1, 1, 3, 0, 0, 0, 0),
    "no bits": (1, 1, 0, 0, 0, 0, 0), "colour of 4 bits": (1, 1, 4, 2, 0, 0, 0), "32 bits": (1, 1, 32, 2, 0, 0, 0),
    "palette of 16 bits": (1, 1, 16, 3, 0, 0, 0), "gray with alpha of 4 bits": (1, 1, 4, 4, 0, 0, 0),
    "colour with alpha of 1 bit": (1, 1, 1, 6, 0, 0, 0), "colour type 1": (1, 1, 8, 1, 0, 0, 0),
    "colour type 5": (1, 1, 8, 5, 0, 0, 0), "colour type 7": (1, 1, 8, 7, 0, 0, 0),
    "compression": (1, 1, 8, 0, 1, 0, 0), "filter method": (1, 1, 8, 0, 0, 1, 0), "interlace": (1, 1, 8, 0, 0, 0, 2)}
BAD = {
    "text": b"Once upon a time there was a picture.\n", "empty": b"", "html": b"<html>sorry</html>",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(80), "signature": b"\x89PNG\r\n\x1a\n", "zeros": bytes(100),
    "line ends changed": PNG["c0d8"].replace(b"\r\n", b"\n"), "no end": png(1, 1, 8, 0, 0, 0, 0, data=ONE, end=False),
    "no header": b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", ONE) + chunk(b"IEND", b""),
    "short header": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(12)) + chunk(b"IEND", b""),
    "two headers": png(1, 1, 8, 0, 0, 0, 0, data=ONE, more=png(1, 1, 8, 0, 0, 0, 0, end=False)[8:]),
    **{name: png(*header, data=MANY, more=chunk(b"PLTE", bytes(768))) for name, header in HEADERS.items()},
    "no pixels": png(1, 1, 8, 0, 0, 0, 0), "too few pixels": png(1, 2, 8, 0, 0, 0, 0, data=ONE),
    "too many pixels": png(10**5, 10**5, 8, 0, 0, 0, 0, data=ONE),
    "as many as there are": png(2**32 - 1, 2**32 - 1, 16, 6, 0, 0, 1, data=ONE),
    "claims 100 megapixels": png(10**4, 10**4, 16, 6, 0, 0, 0, data=ONE),
    "no zlib": png(1, 1, 8, 0, 0, 0, 0, data=b"pixels"),
    "filter 5": png(1, 1, 8, 0, 0, 0, 0, data=zlib.compress(b"\x05\x07")),
    "no palette": png(1, 1, 8, 3, 0, 0, 0, data=zlib.compress(bytes(2))),
    "small palette": png(1, 1, 8, 3, 0, 0, 0, data=ONE, more=chunk(b"PLTE", bytes(3 * 7))),
    "odd palette": png(1, 1, 8, 3, 0, 0, 0, data=ONE, more=chunk(b"PLTE", bytes(3 * 8 + 1))),
    "odd transparency": png(1, 1, 8, 0, 0, 0, 0, data=ONE, more=chunk(b"tRNS", bytes(3))),
    "transparency of gray": png(1, 1, 8, 2, 0, 0, 0, data=MANY, more=chunk(b"tRNS", bytes(2)))}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_png(tmp_path, name):
    path = tmp_path / "a.png"
    path.write_bytes(BAD[name])
    message = refused(lambda: read_png(path), path, "not a PNG file, or a damaged one", "save it again", "folder")
    assert len(message) < 200 + len(str(path)) and (name not in HEADERS or "header makes no sense" in message)


def test_good_ones_beside_the_bad(tmp_path):
    """What is not needed is not looked at; and pixels beyond the last are not unpacked, however many."""
    many = zlib.compress(b"\0\x07" + bytes(10**7))
    for more in (b"", chunk(b"tEXt", b"Title\0A pixel"), chunk(b"gAMA", struct.pack(">I", 45455))):
        for data in (ONE, many):
            for interlaced in (0, 1):
                (tmp_path / "a.png").write_bytes(png(1, 1, 8, 0, 0, 0, interlaced, data=data, more=more) + b"behind")
                assert read_png(tmp_path / "a.png").tolist() == [[[7]]]
    transparency = bytes(range(20))                     # more than the palette has colours
    content = png(1, 1, 8, 3, 0, 0, 0, data=zlib.compress(b"\0\1"),
                  more=chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", transparency))
    assert read_png("a.png", content).tolist() == over_white(np.uint8([[[3, 4, 5]]]), 1).tolist()
    content = png(1, 1, 8, 4, 0, 0, 0, data=zlib.compress(b"\0\x07\xff"), more=chunk(b"tRNS", bytes(2)))
    assert read_png("a.png", content).tolist() == [[[7]]]               # beside alpha it has no meaning


@pytest.mark.parametrize("name", ["size_3x5", "c3d2it", "filter_4"])
def test_every_truncated_png_is_refused(tmp_path, name):
    for n in range(len(PNG[name])):
        refused(lambda: read_png("cut.png", PNG[name][:n]), "cut.png")


@pytest.mark.parametrize("name", ["size_3x5", "c3d2it", "c0d16t"])
@pytest.mark.parametrize("mended", [False, True])
def test_every_flipped_byte(name, mended):
    """Refused by the checksums; where these are mended, read or refused, but never another exception."""
    good, refusals = PNG[name], 0
    for at, flip in itertools.product(range(len(good)), (1, 0x80)):
        content = bytearray(good)
        content[at] ^= flip
        if mended:
            place = 8
            while place + 12 <= len(content):
                end = place + 8 + int.from_bytes(content[place:place + 4], "big")
                content[end:end + 4] = struct.pack(">I", zlib.crc32(content[place + 4:end]))[:len(content[end:end + 4])]
                place = end + 4
        try:
            pixels = read_png("flipped.png", bytes(content))
            assert mended and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)
        except UserError as error:
            assert "flipped.png" in str(error) and "\n" not in str(error)
            refusals += 1
    assert refusals == 2 * len(good) if not mended else len(good) < refusals < 2 * len(good)


def test_over_white():
    colour, alpha = np.mgrid[:256, :256].astype(np.uint8)
    exact = colour / 255 * (alpha / 255) + 1 - alpha / 255
    assert (over_white(colour, alpha) == (255 * exact).round()).all()
    assert over_white(np.uint8([[[1, 2, 3]], [[4, 5, 6]]]), np.uint8([[[0]], [[255]]])).tolist() == [
        [[255, 255, 255]], [[4, 5, 6]]]


# ---- other formats, through Pillow

class FakeImage:
    """What `read_image` uses of an image of Pillow's: `rgba` (H, W, 4), and maybe numbers as they are stored."""

    def __init__(self, mode, rgba, stored=None):
        self.mode, self.rgba, self.stored = mode, np.asarray(rgba, np.uint8), stored
        self.height, self.width = self.rgba.shape[:2]
        self.info = {} if (self.rgba[:, :, 3] == 255).all() else {"transparency": 0}

    def convert(self, mode):
        assert mode == "RGBA"
        return self.rgba

    def __array__(self, dtype=None, copy=None):
        if self.stored is None:
            return self.rgba[:, :, :3] if self.mode == "RGB" else self.rgba[:, :, 0]
        return np.array(self.stored)


@pytest.fixture
def pillow(monkeypatch):
    """A package PIL that opens whatever `pillow.image` is, or raises it; it turns as `pillow.turn` says."""
    fake = types.SimpleNamespace(image=None, turn=lambda image: image)

    def open(file):
        warnings.warn("Corrupt EXIF data")          # is not passed on
        fake.content = file.read()
        if isinstance(fake.image, Exception):
            raise fake.image
        return fake.image
    image_module, ops_module = types.ModuleType("PIL.Image"), types.ModuleType("PIL.ImageOps")
    image_module.open, ops_module.exif_transpose = open, lambda image: fake.turn(image)
    image_module.fromarray = lambda pixels: FakeImage("L", np.dstack([pixels] * 3 + [np.full(pixels.shape, 255)]))
    package = types.ModuleType("PIL")
    package.Image, package.ImageOps = image_module, ops_module
    for name, module in (("PIL", package), ("PIL.Image", image_module), ("PIL.ImageOps", ops_module)):
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def test_without_pillow(tmp_path, monkeypatch):
    """PNG needs none, whatever its name; anything else says what to do."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.jpg").write_bytes(PNG["c2d8"])
    assert (read_image(tmp_path / "a.jpg") == GOLDEN["c2d8"]).all()
    for name in ("b.jpg", "text.png"):
        (tmp_path / name).write_bytes({"b.jpg": b"\xff\xd8\xff", "text.png": b"text"}[name])
        refused(lambda: read_image(tmp_path / name), tmp_path / name, "not a PNG", "pip install pillow", "to PNG")
    refused(lambda: read_images(str(tmp_path)), tmp_path / "b.jpg", "pillow")


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html><html>", "an HTML page (a download that failed)"), (b'{"error": 404}', "JSON"),
    (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"), (b"", "an empty file"), (b"PK\3\4", "unpack it")])
def test_what_is_named_like_an_image_and_is_none(tmp_path, monkeypatch, content, words):
    """With Pillow or without, the line says what the file is."""
    for name in ("a.png", "a.JPG"):
        (tmp_path / name).write_bytes(content)
        refused(lambda: read_image(tmp_path / name), f"{tmp_path / name}: not an image, but ", words)
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(lambda: read_image(tmp_path / "a.png"), tmp_path / "a.png", words)


def with_exif(png: bytes, exif: bytes) -> bytes:
    """A PNG file with one more chunk, before its last."""
    chunk = b"eXIf" + exif
    return png[:-12] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[-12:]


def exif_of(orientation: int, order: str = ">") -> bytes:
    """Two tags; the second says how to turn the picture."""
    tags = struct.pack(order + "HHII", 0x0100, 4, 1, 9) + struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return {">": b"MM", "<": b"II"}[order] + struct.pack(order + "HIH", 42, 8, 2) + tags + bytes(4)


@pytest.mark.parametrize("without_pillow", [False, True])
def test_a_png_file_is_turned(monkeypatch, without_pillow):
    if without_pillow:
        monkeypatch.setitem(sys.modules, "PIL", None)
    x = GOLDEN["c2d8"]
    turned = {1: x, 2: x[:, ::-1], 3: x[::-1, ::-1], 4: x[::-1], 5: x.transpose(1, 0, 2), 6: np.rot90(x, -1),
              7: np.rot90(x, 2).transpose(1, 0, 2), 8: np.rot90(x)}
    for orientation, wanted in turned.items():
        for exif in (exif_of(orientation), exif_of(orientation, "<"), b"Exif\0\0" + exif_of(orientation)):
            assert np.array_equal(read_png("a.png", with_exif(PNG["c2d8"], exif)), wanted), orientation
    for odd in (exif_of(0), exif_of(9), b"", b"MM", *(exif_of(6)[:n] for n in range(30)), exif_of(6)[:4] + b"\xff" * 30):
        assert np.array_equal(read_png("a.png", with_exif(PNG["c2d8"], odd)), x)


def test_pillow_reads_png_as_we_do(monkeypatch):
    """Whether it is there must not change what a model learns from."""
    by_either = {name: read_png(name, content) for name, content in PNG.items()}
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name, content in PNG.items():
        assert np.array_equal(by_either[name], read_png(name, content)), name


@pytest.mark.parametrize("mode, C", [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3)])
def test_through_pillow(pillow, tmp_path, mode, C):
    rgba = noise(2, 3, 4)
    path = tmp_path / "a.jpeg"
    path.write_bytes(b"whatever")
    pillow.image = FakeImage(mode, rgba)
    pixels = read_image(str(path))
    assert pillow.content == b"whatever" and pixels.shape == (2, 3, C)
    assert (pixels == over_white(rgba[:, :, :C], rgba[:, :, 3:])).all()


def test_pillow_turns_and_16_bits(pillow):
    opaque = np.dstack([noise(2, 3, 3), np.full((2, 3), 255)])
    pillow.image, pillow.turn = FakeImage("RGB", opaque), lambda image: FakeImage("RGB", image.rgba.transpose(1, 0, 2))
    assert (read_image("a.jpg", b"x") == opaque.transpose(1, 0, 2)[:, :, :3]).all()
    pillow.turn = lambda image: image
    pillow.image = FakeImage("I;16", np.zeros((1, 4, 4)), stored=np.uint16([[0, 128, 129, 65535]]))
    assert read_image("a.tif", b"x").tolist() == [[[0], [0], [1], [255]]]


@pytest.mark.parametrize("trouble", [
    OSError("image file is truncated\n(3 bytes)"), ValueError(), SyntaxError("not a TIFF file"), KeyError("x"),
    FakeImage("F", np.zeros((1, 1, 4))), FakeImage("I", np.zeros((1, 1, 4)))], ids=repr)
def test_pillow_in_trouble(pillow, trouble):
    pillow.image = trouble
    message = refused(lambda: read_image("dir/a.jpg", b"x"), "dir/a.jpg", "not an image, or a damaged one", "save it")
    assert "()" not in message


def test_a_huge_image_through_pillow(pillow):
    pillow.image = FakeImage("L", np.zeros((1, 1, 4)))
    pillow.image.width = pillow.image.height = 10_001
    refused(lambda: read_image("a.jpg", b"x"), "a.jpg", "too many pixels")


def test_real_pillow_if_it_is_there(tmp_path):
    """A plain install has none, and passes; where there is one, it is asked for real files."""
    if PILLOW:
        from PIL import Image, ImageOps
        pixels = noise(4, 6, 4)
        for suffix, mode, options in [("tif", "RGBA", {}), ("bmp", "RGB", {}), ("gif", "P", {}), ("tif", "LA", {}),
                                      ("tif", "CMYK", {}), ("webp", "RGBA", {"lossless": True, "exact": True})]:
            image = Image.fromarray(pixels)
            image = image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)
            image.save(tmp_path / f"a.{suffix}", **options)
            rgba = np.asarray(image.convert("RGBA"))
            C = 1 if mode == "LA" else 3
            assert (read_image(tmp_path / f"a.{suffix}") == over_white(rgba[:, :, :C], rgba[:, :, 3:])).all(), mode
        Image.fromarray(noise(3, 5).astype(np.uint16) * 257).save(tmp_path / "deep.tif")
        assert (read_image(tmp_path / "deep.tif")[:, :, 0] == noise(3, 5)).all()
        exif = Image.Exif()
        exif[0x0112] = 6                                # to be turned a quarter, clockwise
        Image.fromarray(noise(8, 16)).save(tmp_path / "turned.jpg", exif=exif, quality=100)
        difference = read_image(tmp_path / "turned.jpg")[:, :, 0].astype(int) - np.rot90(noise(8, 16), -1)
        assert abs(difference).max() < 6
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(with_exif(PNG["c2d8"], exif_of(7)))))),
                              read_png("a.png", with_exif(PNG["c2d8"], exif_of(7))))
        whole = (tmp_path / "turned.jpg").read_bytes()
        for n in range(0, len(whole) - 2, 7):
            refused(lambda: read_image("cut.jpg", whole[:n]), "cut.jpg")


# ---- squares

@pytest.mark.parametrize("H, W, top, left", [(4, 4, 0, 0), (4, 8, 0, 2), (9, 4, 2, 0), (5, 4, 0, 0), (3, 8, 0, 2)])
def test_the_middle_square(H, W, top, left):
    pixels, side = noise(H, W, 3), min(H, W)
    square = to_size(pixels, side)
    assert square.dtype == torch.uint8 and square.shape == (3, side, side)
    assert (square.permute(1, 2, 0).numpy() == pixels[top:top + side, left:left + side]).all()


@pytest.mark.parametrize("size", [7, 24])
def test_resized_as_by_pillow(size):
    square = to_size(GOLDEN["pillow_rgb"], size)
    difference = square.permute(1, 2, 0).numpy() - GOLDEN[f"resized/{size}"].astype(int)
    assert square.dtype == torch.uint8 and abs(difference).max() <= 1 and abs(difference.mean()) < 0.1


def test_resizing_overshoots_nowhere():
    """A hard edge between black and white, and many images: each is resized alone."""
    edge = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).expand(1, 4, 4)
    images = torch.cat([edge[None]] * 300 + [torch.full((1, 1, 4, 4), 9, dtype=torch.uint8)])
    large = make_square(images, 9)
    assert large.shape == (301, 1, 9, 9) and (large[-1] == 9).all() and (large[:300] == large[0]).all()
    assert (large[0, 0, :, :3] < 10).all() and (large[0, 0, :, 6:] > 245).all()


# ---- folders of images

def write_images(folder: Path, **names):
    """{name: pixels, with __ for a slash}, written as PNG files."""
    for name, pixels in names.items():
        path = folder / (name.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, pixels)


def test_a_folder(tmp_path):
    """By name, at any depth, those of any suffix; hidden ones and other files are left alone."""
    tmp_path, pixels = tmp_path / ".data", noise(5, 32, 32, 3)      # the folder itself may be hidden
    write_images(tmp_path, b=pixels[0], a=pixels[1], deep__er__c=pixels[2], deep__er__d=pixels[3], Z=pixels[4])
    (tmp_path / "b.png").rename(tmp_path / "b.PNG")
    (tmp_path / "Z.png").rename(tmp_path / "Z.JpEg")
    write_images(tmp_path, _hidden=noise(4, 4), _thumbs__x=noise(4, 4))
    (tmp_path / "_hidden.png").rename(tmp_path / ".hidden.png")
    (tmp_path / "_thumbs").rename(tmp_path / ".thumbs")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    found = read_images(str(tmp_path))
    assert found.images.dtype == torch.uint8 and found.images.shape == (5, 3, 32, 32)
    assert (found.images.permute(0, 2, 3, 1).numpy() == pixels[[4, 1, 0, 2, 3]]).all()
    assert found.labels.shape == (5, 0) and found.labels.dtype == torch.int64 and found.attributes == {}


def test_sizes_of_a_folder(tmp_path):
    write_images(tmp_path, a=noise(20, 50, 3), b=noise(64, 40, 3), c=noise(9, 9, 3))
    refused(lambda: read_images(str(tmp_path)), "--size=0 leaves", tmp_path / "b.png is 40", tmp_path / "a.png 20", "--size=32")
    found = read_images(str(tmp_path), 16).images
    assert all((found[i] == to_size(noise(*shape), 16)).all() for i, shape in
               enumerate([(20, 50, 3), (64, 40, 3), (9, 9, 3)]))
    refused(lambda: read_images(str(tmp_path), -1), "-1")
    (tmp_path / "c.png").unlink()
    write_images(tmp_path, a=noise(40, 50, 3), d=noise(40, 40))
    found = read_images(str(tmp_path)).images
    assert found.shape == (3, 3, 40, 40) and (found[2] == torch.tensor(noise(40, 40))).all()      # as they are


def test_classes(tmp_path):
    write_images(tmp_path, dog__1=noise(8, 8), cat__2=noise(8, 8), dog__0=noise(8, 8), ape__x=noise(8, 8))
    found = read_images(str(tmp_path), 8)
    assert found.attributes == {"label": ["ape", "cat", "dog"]} and found.labels.tolist() == [[0], [1], [2], [2]]
    assert found.labels.dtype == torch.int64
    assert read_images(str(tmp_path / "dog"), 8).attributes == {}                   # all in one folder
    write_images(tmp_path, dog__deeper__y=noise(8, 8))                              # not directly in it
    assert read_images(str(tmp_path), 8).attributes == {}


def test_class_names_are_printed(tmp_path, capsys):
    write_images(tmp_path, dog__1=noise(8, 8), cat__2=noise(8, 8), dog__0=noise(8, 8))
    read_images(str(tmp_path), 8)
    assert capsys.readouterr().out == "note: 2 classes, by their folders: cat 1, dog 2\n"


def test_one_class_however_its_name_is_stored(tmp_path):
    """macOS, and archives made there, store 'é' as two characters."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_images(tmp_path, **{f"train__{composed}__1": noise(8, 8), "train__bar__2": noise(8, 8),
                              f"test__{decomposed}__1": noise(8, 8)})
    found = read_images(str(tmp_path), 8)
    assert found.attributes == {"label": ["bar", composed]} and sorted(found.labels[:, 0].tolist()) == [0, 1, 1]
    assert image_sets.draw_labels(image_sets.LabelConfig(label=decomposed), found.attributes, 2).tolist() == [[1], [1]]


def test_train_and_val_are_no_classes(tmp_path, capsys):
    pixels = {f"Train__{name}__{i}": np.full((8, 8), i, np.uint8) for i, name in enumerate(["cat", "dog"] * 10)}
    write_images(tmp_path, **pixels, VAL__cat__1=np.full((8, 8), 101, np.uint8), Test__dog__1=np.full((8, 8), 102, np.uint8))
    found = read_images(str(tmp_path), 8)
    assert found.attributes == {"label": ["cat", "dog"]}
    learn, held_out = image_sets.load_images(str(tmp_path), 8)
    assert sorted(held_out.images[:, 0, 0, 0].tolist()) == [101, 102] and sorted(held_out.labels[:, 0].tolist()) == [0, 1]
    order = learn.images[:, 0, 0, 0].tolist()
    assert sorted(order) == list(range(20)) != order
    assert [number % 2 for number in order] == learn.labels[:, 0].tolist()
    assert "held out are the 2 pictures" in capsys.readouterr().out
    write_images(tmp_path / "flat", train__1=noise(8, 8), train__2=noise(8, 8), validation__1=noise(8, 8))
    learn, held_out = image_sets.load_images(str(tmp_path / "flat"), 8)
    assert (len(learn.images), len(held_out.images), learn.attributes) == (2, 1, {})


def test_held_out_images_without_a_class(tmp_path, capsys):
    """As some competitions have them: train/cat, train/dog, and test/ without folders."""
    write_images(tmp_path, **{f"train__{name}__{i}": noise(8, 8) for i, name in enumerate(["cat", "dog"] * 5)},
                 test__1=noise(8, 8), test__2=noise(8, 8))
    learn, held_out = image_sets.load_images(str(tmp_path), 8)
    assert (len(learn.images), len(held_out.images)) == (9, 1) and learn.attributes == {"label": ["cat", "dog"]}
    assert "left out: 2 held-out images that lie in no folder of a class" in capsys.readouterr().out
    write_images(tmp_path, val__cat__1=noise(8, 8))
    learn, held_out = image_sets.load_images(str(tmp_path), 8)
    assert (len(learn.images), len(held_out.images)) == (10, 1)


def test_names_that_macos_adds(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(noise(2, 9, 9)))
    (tmp_path / "._train-images-idx3-ubyte").write_bytes(b"\0\5\x16\7")
    assert read_images(str(tmp_path)).images.shape == (2, 1, 9, 9)
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar/data_batch_1.bin").write_bytes(cifar([3], 2)[1])
    (tmp_path / "cifar/._data_batch_1.bin").write_bytes(b"\0\5\x16\7")
    assert read_images(str(tmp_path / "cifar")).images.shape == (1, 3, 32, 32)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="all names are Unicode there")
def test_names_that_are_not_utf_8(tmp_path):
    """They can be printed and saved as class names."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_images(folder, **{os.fsdecode(b"d\xe9g__\xe9"): noise(8, 8), "cat__1": noise(8, 8)})
    found = read_images(str(folder), 8)
    assert found.attributes == {"label": ["cat", "d\\udce9g"]} and found.source.endswith("caf\\udce9")
    write_json(tmp_path / "a.json", {"data": str(folder), **found.attributes})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"data": str(folder), "label": ["cat", "d\\udce9g"]}


# ---- what was read is kept

def test_what_was_read_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_folder, "KEEP_FROM", 0)
    write_images(tmp_path / "a", **{f"{i}": noise(9, 9, 3, seed=i) for i in range(5)})
    first = read_images("a", 8).images
    out = capsys.readouterr().out
    kept, = Path("runs/cache").iterdir()
    assert f"5 images read in 0 s, and kept in {kept}" in out and "deleted" in out

    monkeypatch.setattr(image_folder, "read_image", lambda path: pytest.fail("it is kept"))
    assert (read_images("a", 8).images == first).all() and str(kept) in capsys.readouterr().out
    assert (read_images(str(tmp_path / "a"), 8).images == first).all()         # the same folder, named otherwise
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_folder, "KEEP_FROM", 0)
    assert read_images("a", 7).images.shape == (5, 3, 7, 7)                    # another size
    write_images(tmp_path / "a", **{"2": noise(20, 20, 3, seed=9)})            # another file
    changed = read_images("a", 8).images
    assert (changed[2] == to_size(noise(20, 20, 3, seed=9), 8)).all() and (changed[3] == first[3]).all()
    (tmp_path / "a/2.png").unlink()
    assert len(read_images("a", 8).images) == 4 and len(list(Path("runs/cache").iterdir())) == 4


def test_a_cache_that_is_damaged_or_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "a", x=noise(9, 9), y=noise(9, 9))
    assert len(read_images("a", 8).images) == 2 and not Path("runs").exists()  # it was fast
    monkeypatch.setattr(image_folder, "KEEP_FROM", 0)
    first = read_images("a", 8).images
    kept, = Path("runs/cache").iterdir()
    for content in (b"", kept.read_bytes()[:-1], b"\x93NUMPY nonsense", saved(np.save, arr=noise(2, 2))):
        kept.write_bytes(content)
        assert (read_images("a", 8).images == first).all()
    kept.unlink()
    Path("runs/cache").rmdir()
    Path("runs/cache").write_text("a file")
    assert (read_images("a", 8).images == first).all() and "not kept" in capsys.readouterr().out


def test_the_cache_does_not_grow_forever(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_folder, "KEEP_FROM", 0)
    monkeypatch.setattr(image_folder, "CACHE_BYTES", 500)
    write_images(tmp_path / "a", x=noise(9, 9), y=noise(9, 9))
    for i, size in enumerate((8, 9, 10)):                   # each takes 128 bytes and 2 · size²
        read_images("a", size)
        for path in Path("runs/cache").iterdir():
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
    assert sorted(path.name.split("-")[1] for path in Path("runs/cache").iterdir()) == ["10"]
    read_images("a", 40)                                    # larger than all that may be kept
    assert len(list(Path("runs/cache").iterdir())) == 1


def test_reading_shows_progress(tmp_path, monkeypatch, capsys):
    """Within two seconds, and then at least every five."""
    clock = iter(range(0, 1000))                            # each look at the clock takes a second
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "a", **{f"{i:02}": noise(9, 9, seed=i) for i in range(20)})
    read_images("a", 9)
    done = [int(line.split()[2]) for line in capsys.readouterr().out.splitlines() if "images read:" in line]
    assert done[0] <= 2 and max(b - a for a, b in zip(done, done[1:])) <= 5 and done[-1] > 15


@pytest.mark.parametrize("extra", [{"loose": noise(8, 8)}, {}])
def test_no_classes(tmp_path, extra):
    """If one image lies beside the folders, or there is but one folder."""
    write_images(tmp_path, dog__1=noise(8, 8), dog__2=noise(8, 8), **extra)
    found = read_images(str(tmp_path), 8)
    assert found.attributes == {} and found.labels.shape == (2 + len(extra), 0)


def test_gray_and_colour_together(tmp_path):
    write_images(tmp_path, gray=noise(8, 8), gray2=noise(8, 8, seed=1))
    assert read_images(str(tmp_path), 8).images.shape == (2, 1, 8, 8)
    (tmp_path / "rgba.png").write_bytes(PNG["c6d8"])
    found = read_images(str(tmp_path), 8).images
    assert found.shape == (3, 3, 8, 8) and (found[0] == torch.tensor(noise(8, 8))).all()
    assert (found[2] == to_size(GOLDEN["c6d8"], 8)).all()


def test_one_image(tmp_path, capsys):
    write_images(tmp_path, only=noise(32, 32))
    for source in (tmp_path, tmp_path / "only.png"):
        assert (read_images(str(source)).images == torch.tensor(noise(32, 32))).all()
        assert capsys.readouterr().out.startswith("note: only 1 image") and not capsys.readouterr().out
    write_images(tmp_path, other=noise(32, 32))
    read_images(str(tmp_path))
    assert capsys.readouterr().out == ""


def test_no_image_or_a_broken_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: read_images(str(tmp_path)), tmp_path, "no image", ".png", ".webp")
    refused(lambda: read_images("no/such"), "--data=no/such", "no such file or folder", *SETS)
    for name in ("novel.txt", "archive.zip", "none"):
        (tmp_path / name).write_text("text")
        refused(lambda: read_images(name), name, "folder of images", "IDX", "CIFAR-10", ".npy")
    write_images(tmp_path, good=noise(8, 8), bad=noise(8, 8))
    (tmp_path / "bad.png").write_bytes((tmp_path / "bad.png").read_bytes()[:-20])
    refused(lambda: read_images(str(tmp_path)), tmp_path / "bad.png", "truncated")
    refused(lambda: read_images(str(tmp_path / "bad.png")), tmp_path / "bad.png", "truncated")


# ---- IDX files

def idx(array) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def label_of(found) -> list:
    """The names of the labels, image by image."""
    return [found.attributes["label"][label] for label in found.labels[:, 0].tolist()]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name, label_name", [
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte.gz"),
    ("my-images.gz", "my-labels"), ("images", "labels")])
def test_idx(tmp_path, pack, name, label_name):
    images, labels = noise(4, 6, 5), np.uint8([7, 0, 7, 3])
    (tmp_path / name).write_bytes(pack(idx(images)))
    found = read_images(str(tmp_path / name))
    assert found.attributes == {} and found.labels.shape == (4, 0)
    (tmp_path / label_name).write_bytes(pack(idx(labels)))
    found = read_images(str(tmp_path / name))
    assert (found.images[:, 0].numpy() == images[:, :5]).all() and found.images.shape == (4, 1, 5, 5)
    assert found.labels.tolist() == [[2], [0], [2], [1]] and found.attributes == {"label": ["0", "3", "7"]}
    if name.startswith("t"):                                    # found in its folder, too
        assert label_of(read_images(str(tmp_path))) == ["7", "0", "7", "3"]
    assert read_images(str(tmp_path / name), 9).images.shape == (4, 1, 9, 9)


def test_idx_of_another_name(tmp_path):
    """Without "images" in its name no file of labels belongs to it, above all not the file itself."""
    for name in ("digits", "digits.gz"):
        (tmp_path / name).write_bytes(idx(noise(3, 4, 4)))
    assert read_images(str(tmp_path / "digits")).attributes == {}


def test_a_folder_of_idx_files(tmp_path):
    """The training images come first; a file that lies there packed and unpacked is read once."""
    train, test = noise(3, 4, 4), noise(2, 4, 4, seed=1)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(test))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.uint8([4, 5]))))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(train)))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(train))
    found = read_images(str(tmp_path))
    assert found.attributes == {} and len(found.images) == 5    # as long as only one of them has labels
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.uint8([2, 1, 5]))))
    found = read_images(str(tmp_path))
    assert (found.images[:, 0].numpy() == np.concatenate([train, test])).all()
    assert label_of(found) == ["2", "1", "5", "4", "5"]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.uint8([2, 1, 5])))
    assert label_of(read_images(str(tmp_path))) == ["2", "1", "5", "4", "5"]
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    (tmp_path / "t10k-images-idx3-ubyte").mkdir()               # as one archive of MNIST unpacks
    assert len(read_images(str(tmp_path)).images) == 3


def test_two_sets_in_a_folder(tmp_path):
    for name in ("mnist-train", "mnist-t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(noise(2, 4, 4)))
    assert len(read_images(str(tmp_path)).images) == 4
    (tmp_path / "letters-test-images-idx3-ubyte").write_bytes(idx(noise(2, 4, 4)))
    refused(lambda: read_images(str(tmp_path)), tmp_path, "several sets")
    for name in ("mnist-train", "mnist-t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte").unlink()
    (tmp_path / "letters-train-images-idx3-ubyte").write_bytes(idx(noise(2, 5, 4)))
    refused(lambda: read_images(str(tmp_path)), tmp_path, "differ in size")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_truncated_idx_is_refused(tmp_path, pack):
    path, labels = tmp_path / "a-images-idx3-ubyte", tmp_path / "a-labels-idx1-ubyte"
    whole, whole_labels = pack(idx(noise(2, 3, 3))), pack(idx(np.uint8([1, 0])))
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        refused(lambda: read_images(str(path)), path, "IDX", "truncated", "again")
        refused(lambda: read_images(str(tmp_path)), path)
    path.write_bytes(whole)
    for n in range(len(whole_labels)):
        labels.write_bytes(whole_labels[:n])
        refused(lambda: read_images(str(path)), labels, "IDX", "truncated")
    labels.write_bytes(whole_labels)
    assert label_of(read_images(str(path))) == ["1", "0"]


@pytest.mark.parametrize("content, names", [
    (idx(noise(2, 3, 3)) + b"\0", ["truncated"]), (idx(noise(2, 9)), ["3 dimensions"]), (idx(noise(6)), ["IDX"]),
    (idx(noise(2, 3, 3, 1)), ["IDX"]), (b"\0\0\x0d\3" + idx(noise(2, 3, 3))[4:], ["IDX"]), (b"text", ["IDX"]),
    (gzip.compress(b"text"), ["IDX"]), (b"\x1f\x8b" + bytes(30), ["IDX"]), (idx(noise(0, 3, 3)), ["no image"]),
    (idx(noise(3, 0, 3)), ["no image"]), (b"\0\0\x08\3" + b"\xff" * 12, ["IDX"])], ids=range(11))
def test_no_idx_file(tmp_path, content, names):
    path = tmp_path / "a-images-idx3-ubyte.gz"
    path.write_bytes(content)
    refused(lambda: read_images(str(path)), path, *names)


def test_labels_of_other_images(tmp_path):
    (tmp_path / "a-images").write_bytes(idx(noise(2, 3, 3)))
    (tmp_path / "a-labels").write_bytes(idx(noise(3)))
    refused(lambda: read_images(str(tmp_path / "a-images")), tmp_path / "a-images", "3 labels", "2 images")


# ---- CIFAR-10

def cifar(labels, seed=0):
    """(images (N, 3, 32, 32), bytes of a .bin file)."""
    images = noise(len(labels), 3, 32, 32, seed=seed)
    return images, b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images))


def test_cifar(tmp_path):
    """One file; the folder of them, the test batch last; the folder around it; with names beside them."""
    inside = tmp_path / "cifar-10-batches-bin"
    inside.mkdir()
    parts = {"test_batch": cifar([9, 0], 1), "data_batch_2": cifar([3], 2), "data_batch_1": cifar([6, 1], 3)}
    for name, (_, content) in parts.items():
        (inside / f"{name}.bin").write_bytes(content)
    (inside / "other.bin").write_bytes(b"something else")
    found = read_images(str(inside / "test_batch.bin"))
    assert (found.images.numpy() == parts["test_batch"][0]).all() and label_of(found) == ["truck", "airplane"]
    assert found.attributes == {"label": CIFAR10} and len(set(CIFAR10)) == 10
    for folder in (inside, tmp_path):
        found = read_images(str(folder))
        in_order = [parts[name][0] for name in ("data_batch_1", "data_batch_2", "test_batch")]
        assert (found.images.numpy() == np.concatenate(in_order)).all()
        assert label_of(found) == ["frog", "automobile", "cat", "truck", "airplane"]
    names = [f"thing{i}" for i in range(10)]
    (inside / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    for source in (tmp_path, inside, inside / "data_batch_1.bin"):
        assert read_images(str(source)).attributes == {"label": names}
    (inside / "batches.meta.txt").write_text("too\nfew")
    assert read_images(str(tmp_path), 8).attributes == {"label": CIFAR10}
    assert read_images(str(tmp_path), 8).images.shape == (5, 3, 8, 8)


@pytest.mark.parametrize("content", [b"", b"\1", cifar([1])[1][:-1], cifar([1])[1] + b"\1", cifar([1, 10])[1],
                                     bytes(3074), b"not an image"], ids=range(7))
def test_no_cifar_file(tmp_path, content):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    refused(lambda: read_images(str(path)), path, "CIFAR-10", "truncated")
    refused(lambda: read_images(str(tmp_path)), path, "CIFAR-10", "truncated")


# ---- .npy and .npz

def to_rgb(rgba):
    return over_white(rgba[..., :3], rgba[..., 3:])


N = noise(2, 6, 6, 4)
LAYOUTS = {   # {name: (array, expected (N, C, H, W))}
    "gray": (N[..., 0], N[..., 0][:, None]), "gray, channel last": (N[..., :1], N[..., 0][:, None]),
    "colour, channel last": (N[..., :3], N[..., :3].transpose(0, 3, 1, 2)),
    "colour, channel first": (N[..., :3].transpose(0, 3, 1, 2), N[..., :3].transpose(0, 3, 1, 2)),
    "tiny, channel first": (noise(2, 3, 4, 4), noise(2, 3, 4, 4)),
    "alpha, channel last": (N, to_rgb(N).transpose(0, 3, 1, 2)),
    "alpha, channel first": (N.transpose(0, 3, 1, 2), to_rgb(N).transpose(0, 3, 1, 2)),
    "gray and alpha": (N[..., 2:], over_white(N[..., 2:3], N[..., 3:]).transpose(0, 3, 1, 2)),
    "wide": (noise(3, 5, 8), noise(3, 5, 8)[:, None, :, 1:6]),
    "floats": ((N[..., 0] - 0.3).clip(0) / 255, N[..., 0][:, None]),
    "half": ((N[..., 0] / 255).astype("f2"), N[..., 0][:, None]),
    "single": ((N[..., 0] / 255).astype(">f4"), N[..., 0][:, None]),
    "integers": (N.astype(np.int64)[..., 0], N[:, None, :, :, 0]),
    "wide integers": (N[..., 0].astype(">u2"), N[:, None, :, :, 0]),
    "true or false": (N[..., 0] > 99, 255 * (N[:, None, :, :, 0] > 99)),
    "Fortran": (np.asfortranarray(N[..., 0]), N[:, None, :, :, 0])}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", [".npy", ".NPZ"])
def test_arrays(tmp_path, name, suffix):
    array, expected = LAYOUTS[name]
    path = tmp_path / f"a{suffix}"
    with open(path, "wb") as file:
        np.save(file, array) if suffix == ".npy" else np.savez_compressed(file, whatever=array)
    found = read_images(str(path))
    assert found.images.dtype == torch.uint8 and found.images.shape == expected.shape and found.attributes == {}
    assert (found.images.numpy() == expected).all() and found.images.is_contiguous()


@pytest.mark.parametrize("images, labels", [
    ("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels")])
def test_npz_with_labels(tmp_path, images, labels):
    path = tmp_path / "a.npz"
    for values in (np.array([5, 2, 5]), np.uint8([[5], [2], [5]]), np.array(["five", "two", "five"])):
        np.savez(path, **{labels: values, "x_test": noise(4, 9, 9), "zzz": noise(2), images: noise(3, 6, 6)})
        found = read_images(str(path))
        assert (found.images[:, 0].numpy() == noise(3, 6, 6)).all() and found.labels.dtype == torch.int64
        assert label_of(found) == [str(value) for value in values.flatten()]
    np.savez(path, **{images: noise(3, 6, 6), labels: noise(4)})
    refused(lambda: read_images(str(path)), path, "4 labels", "3 images")
    np.savez(path, **{images: noise(3, 6, 6), "x_test": noise(4, 9, 9)})
    assert read_images(str(path)).attributes == {}


def test_npz_without_a_known_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, dogs=noise(3, 6, 6), cats=noise(2, 6, 6))
    refused(lambda: read_images(str(path)), path, "images", "dogs, cats")
    np.savez(path)
    refused(lambda: read_images(str(path)), path)


@pytest.mark.parametrize("array, names", [
    (noise(3), ["(3,)"]), (noise(3, 4), ["(N, H, W)"]), (noise(2, 2, 3, 4, 4), ["(N, H, W)"]),
    (noise(2, 7, 8, 9), ["(N, H, W)"]),
    (noise(0, 4, 4), ["(0"]), (noise(2, 0, 4), ["0"]), (np.uint8(3), ["()"]), (np.full((2, 4, 4), "x"), ["<U1"]),
    (np.zeros((2, 4, 4), complex), ["complex"]), (np.zeros((2, 4, 4), "M8[s]"), ["datetime"]),
    (np.full((2, 4, 4), None), ["Python objects, not numbers"]), (np.full((2, 4, 4), 255.0), ["255", "between 0 and 1"]),
    (np.full((2, 4, 4), -0.5), ["-0.5", "between 0 and 1"]), (np.full((2, 4, 4), np.nan), ["nan", "between 0 and 1"]),
    (np.full((2, 4, 4), 256), ["256", "between 0 and 255"]), (np.full((2, 4, 4), -1), ["-1", "between 0 and 255"]),
    (np.linspace(-1, 1, 32).reshape(2, 4, 4), ["-1.0 to 1.0"]),
], ids=range(17))
def test_arrays_that_are_no_images(tmp_path, array, names):
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    refused(lambda: read_images(str(path)), path, *names)
    np.savez(tmp_path / "a.npz", images=array, allow_pickle=True)
    refused(lambda: read_images(str(tmp_path / "a.npz")), tmp_path / "a.npz", *names)


def test_one_image_as_an_array(tmp_path, capsys):
    path = tmp_path / "a.npy"
    for C in (3, 4):
        np.save(path, noise(32, 40, C))
        found = read_images(str(path)).images
        assert found.shape == (1, 3, 32, 32) and "only 1 image" in capsys.readouterr().out
    assert (found[0].numpy() == over_white(noise(32, 40, 4)[..., :3], noise(32, 40, 4)[..., 3:])[:, 4:36].transpose(2, 0, 1)).all()
    np.save(path, noise(3, 32, 32))
    assert read_images(str(path)).images.shape == (3, 1, 32, 32)
    assert f"{path}: shape (3, 32, 32) is taken for 3 gray images" in capsys.readouterr().out


def test_objects_beside_the_images(tmp_path):
    """Only what is needed is read; if that holds objects, the line says so."""
    path, objects = tmp_path / "a.npz", np.array([{}, [1], None], object)
    np.savez(path, images=noise(3, 6, 6), names=objects)
    assert read_images(str(path)).images.shape == (3, 1, 6, 6)
    np.savez(path, images=noise(3, 6, 6), labels=objects)
    refused(lambda: read_images(str(path)), path, "its array 'labels' holds Python objects")
    np.savez(path, images=objects, labels=noise(3))
    refused(lambda: read_images(str(path)), path, "its array 'images' holds Python objects")


def test_labels_in_columns(tmp_path):
    path = tmp_path / "a.npz"
    classes = np.array([2, 0, 1, 2])
    for one_hot in (np.eye(3)[classes], np.eye(3, dtype=bool)[classes], np.eye(3, dtype=np.uint8)[classes]):
        np.savez(path, images=noise(4, 6, 6), labels=one_hot)
        found = read_images(str(path))
        assert found.attributes == {"label": ["0", "1", "2"]} and found.labels[:, 0].tolist() == [2, 0, 1, 2]
    np.savez(path, images=noise(4, 6, 6), labels=np.array([[0, 7.0], [0, 5], [1, 7], [1, 9]]))
    found = read_images(str(path))
    assert found.attributes == {"label1": ["0", "1"], "label2": ["5", "7", "9"]}
    assert found.labels.tolist() == [[0, 1], [0, 0], [1, 1], [1, 2]] and found.labels.dtype == torch.int64
    np.savez(path, images=noise(2, 6, 6), labels=np.array([b"cat", b"dog"]))
    assert read_images(str(path)).attributes == {"label": ["cat", "dog"]}


@pytest.mark.parametrize("labels, names", [
    (np.float32([0.25, 1]), ["0.25", "whole numbers"]), (np.array([np.nan, 1]), ["nan"]),
    (np.array([1e300, 1]), ["1.e+300", "too large"]), (np.array([0, -1e300]), ["-1.e+300", "too large"]),
    (noise(2, 6, 6), ["(2, 6, 6)", "no labels"]), (np.array(1), ["no labels"]), (np.array([1j, 2]), ["complex"])], ids=repr)
def test_what_are_no_labels(tmp_path, labels, names):
    np.savez(tmp_path / "a.npz", images=noise(2, 6, 6), labels=labels)
    refused(lambda: read_images(str(tmp_path / "a.npz")), tmp_path / "a.npz", *names)


def test_archives_and_web_pages(tmp_path):
    tar = packed({"jpg/1.jpg": PNG["c2d8"]})
    files = {"a.tgz": tar, "a.tar.gz": tar, "a.gz": tar, "photos.tar": gzip.decompress(tar), "b.zip": saved(np.savez, a=noise(2)),
             "noname": tar, "a.npy": gzip.decompress(tar)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        refused(lambda: read_images(str(tmp_path / name)), tmp_path / name, "an archive: unpack it")
    for name in ("a.npz", "b.npy", "images", "a.tgz2", "train-images-idx3-ubyte.gz"):
        (tmp_path / name).write_bytes(b"<!DOCTYPE html><html><title>404</title></html>")
        refused(lambda: read_images(str(tmp_path / name)), tmp_path / name, "an HTML page (a download that failed)")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/photos.tgz").write_bytes(tar)
    refused(lambda: read_images(str(tmp_path / "folder")), "no image in the folder", ".tgz 1", "unpack them")


def saved(save, **kwargs) -> bytes:
    file = io.BytesIO()
    save(file, **kwargs)
    return file.getvalue()


FILES = {"a.npy": saved(np.save, arr=noise(2, 3, 3)), "a.npz": saved(np.savez, images=noise(2, 3, 3)),
         "b.npz": saved(np.savez_compressed, images=noise(2, 3, 3)), "images": idx(noise(2, 3, 3)),
         "images.gz": gzip.compress(idx(noise(2, 3, 3)))}


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "b.npz"])
def test_every_truncated_array_is_refused(tmp_path, name):
    path = tmp_path / name
    for n in range(len(FILES[name])):
        path.write_bytes(FILES[name][:n])
        refused(lambda: read_images(str(path)), path, "save it again")


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_of_a_set(tmp_path, name):
    """Read or refused."""
    path, good = tmp_path / name, FILES[name]
    for at, flip in zip(range(len(good)), itertools.cycle((1, 0xff, 0x20))):
        path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1:])
        try:
            assert read_images(str(path)).images.dtype == torch.uint8
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_no_pickle_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit('a pickle ran')",)
    np.save(tmp_path / "a.npy", np.array([Bomb()], object), allow_pickle=True)
    refused(lambda: read_images(str(tmp_path / "a.npy")), tmp_path / "a.npy")


# ---- by name

def test_the_sets():
    for mirrors, files in SETS.values():
        assert len(mirrors) >= 2 and all(re.fullmatch(r"https?://.+/", mirror) for mirror in mirrors)
        assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in files.values())
    checksums = [sha256 for _, files in SETS.values() for sha256 in files.values()]
    assert len(set(checksums)) == len(checksums) == 10 and list(SETS["mnist"][1]) == list(SETS["fashion-mnist"][1])


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """mirror(name, {file: content}) puts a set of that name on a mirror, and the only one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def put(name, files):
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
        sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        monkeypatch.setitem(image_sets.SETS, name, ([tmp_path.as_uri() + "/gone/", tmp_path.as_uri() + "/"], sums))
    return put


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_by_name(mirror, tmp_path, name):
    arrays = [noise(10, 4, 4), np.arange(10, dtype=np.uint8), noise(2, 4, 4, seed=1), np.uint8([8, 2])]
    files = {file: gzip.compress(idx(array)) for file, array in zip(SETS[name][1], arrays)}
    mirror(name, files)
    found = read_images(name)
    assert (found.images[:, 0].numpy() == np.concatenate([arrays[0], arrays[2]])).all()
    assert found.labels[:, 0].tolist() == [*range(10), 8, 2]
    assert found.attributes == {"label": FASHION if name == "fashion-mnist" else list("0123456789")}
    assert label_of(found)[-2:] == (["Bag", "Pullover"] if name == "fashion-mnist" else ["8", "2"])
    assert {path.name for path in Path("data").iterdir()} == {f"{name}-{file}" for file in files}
    for file in files:
        (tmp_path / file).unlink()
    assert read_images(name, 6).images.shape == (12, 1, 6, 6)                       # from now on with no network


def packed(files: dict) -> bytes:
    """A .tgz of {name: content}, in that order, and a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_cifar_by_name(mirror, tmp_path):
    parts = {"test_batch": cifar([9, 0], 1), "data_batch_2": cifar([3], 2), "data_batch_1": cifar([6, 1], 3)}
    files = {f"cifar-10-batches-bin/{name}.bin": content for name, (_, content) in parts.items()}
    names = [f"thing{i}" for i in range(10)]
    mirror("cifar10", {"cifar-10-binary.tar.gz": packed({
        "cifar-10-batches-bin/": b"", **files, "cifar-10-batches-bin/readme.html": b"<html>",
        "cifar-10-batches-bin/batches.meta.txt": "\n".join(names).encode()})})
    Path("data").mkdir()
    Path("data/flowers-32.npy").write_bytes(b"of another set")
    found = read_images("cifar10")
    assert (found.images.numpy() == np.concatenate([parts[name][0] for name in sorted(parts)])).all()
    assert found.attributes == {"label": names} and found.labels[:, 0].tolist() == [6, 1, 3, 9, 0]
    assert sorted(path.name for path in Path("data").iterdir()) == ["cifar10-cifar-10-binary.tar.gz", "flowers-32.npy"]


def test_flowers_by_name(mirror, tmp_path):
    """PNG here, so that no Pillow is needed; kept for each size, so that the second time is fast."""
    names = ["c2d8", "c6d8", "pillow_rgb"]
    files = {f"jpg/image_0000{i}.jpg": PNG[names[i]] for i in (2, 0, 1)}
    mirror("flowers", {"102flowers.tgz": packed({"jpg/": b"", **files, "readme": b"text"})})
    found = read_images("flowers", 9)
    assert found.attributes == {} and found.images.shape == (3, 3, 9, 9)
    assert all((found.images[i] == to_size(GOLDEN[names[i]], 9)).all() for i in range(3))
    assert read_images("flowers", 32).images.shape == (3, 3, 32, 32)
    refused(lambda: read_images("flowers", 0), "--data=flowers --size=0", "--size=32")
    kept = Path("data/flowers-9.npy")
    assert {path.name for path in Path("data").iterdir()} == {"flowers-102flowers.tgz", kept.name, "flowers-32.npy"}
    Path("data/flowers-102flowers.tgz").unlink()
    assert (read_images("flowers", 9).images == found.images).all()
    kept.write_bytes(kept.read_bytes()[:-1])
    refused(lambda: read_images("flowers", 9), kept)


def test_a_broken_flower(mirror):
    mirror("flowers", {"102flowers.tgz": packed({"jpg/image_00001.jpg": PNG["c2d8"][:-1]})})
    refused(lambda: read_images("flowers", 32), "jpg/image_00001.jpg")
    assert not Path("data/flowers-32.npy").exists()


def test_no_network(mirror, tmp_path):
    mirror("mnist", {"train-images-idx3-ubyte.gz": b"other bytes"})
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    refused(lambda: read_images("mnist"), "cannot download", "put it at", Path("data/mnist-train-images-idx3-ubyte.gz"))


def test_a_compressed_npy_file_is_called_so(tmp_path):
    """It was "not an IDX file; fetch it again"."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "images.npy.gz").write_bytes(gzip.compress(buffer.getvalue()))
    refused(lambda: read_images(str(tmp_path / "images.npy.gz"), 8), "images.npy.gz", "unpack it")
