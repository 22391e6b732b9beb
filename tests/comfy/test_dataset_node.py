"""Dataset Job on a fresh ComfyUI: the embedded default needs no file of the user's."""

import numpy as np
import torch


def execute(pack, dataset, index=0):
    with torch.inference_mode():
        return pack.nodes["HiGFA_DatasetJob"].execute(dataset, index, "a photo of a {class}", 1, 0, "same").args


def test_embedded_dataset_is_drawn_on_first_use_and_then_left_alone(pack):
    from pathlib import Path

    import folder_paths

    from higfa_core.miniature import birds

    folder = Path(folder_paths.get_input_directory()) / "higfa_demo"
    assert pack.nodes["HiGFA_DatasetJob"].fingerprint_inputs(dataset="higfa_demo")  # as ComfyUI asks, before it runs
    image, mask, name, prompt, seed, job, count = execute(pack, "higfa_demo", 17)
    assert count == 128 and prompt == f"a photo of a {name}" and name in birds.CLASS_NAMES
    view = birds.render(birds.CLASS_NAMES.index(name), int(Path(job.source).stem), 128)
    np.testing.assert_array_equal((image[0] * 255).round().numpy(), view.image)
    np.testing.assert_array_equal(mask[0].numpy() > 0.5, view.mask > 127)
    deleted = folder / "train" / name / "000.png"
    deleted.unlink()
    assert execute(pack, "higfa_demo")[-1] == 127 and not deleted.exists()
