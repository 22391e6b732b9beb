"""Hugging Face metadata and tables."""

import csv
import json

import pytest

from higfa_core.sources.layouts import describe, read_dataset

from .miniatures import draw, write


def metadata(file, rows):
    if file.suffix == ".jsonl":
        return write(file, *map(json.dumps, rows))
    if file.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def images(root, *paths):
    for path in paths:
        draw(root / path)
    return root


def listed(dataset):
    return [(image.path, image.class_name, image.label) for image in dataset.images]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_in_the_root(suffix, tmp_path):
    files = ["train/1.png", "train/2.png", "test/3.png", "dev/4.png"]
    rows = [{"file_name": file, "label": name} for file, name in zip(files, ("Tern", "Gull", "Gull", "Tern"))]
    metadata(images(tmp_path, *files) / f"metadata.{suffix}", rows)
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == [("train/2.png", "Gull", 0), ("train/1.png", "Tern", 1)]
    assert dataset.held_out == 2 and dataset.evidence == f"metadata.{suffix}"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"class": "b"}, {"class": "a"}], [("2.png", "a", 0), ("1.png", "b", 1)]),
        ([{"text_label": "b"}, {"text_label": "a"}], [("2.png", "a", 0), ("1.png", "b", 1)]),
        ([{"label": 10}, {"label": 9}], [("2.png", "9", 0), ("1.png", "10", 1)]),
        ([{"label": 1, "text_label": "b"}, {"label": 0, "text_label": "a"}], [("2.png", "a", 0), ("1.png", "b", 1)]),
        ([{"label": "x", "split": "train"}, {"label": "y", "split": "test"}], [("1.png", "x", 0)]),
    ],
)
def test_label_columns(rows, expected, tmp_path):
    rows = [{"file_name": f"{n}.png", **row} for n, row in enumerate(rows, 1)]
    metadata(images(tmp_path, "1.png", "2.png") / "metadata.jsonl", rows)
    assert listed(read_dataset(tmp_path)) == expected


def test_numbers_are_labels_even_if_names_sort_otherwise(tmp_path):
    rows = [{"file_name": "1.png", "label": 0, "text_label": "zebra"}]
    rows.append({"file_name": "2.png", "label": 1, "text_label": "ant"})
    metadata(images(tmp_path, "1.png", "2.png") / "metadata.jsonl", rows)
    assert listed(read_dataset(tmp_path)) == [("1.png", "zebra", 0), ("2.png", "ant", 1)]


def renumbered(dataset):
    return [line for line in describe(dataset).splitlines() if "renumbered" in line]


@pytest.mark.parametrize(
    ("labels", "splits", "names", "note"),
    [
        ("0 2 1", "train train test", "0 1 2", ""),
        ("0 2 10 1", "train train val test", "0 1 2 10", "10 -> 3"),
        ("1 2 3", "train train train", "1 2 3", "1 -> 0, 2 -> 1, 3 -> 2"),
        ("4 5 6 7", "train train train train", "4 5 6 7", "4 -> 0, 5 -> 1, 6 -> 2 ..."),
        ("owl auk tern", "train train test", "auk owl tern", ""),
        ("owl tern auk", "train train Dev", "auk owl tern", ""),
        ("0 1 -1", "train train test", "0 1", ""),
    ],
)
def test_a_class_keeps_its_number_in_every_split(labels, splits, names, note, tmp_path):
    rows = [
        {"path": f"{n}.png", "label": x, "split": s} for n, (x, s) in enumerate(zip(labels.split(), splits.split()))
    ]
    metadata(images(tmp_path, *(row["path"] for row in rows)) / "t.csv", rows)
    dataset, names = read_dataset(tmp_path), names.split()
    assert dataset.class_names == tuple(names)
    train = [row for row in rows if row["split"] == "train"]
    assert sorted(listed(dataset)) == [(row["path"], row["label"], names.index(row["label"])) for row in train]
    assert renumbered(dataset) == ([f"labels were renumbered: {note}"] if note else [])


