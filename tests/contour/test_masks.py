"""Masks as other nodes give them."""

import pytest
import torch

from higfa_core.contour import ContourTransform, extract, transform_batch


@pytest.fixture
def image():
    """Two bright squares on black [1, 96, 128, 3]."""
    picture = torch.zeros(1, 96, 128, 3)
    picture[:, 20:60, 20:60] = picture[:, 30:80, 80:110] = 1
    return picture


@pytest.fixture
def mask():
    """The left one [1, 96, 128]."""
    plane = torch.zeros(1, 96, 128)
    plane[:, 16:64, 16:64] = 1
    return plane


def test_a_mask_with_a_channel_is_the_mask(image, mask):
    expected = extract(image, mask=mask)
    assert expected[:, :, :64].any() and not expected[:, :, 70:].any()
    grey = mask[..., None].expand(-1, -1, -1, 3)
    alpha = torch.cat([torch.ones_like(grey), mask[..., None]], -1)  # white, with the object in its alpha
    for shaped in (mask[:, None], mask[..., None], mask[0], mask[0, ..., None], mask[None, None], grey, alpha):
        assert torch.equal(extract(image, mask=shaped), expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("method", ["canny", "soft", "silhouette"])
def test_load_images_mask_of_an_opaque_picture_says_nothing(image, method, value):
    assert torch.equal(extract(image, method, mask=torch.full((1, 64, 64), value)), extract(image, method))
    settings, contour = ContourTransform(), extract(image, method)
    ours = transform_batch(contour, settings, 5, mask=torch.full((1, 64, 64), value))
    assert all(torch.equal(a, b) for a, b in zip(ours[:2], transform_batch(contour, settings, 5)[:2]))


def test_a_mask_of_another_size_is_scaled_and_said(image, mask, caplog):
    half = mask[:, ::2, ::2]
    assert torch.equal(extract(image, mask=half), extract(image, mask=mask))
    assert "a mask of 64x48 is scaled to the image's 128x96" in caplog.text


def test_edges_where_the_mask_says_background_are_said(image, mask, caplog):
    extract(image, mask=mask)
    assert "background" not in caplog.text
    noise = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    random_under_alpha = torch.where(mask[..., None] > 0, torch.full_like(image, 0.5), noise)
    extract(random_under_alpha, mask=mask)
    assert "edges lie where the mask says background" in caplog.text


def test_masks_that_are_refused(image):
    coloured = torch.rand(1, 96, 128, 3)
    for bad in (coloured, torch.ones(3, 96, 128), torch.ones(1, 2, 96, 128), torch.full((1, 96, 128), float("nan"))):
        with pytest.raises(ValueError, match="The mask has (shape|NaN)"):
            extract(image, mask=bad)
