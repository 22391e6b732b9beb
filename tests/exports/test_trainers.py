"""Lists as the trainers of other papers read them; their rules are written down again here, from their loaders."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from higfa_core.commands import export as export_cli
from higfa_core.exports.base import Options
from higfa_core.exports.export import export
from higfa_core.exports.trainers import diff_mix_names, diffda_eval_folders
from higfa_core.sources.source import SourceImage

CLASSES = ("F-16A/B", "鴉 crow", "001.Gull")
# Class as a layout calls it -> Diff-Mix's name of it, DiffDA-Eval's.
KNOWN = {
    "001.Black_footed_Albatross": ("Black footed Albatross", "Black_footed_Albatross"),
    "n02085936-Maltese_dog": ("Maltese dog", "Maltese_dog"),
    "n02098105-soft-coated_wheaten_terrier": ("soft-coated wheaten terrier", "soft-coated_wheaten_terrier"),
    "n02108000-EntleBucher": ("EntleBucher", "EntleBucher"),
    "Ram C/V Cargo Van Minivan 2012": ("Ram C V Cargo Van Minivan 2012", "Ram_C_V_Cargo_Van_Minivan_2012"),
    "AM General Hummer SUV 2000": ("AM General Hummer SUV 2000", "AM_General_Hummer_SUV_2000"),
    "707-320": ("707-320", "707-320"),
    "F/A-18": ("F A-18", "F_A-18"),
    "Cessna 172": ("Cessna 172", "Cessna_172"),
    "pink primrose": ("pink primrose", "pink_primrose"),
    "cyclamen": ("cyclamen ", "cyclamen"),
    "hippeastrum": ("hippeastrum ", "hippeastrum"),
    "pink-yellow dahlia": ("pink-yellow dahlia", "pink-yellow_dahlia?"),
    "american_bulldog": ("american bulldog", "american_bulldog"),
    "apple_pie": ("apple pie", "apple_pie"),
}


@pytest.fixture
def root(tmp_path):
    """Real images whose file names are their own, as in CUB."""
    rng = np.random.default_rng(0)
    for label in range(3):
        for number in range(2):
            path = tmp_path / "planes" / f"c{label}" / f"Bird.{label}_{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / "planes"


@pytest.fixture
def sources():
    return tuple(
        SourceImage(f"c{label}/Bird.{label}_{number}.jpg", CLASSES[label], label)
        for label in range(3)
        for number in range(2)
    )


@pytest.fixture
def out(dataset, tmp_path):
    export([dataset], tmp_path / "out", "lists", Options())
    return tmp_path / "out"


@pytest.mark.skipif("os.name != 'posix'", reason="a folder of DiffDA-Eval has a question mark, which Windows lacks")
def test_names_are_those_of_the_trainers_own_lists():
    names, folders = diff_mix_names(KNOWN), diffda_eval_folders(KNOWN)
    assert {name: (names[name], folders[name]) for name in KNOWN} == KNOWN


def test_classes_that_would_be_one_keep_their_own_names():
    assert diff_mix_names(["001.Gull", "002.gull", "A/B"]) == {
        "001.Gull": "001.Gull",
        "002.gull": "002.gull",
        "A/B": "A B",
    }
    assert diffda_eval_folders(["a b", "a_b", "A/B"]) == {"a b": "a b", "a_b": "a_b", "A/B": "A%2FB"}


def test_diff_mix_finds_every_class(out, rows):
    class2label = {"F-16A B": 0, "鴉 crow": 1, "Gull": 2}  # of its Hub copy, "/" replaced
    table = list(csv.DictReader((out / "meta.csv").open(encoding="utf-8", newline="")))
    assert Counter(class2label[row["First Directory"]] for row in table) == Counter(row["label"] for row in rows)
    assert all((out / "data" / row["Path"]).is_file() for row in table)


def test_saspa_finds_every_image(out, root, rows):
    pairs = json.loads((out / "saspa.json").read_text("utf-8"))
    assert pairs.keys() == {path.name for path in root.rglob("*.jpg")}
    assert sum(map(len, pairs.values())) == len(rows)


def test_diffda_eval_finds_every_real_image(out, root, rows):
    generated = ImageFolder(out / "data")
    found = Counter()
    for path, index in generated.samples:
        name = path.rpartition("/")[2]
        found[generated.classes[index], name[: name.rindex("_augment_")]] += 1
    own = {"c0": "F-16A_B", "c1": "鴉_crow", "c2": "Gull"}
    real = {(own[path.parent.name], path.stem) for path in root.rglob("*.jpg")}
    assert found.keys() == real and found.total() == len(rows)


def test_check_against_counts_what_the_trainer_has(dataset, root, tmp_path, capsys):
    arguments = [str(dataset), "--format", "lists", "--check-against", str(root), "--out"]
    assert export_cli.main([*arguments, str(tmp_path / "out")]) == 0
    assert "real images that the trainer's copy has: 6 of 6" in capsys.readouterr().out
    (root / "c0" / "Bird.0_0.jpg").rename(root / "c0" / "moved.jpg")
    assert export_cli.main([*arguments, str(tmp_path / "fewer")]) == 0
    assert "5 of 6" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "has none of 6 real images that the lists name"), ("absent", "is not a folder")):
        arguments[4] = str(tmp_path / folder)
        assert export_cli.main([*arguments, str(tmp_path / "none")]) == 1
        assert words in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert export_cli.main([str(dataset), "--format", "coco", *arguments[3:], str(tmp_path / "none")]) == 1
    assert "Use --format lists" in capsys.readouterr().err