@pytest.mark.parametrize(
    ("numbers", "note"), [((3, 17, 2), ["labels were renumbered: 2 -> 0, 3 -> 1, 17 -> 2"]), ((1, 2, 0), [])]
)
def test_numbers_that_have_names_are_kept_or_renumbered(numbers, note, tmp_path):
    rows = [{"label": label, "text_label": name} for label, name in zip(numbers, ("gull", "tern", "auk"))]
    files = ["train/1.png", "train/2.png", "test/3.png"]
    metadata(images(tmp_path, *files) / "metadata.jsonl", [{"file_name": f, **row} for f, row in zip(files, rows)])
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == [("train/1.png", "gull", 1), ("train/2.png", "tern", 2)]
    assert dataset.class_names == ("auk", "gull", "tern") and renumbered(dataset) == note
    assert "classes without a training image: 1 (auk)" in describe(dataset)


def test_labels_that_would_undo_the_numbers(tmp_path):
    rows = [{"path": "1.png", "label": 1, "split": "train"}, {"path": "2.png", "label": "?", "split": "test"}]
    metadata(images(tmp_path, "1.png", "2.png") / "t.csv", rows)
    with pytest.raises(ValueError, match=r"row 3: '\?' is not a whole number like the other labels"):
        read_dataset(tmp_path)


def test_agreement_with_datasets(miniature_layout, tmp_path):
    datasets = pytest.importorskip("datasets")
    root = miniature_layout("hugging_face", tmp_path)
    for file in root.rglob("metadata.jsonl"):  # a list of boxes and images is more than this is about
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        write(file, *(json.dumps({"file_name": row["file_name"], "label": row["label"]}) for row in rows))
    (root / "README.md").unlink()
    theirs = datasets.load_dataset("imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "c"))
    theirs = theirs.cast_column("image", datasets.Image(decode=False))
    expected = {row["image"]["path"]: row["label"] for row in theirs}
    assert {str(root / i.path): i.label for i in read_dataset(root).images} == expected


def test_own_label_column_and_card(tmp_path):
    rows = [{"file_name": "1.png", "species": "b"}, {"file_name": "2.png", "species": 0}]
    metadata(images(tmp_path, "1.png", "2.png") / "metadata.jsonl", rows)
    with pytest.raises(ValueError, match="no column label or class or text_label, only file_name, species"):
        read_dataset(tmp_path)
    card = ["---", "license: [mit, cc0-1.0]", "dataset_info:", "- config_name: x", "  features:", "  - name: species"]
    write(tmp_path / "README.md", *card, "    dtype: {class_label: {names: [a, b, c]}}", "---")
    dataset = read_dataset(tmp_path, label_column="species")
    assert listed(dataset) == [("2.png", "a", 0), ("1.png", "b", 1)]
    assert (dataset.class_names, dataset.licence) == (("a", "b", "c"), "mit, cc0-1.0")
    metadata(tmp_path / "metadata.jsonl", [{"file_name": "1.png", "species": 3}])
    with pytest.raises(ValueError, match=r"metadata.jsonl, row 1: 3 is none of the 3 listed classes .*a, b, c"):
        read_dataset(tmp_path, label_column="species")
    write(tmp_path / "README.md", "---", "a: [", "---")
    with pytest.raises(ValueError, match="README.md: its front matter is not YAML"):
        read_dataset(tmp_path, label_column="species")


def test_test_images_need_no_label(miniature_layout, tmp_path):
    root = miniature_layout("hugging_face", tmp_path)
    write(root / "test" / "metadata.jsonl", '{"file_name": "c/4.png"}')
    write(root / "val" / "metadata.jsonl")
    assert (len(read_dataset(root).images), read_dataset(root).held_out) == (3, 1)


def test_two_kinds_of_metadata(tmp_path):
    rows = [{"file_name": "1.png", "label": "a"}]
    metadata(images(tmp_path, "1.png") / "metadata.jsonl", rows)
    metadata(tmp_path / "metadata.csv", rows)
    with pytest.raises(ValueError, match="metadata of several kinds"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "a"}, "row 2: there is no file_name"),
        ({"file_name": "", "label": "a"}, "row 2: there is no file_name"),
        ({"file_name": "1.png", "label": None}, "row 2: None is not a label"),
        ({"file_name": "1.png", "label": True}, "row 2: True is not a label"),
        ({"file_name": "1.png", "label": 1.5}, "row 2: 1.5 is not a label"),
        ({"file_name": "1.png", "label": "1.0"}, "row 2: '1.0' is not a label"),
        ({"file_name": "1.png", "label": -1}, "row 2: -1 is not a label"),
        ({"file_name": "1.png", "label": ["a"]}, "is not a label"),
        ({"file_name": "1.png", "label": ""}, "is not a label"),
        ({"file_name": "1.png", "label": "a", "bbox": [1, 2, 3]}, "box .* must be x, y, width and height"),
        ({"file_name": "1.png", "label": "a", "bbox": [1, 2, 0, 4]}, "box .* must be x, y, width and height"),
        ({"file_name": "1.png", "label": "a", "bbox": "a b c d"}, "box .* must be x, y, width and height"),
        ({"file_name": "../1.png", "label": "a"}, "without '..'"),
        ({"file_name": "/etc/passwd", "label": "a"}, "relative and without|not in"),
        ({"file_name": "1.png", "label": "a", "mask": "m.png"}, "m.png is listed, but not in"),
        ({"file_name": "0.png", "label": "a"}, "0.png is listed twice"),
        ({"file_name": "test/1.png", "label": "a", "split": "train"}, "in a test folder and listed as train"),
    ],
)
def test_bad_rows(row, message, tmp_path):
    images(tmp_path, "0.png", "1.png", "test/1.png")
    good = {"file_name": "0.png", "label": "a"} | ({"split": "train"} if "split" in row else {})
    metadata(tmp_path / "metadata.jsonl", [good, row])
    with pytest.raises(ValueError, match=message):
        read_dataset(tmp_path)


