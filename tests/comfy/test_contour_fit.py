"""Where ControlNet puts a contour of another shape than its image, by ComfyUI's own function."""

import numpy as np
import pytest
import torch

from higfa_core.contour.fit import centre, fit_boxes, fit_plane

pytestmark = pytest.mark.releases

SHAPES = [(333, 500, 512, 512), (500, 333, 512, 768), (1024, 700, 64, 64), (48, 64, 96, 128), (7, 300, 40, 40)]


@pytest.mark.parametrize("shape", [*SHAPES, *np.random.default_rng(0).integers(8, 700, (40, 4)).tolist()])
def test_the_centre_is_comfyuis(comfyui, shape):
    from comfy.utils import common_upscale

    height, width, to_height, to_width = shape
    y, x = (plane.float() for plane in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    theirs = common_upscale(torch.stack([x, y])[None], to_width, to_height, "nearest-exact", "center")[0].numpy()
    top, left, h, w = centre(*shape)
    columns, rows = (np.floor((np.arange(n) + 0.5) * size / n) for n, size in ((to_width, w), (to_height, h)))
    np.testing.assert_array_equal(theirs[0, 0], left + columns)
    np.testing.assert_array_equal(theirs[1, :, 0], top + rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_and_boxes_follow(comfyui, shape):
    from comfy.utils import common_upscale

    height, width, to_height, to_width = shape
    plane = torch.zeros(height, width)
    box = [width // 2 - width // 8, height // 4, width // 2 + width // 8 + 1, height // 2]
    plane[box[1] : box[3], box[0] : box[2]] = 1
    theirs = common_upscale(plane[None, None], to_width, to_height, "nearest-exact", "center")[0, 0].numpy() > 0.5
    ours = fit_plane(plane.numpy(), to_height, to_width) > 0.5
    ys, xs = np.nonzero(theirs)
    (moved,) = fit_boxes(np.array([box]), (height, width), (to_height, to_width))
    pixel = max(1, to_height / height) + 1
    assert np.abs(moved - [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).max() <= pixel
    assert (ours != theirs).sum() <= pixel * 2 * (np.ptp(xs) + np.ptp(ys) + 4)


def test_older_workflows_may_say_width_and_height(pack, comfyui):
    from execution import get_input_data

    node = pack.nodes["HiGFA_TransformContour"]
    widgets = {"variants": 1, "seed": 3, "flip": 0.5, "rotation": 12.0, "scale_min": 0.8, "scale_max": 1.1}
    widgets |= {"translation": 0.06, "perspective": 0.0, "elastic": 0.0, "outside": 0.0}
    contour = torch.zeros(1, 40, 60, 3)
    contour[:, 10:20, 10:30] = 1
    found = []
    for sizes in ({"width": 48, "height": 32}, {"image_width": 48, "image_height": 32}):
        given, *_ = get_input_data({**widgets, **sizes}, node, "1")
        result = node.execute(contour, **{name: values[0] for name, values in given.items()})
        found.append(result.args[0])
    assert found[0].shape == (1, 32, 48, 3) and torch.equal(*found)
