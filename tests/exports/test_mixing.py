"""Mixing lists, and the training set that reads them."""

import csv
import json
from collections import Counter

import pytest
from torch.utils.data import DataLoader

from higfa_core.exports.base import Options
from higfa_core.exports.export import export
from higfa_core.exports.formats.lists import saspa_keys
from higfa_core.exports.mixing import MixedDataset

REAL = [(f"r{i}", i % 3) for i in range(60)]
PAIRS = {f"r{i}": [f"s{i}a", f"s{i}b"] for i in range(30)}


def echo(path):
    return path


def drawn(mixed):
    return [image for image, _ in mixed]


MIX = {"probability": 0.5, "classes": ["a"], "root": ".", "labels": {"0.png": 0}, "pairs": {"0.png": ["s.png"]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probability": "half"}, "probability must be float"),
        ({"labels": [0]}, "labels must be object"),
        ({"pairs": {"0.png": "s.png"}}, "must be array, got str"),
        ({"pairs": {"0.png": ["../../x.png"]}}, "the path '../../x.png' leads out"),
        ({"labels": {"/etc/passwd": 0}}, "the path '/etc/passwd' leads out"),
        ({"root": None}, "root must be str, got null"),
    ],
)
def test_lists_that_somebody_changed_are_named(tmp_path, changes, words):
    (tmp_path / "mix.json").write_text(json.dumps(MIX | changes))
    with pytest.raises(ValueError, match=rf"mix.json is damaged .*{words}.*\). Export the dataset again"):
        MixedDataset.from_lists(tmp_path / "mix.json")


def test_replaced_with_the_probability_by_its_own_images():
    mixed = MixedDataset(REAL, PAIRS, 0.3, seed=1, loader=echo)
    found = Counter()
    for epoch in range(200):
        mixed.set_epoch(epoch)
        for i, (image, label) in enumerate(mixed):
            assert label == i % 3 and image in [f"r{i}", *PAIRS.get(f"r{i}", [])]
            found[image[0], image[-1] if image[0] == "s" else "", i < 30] += 1
    assert found["r", "", False] == 200 * 30  # no pair: always itself
    for which in "ab":
        assert found["s", which, True] / (200 * 30) == pytest.approx(0.15, abs=0.02)
    assert drawn(MixedDataset(REAL, PAIRS, 0.0, loader=echo)) == [path for path, _ in REAL]
    assert all(image[0] == "s" for image in drawn(MixedDataset(REAL, PAIRS, 1.0, loader=echo))[:30])


def test_draws_depend_on_seed_epoch_and_index_only():
    mixed = MixedDataset(REAL, PAIRS, 0.5, seed=1, loader=echo)
    first = drawn(mixed)
    assert [mixed[i][0] for i in reversed(range(60))] == first[::-1] and mixed[-1] == mixed[59]
    mixed.set_epoch(1)
    second = drawn(mixed)
    assert first != second != drawn(MixedDataset(REAL, PAIRS, 0.5, seed=2, loader=echo)) != first
    mixed.set_epoch(0)
    loader = DataLoader(mixed, batch_size=7, num_workers=1, persistent_workers=True)
    assert [image for images, _ in loader for image in images] == first
    mixed.set_epoch(1)  # reaches a worker that lives on
    assert [image for images, _ in loader for image in images] == second


def test_bad_arguments():
    with pytest.raises(ValueError, match="0..1, got 1.5"):
        MixedDataset(REAL, PAIRS, 1.5)
    with pytest.raises(ValueError, match="elsewhere"):
        MixedDataset(REAL, {"elsewhere": []})


@pytest.mark.parametrize("real", [False, True])
def test_lists(dataset, root, rows, tmp_path, real):
    out = tmp_path / "out"
    export([dataset], out, "lists", Options(probability=1.0, real=real))
    by_hash = {json.loads(line)["file"]: json.loads(line) for line in (out / "manifest.jsonl").open(encoding="utf-8")}
    made = {str(out / file): row for file, row in by_hash.items() if row["synthetic"]}
    out = out.rename(tmp_path / "moved")  # paths in mix.json are relative to it
    mixed = MixedDataset.from_lists(out / "mix.json")
    assert len(mixed) == 6 and mixed.classes == ("F-16A/B", "鴉 crow", "001.Gull", "Empty")
    sources = {row["source"]: row["label"] for row in rows}
    for (path, label), (image, given) in zip(mixed.samples, mixed):
        found = [made[str(tmp_path / "out" / p.split("moved/")[1])] for p in mixed.pairs[path]]
        assert len(found) == 2 - (label == 0) and {row["label"] for row in found} == {label} == {given}
        assert len({row["source"] for row in found}) == 1 and sources[found[0]["source"]] == label
        assert image.size == (24, 16) and (path.startswith(str(out)) if real else path.startswith(str(root)))
    saspa = json.loads((out / "saspa.json").read_text("utf-8"))
    assert {key: len(found) for key, found in saspa.items()} == Counter(row["source"] for row in rows)
    assert {path for found in saspa.values() for path in found} == made.keys()
    table = list(csv.DictReader((out / "meta.csv").open(encoding="utf-8", newline="")))
    assert [int(row["Number"]) for row in table] == list(range(10))
    for row in table:
        about = by_hash[f"data/{row['Path']}"]
        name = {"F-16A/B": "F-16A B", "001.Gull": "Gull"}.get(about["class_name"], about["class_name"])
        assert row["First Directory"] == row["Second Directory"] == name
        assert (out / "data" / row["Path"]).is_file() and float(row["Strength"]) == 1


def test_lists_of_a_dataset_without_plan(dataset, root, sources, rows, tmp_path):
    (dataset / "plan.json").unlink()
    with pytest.raises(ValueError, match="Name their folder with --source"):
        export([dataset], tmp_path / "out", "lists", Options())
    with pytest.raises(ValueError, match="has other classes"):
        export([dataset], tmp_path / "out", "lists", Options(source=root))
    metadata = [json.dumps({"file_name": source.path, "label": source.label}) for source in sources]
    (root / "metadata.jsonl").write_text("\n".join(metadata))
    names = [source.class_name for source in sources[::2]] + ["Empty"]
    info = {"features": [{"name": "label", "dtype": {"class_label": {"names": names}}}]}
    (root / "README.md").write_text(f"---\n{json.dumps({'dataset_info': info})}\n---\n")
    (root / "held_out.txt").write_text(rows[0]["source"])
    with pytest.raises(ValueError, match=f"{rows[0]['source']}, which is not a training image in .*held out"):
        export([dataset], tmp_path / "out", "lists", Options(source=root))
    (root / "held_out.txt").unlink()
    export([dataset], tmp_path / "out", "lists", Options(source=root, per_class=1))
    with pytest.raises(ValueError, match="is missing. Give root"):
        MixedDataset.from_lists(tmp_path / "out" / "mix.json", tmp_path)
    mixed = MixedDataset.from_lists(tmp_path / "out" / "mix.json", root, probability=0, seed=3)
    assert (mixed.probability, mixed.seed) == (0, 3)
    assert dict(mixed.samples) == {str(root / source.path): source.label for source in sources}
    assert len(mixed.samples) == 6 and len(mixed.pairs) == 3
    assert mixed.samples == MixedDataset.from_lists(tmp_path / "out" / "mix.json").samples


def test_saspa_knows_images_by_bare_names():
    assert saspa_keys(["a/1.jpg", "b/2.jpg", "c/1.jpg"]) == {
        "a/1.jpg": "a/1.jpg",
        "b/2.jpg": "2.jpg",
        "c/1.jpg": "c/1.jpg",
    }