@pytest.mark.parametrize("line", ["{", "[1]", "7"])
def test_lines_that_are_no_rows(line, tmp_path):
    write(images(tmp_path, "1.png") / "metadata.jsonl", '{"file_name": "1.png", "label": "a"}', "", line)
    with pytest.raises(ValueError, match="metadata.jsonl, line 3"):
        read_dataset(tmp_path)


def test_a_jsonl_table_with_windows_paths(tmp_path):
    rows = [{"path": "a\\1.png", "label": "x", "box": "[1, 2, 3, 4]"}, {"path": "val/2.png", "label": "x"}]
    metadata(images(tmp_path, "a/1.png", "val/2.png") / "my.jsonl", rows)
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == [("a/1.png", "x", 0)] and dataset.images[0].box == (1, 2, 3, 4)
    assert dataset.held_out == 1


def test_numbered_names_stay_as_written(tmp_path):
    rows = [{"path": f"{n}.png", "label": n} for n in ("010", "2", "007")]
    metadata(images(tmp_path, "010.png", "2.png", "007.png") / "t.csv", rows)
    assert read_dataset(tmp_path).class_names == ("2", "007", "010")


def test_which_table(tmp_path):
    rows = [{"path": "1.png", "label": "x"}]
    metadata(images(tmp_path, "1.png", "2.png") / "a.csv", rows)
    write(tmp_path / "notes.csv", "what,why", "1,2")
    assert read_dataset(tmp_path).evidence == "a.csv"
    metadata(tmp_path / "b.csv", [{"path": "2.png", "label": "y"}])
    with pytest.raises(ValueError, match="found a.csv, b.csv. Choose one with --labels"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, table="b.csv").class_names == ("y",)
    write(tmp_path / "notes.csv", "what,why", "this,that")
    with pytest.raises(ValueError, match=r"No column of .*notes.csv names images .* \(it has what, why\)"):
        read_dataset(tmp_path, table="notes.csv")
    with pytest.raises(ValueError, match="No table 'none.csv' in .*Choose one of: a.csv, b.csv, notes.csv"):
        read_dataset(tmp_path, labels="none.csv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "1.png"], "row 2: it has more or fewer fields"),
        (["path,label", "1.png,a,b"], "row 2: it has more or fewer fields"),
        (["path,label", ",a"], "row 2: the path is empty"),
        (["path,label,split", "0.png,a,train", "1.png,a,"], "row 3: the split is empty"),
        (["path,label,split", "1.png,a,test", "2.png,b,Dev"], "none of 2 rows is a training image .*Dev, test"),
        (["path,label", "C:/x.png,a"], "relative and without|not in"),
        (["path,label"], "no training image"),
    ],
)
def test_bad_tables(lines, message, tmp_path):
    write(images(tmp_path, "1.png") / "t.csv", *lines)
    with pytest.raises(ValueError, match=message):
        read_dataset(tmp_path)
