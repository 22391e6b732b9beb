"""Images that are too large or too small to be one: told by the header, before anything is decoded."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.files.images import load_image
from higfa_core.sources.image_hashes import UNREADABLE, ImageHashes
from higfa_core.store.writer import export_images

SIDE = 13_000


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """A PNG of 13,000 x 13,000 pixels in 200 kB."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pack = zlib.compressobj(9)
    row = bytes(1 + SIDE * 3 // 8)
    pixels = b"".join(pack.compress(row) for _ in range(SIDE)) + pack.flush()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    assert path.stat().st_size < 200_000
    return path


def memory():
    """Peak memory of this process in bytes."""
    resource = pytest.importorskip("resource", reason="Windows tells no peak memory")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(bomb):
    before = memory()
    with pytest.raises(
        ValueError, match=r"bomb.png \(it has 13000 x 13000 = 169,000,000 pixels, more than 64,000,000; "
    ):
        load_image(bomb)
    assert ImageHashes().of(bomb.parent, [bomb.name])[0].bits == UNREADABLE
    assert memory() - before < 100e6


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    Image.new("RGB", (100, 50), "red").save(tmp_path / "x.png")
    monkeypatch.setenv("HIGFA_MAX_PIXELS", "4_999")
    with pytest.raises(ValueError, match="100 x 50 = 5,000 pixels, more than 4,999; .*HIGFA_MAX_PIXELS"):
        load_image(tmp_path / "x.png")
    monkeypatch.setenv("HIGFA_MAX_PIXELS", "5000")
    assert load_image(tmp_path / "x.png").shape == (1, 50, 100, 3)
    monkeypatch.setenv("HIGFA_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="HIGFA_MAX_PIXELS must be a number of pixels, got 'many'"):
        load_image(tmp_path / "x.png")


def test_a_picture_of_one_pixel_is_none(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="x.png has 1 x 1 pixels. Give one of at least 8 x 8"):
        load_image(tmp_path / "x.png")
    with pytest.raises(ValueError, match="have 1 x 1 pixels. Give images of at least 8 x 8"):
        export_images(torch.zeros(1, 1, 1, 3), tmp_path, "set", "a class")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_floats_in_0_to_1_keep_their_brightness(tmp_path):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "TIFF")
    (tmp_path / "x.tif").write_bytes(buffer.getvalue())
    loaded = load_image(tmp_path / "x.tif")[0, :, :, 0].numpy()
    np.testing.assert_allclose(loaded, ramp, atol=0.5 / 255 + 1e-6)
