"""Dataset Job on a fresh ComfyUI: the embedded default needs no file of the user's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.commands import plan as plan_cli

from ..sources.layouts.miniatures import aircraft, dtd

pytestmark = pytest.mark.releases

WORKFLOW = Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json"


def execute(pack, dataset, index=0, plan=""):
    with torch.inference_mode():
        values = (dataset, index, "a photo of a {class}", 1, 0, "same", "", plan)
        *lists, count = pack.nodes["HiGFA_DatasetJob"].execute(*values).args
    return *(value for (value,) in lists), count


def test_embedded_dataset_is_drawn_on_first_use_and_then_left_alone(pack):
    import folder_paths

    from higfa_core.miniature import birds

    folder = Path(folder_paths.get_input_directory()) / "higfa_demo"
    # ComfyUI asks for it before a run, and does not run a node again whose fingerprint is the same.
    stamp = pack.nodes["HiGFA_DatasetJob"].fingerprint_inputs
    before = stamp(dataset="higfa_demo")
    image, mask, name, prompt, seed, job, count = execute(pack, "higfa_demo", 17)
    assert stamp(dataset="higfa_demo") == before
    assert count == 256 and prompt == f"a photo of a {name}" and name in birds.CLASS_NAMES
    view = birds.render(birds.CLASS_NAMES.index(name), int(Path(job.source).stem), 128)
    np.testing.assert_array_equal((image[0] * 255).round().numpy(), view.image)
    np.testing.assert_array_equal(mask[0].numpy() > 0.5, view.mask > 127)
    deleted = folder / "train" / name / "000.png"
    deleted.unlink()
    assert execute(pack, "higfa_demo")[-1] == 255 and not deleted.exists()


@pytest.mark.parametrize(
    ("build", "option", "jobs"), [(aircraft, "split=trainval", 6), (dtd, "partition=2", 4)], ids=["aircraft", "dtd"]
)
def test_a_plan_is_read_with_the_options_that_it_was_made_with(pack, build, option, jobs):
    import folder_paths

    folder, name = Path(folder_paths.get_input_directory()), f"set {build.__name__}"
    root = build(folder / name)
    out = Path(folder_paths.get_output_directory(), name)
    words = ["--workflow", str(WORKFLOW), "--source", str(root), "--input-dir", str(folder), "--layout-option", option]
    assert plan_cli.main([str(out), *words]) == 0
    for index in range(jobs):
        image, _, _, _, _, job, count = execute(pack, "ignored", index, name)
        pixels = np.asarray(Image.open(root / job.source).convert("RGB"))[:48]  # below is the banner
        np.testing.assert_array_equal((image[0] * 255).round().numpy(), pixels)
        assert (count, job.index) == (jobs, index)
