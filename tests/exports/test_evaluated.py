"""Which images of a dataset of ours, and of an export, count as synthetic."""

import pytest

from higfa_core.evaluation.pair import made_in
from higfa_core.exports.base import Options
from higfa_core.exports.export import export


def test_the_accepted_images_of_a_dataset_count(dataset, rows):
    assert [(path, name) for path, name, _ in made_in(dataset)] == [
        (dataset / row["file"], row["class_name"]) for row in rows
    ]


def test_the_real_images_of_an_export_do_not_count(dataset, rows, root, tmp_path):
    out = tmp_path / "out"
    export([dataset], out, "imagefolder", Options(real=True, image_format="png"))
    found = made_in(out)
    assert sorted(name for _, name, _ in found) == sorted(row["class_name"] for row in rows)
    assert not [path for path, _, _ in found if path.name.startswith("real-")]
    found[0][0].unlink()
    with pytest.raises(ValueError, match="is missing. Export the dataset again"):
        made_in(out)
