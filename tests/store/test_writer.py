import dataclasses
import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.contour import ContourTransform, extract, transform_batch
from higfa_core.files.paths import class_of_folder
from higfa_core.files.records import check_row
from higfa_core.plans.plan import Plan
from higfa_core.plans.rules import Rules
from higfa_core.review.filtering import refilter
from higfa_core.sources.layouts import read_dataset
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import (
    check_images,
    dataset_folder,
    encode_image,
    export_images,
    is_complete,
    open_manifest,
)

CLASSES = ("001.Gull", "002.Tern", "鴉")


@pytest.fixture
def jobs(tmp_path):
    for label, name in enumerate(CLASSES):
        for i in range(2):
            path = tmp_path / "birds" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (label * 60, i * 60, 9)).save(path)
    return list(Plan(read_dataset(tmp_path / "birds"), 2))


@pytest.fixture
def output(tmp_path):
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


def images(seed, batch=1):
    return torch.rand(batch, 8, 10, 3, generator=torch.Generator().manual_seed(seed))


def files(folder):
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "lock.sqlite"
    )


class FakeClassifier:
    """Its probability of class 0 is the mean of the red channel."""

    class_names = ("Gull", "Tern")

    def index(self, name):
        plain = name.split(".")[-1]  # the real one, too, forgives a dataset's numbering
        if plain not in self.class_names:
            raise ValueError(f"No class {name!r}")
        return self.class_names.index(plain)

    def predict_proba(self, images):
        red = images[..., 0].mean((1, 2))
        return torch.stack((red, 1 - red), 1)


def red(*values):
    return torch.stack([torch.tensor([v, 0.0, 0.0]).expand(8, 8, 3) for v in values])


def test_torchvision_reads_the_export(jobs, output):
    from torchvision.datasets import ImageFolder

    for job in jobs:
        assert export_images(images(job.index, 3), output, "sets/higfa", job=job).written == 3
    root = output / "sets" / "higfa"
    read = ImageFolder(root / "train")
    assert tuple(read.classes) == CLASSES
    assert Counter(read.targets) == {0: 12, 1: 12, 2: 12}
    rows = {str(root / row["file"]): row for row in map(json.loads, (root / "manifest.jsonl").open("rb"))}
    assert {path: row["label"] for path, row in rows.items()} == dict(read.samples)
    assert json.loads((root / "dataset.json").read_text("utf-8"))["classes"] == list(CLASSES)
    assert {row["plan_index"] for row in rows.values()} == set(range(len(jobs)))
    assert is_complete(output, "sets/higfa")


def test_run_again_writes_nothing_and_says_so(jobs, output):
    export_images(images(0, 2), output, "d", job=jobs[0])
    before = {name: (output / "d" / name).stat().st_mtime_ns for name in files(output / "d")}
    report = export_images(images(0, 2), output, "d", job=jobs[0])
    assert report.outcomes == ("same", "same") and report.accepted == 2
    assert "0 written, 2 accepted" in str(report) and "2 already there" in str(report)
    assert before == {name: (output / "d" / name).stat().st_mtime_ns for name in files(output / "d")}


def test_an_image_that_was_given_up_is_rejected_whatever_the_rules(jobs, output):
    report = export_images(images(0, 2), output, "d", job=jobs[0], given_up=[None, 0.0123])
    assert [row["accepted"] for row in report.rows] == [True, False]
    assert report.rows[1]["reason"] == "given up: probability 0.0123 is below the limit"
    first, second = (output / "d" / "manifest.jsonl").read_bytes().splitlines()
    assert (check_row(first).scores.given_up, check_row(second).scores.given_up) == (None, 0.0123)
    refilter(output / "d", {}, fresh=True)
    assert [row["accepted"] for row in Manifest(output / "d")] == [True, False]
    again = export_images(images(0, 2), output, "d", job=jobs[0], given_up=[None, 0.0123])
    assert again.outcomes == ("same", "same")


def test_a_deleted_image_is_made_again(jobs, output):
    assert not is_complete(output, "d")
    report = export_images(images(0), output, "d", job=jobs[0])
    assert is_complete(output, "d")
    (output / "d" / report.rows[0]["file"]).unlink()
    assert not is_complete(output, "d")
    assert export_images(images(0), output, "d", job=jobs[0]).written == 1
    assert is_complete(output, "d") and len(open_manifest(output / "d").rows()) == 1


def test_other_pixels_of_the_same_job(jobs, output):
    export_images(images(0), output, "d", job=jobs[0])
    kept = export_images(images(1), output, "d", job=jobs[0])
    assert kept.outcomes == ("kept",) and "if_exists" in str(kept)
    changed = export_images(images(1), output, "d", job=jobs[0], replace=True)
    assert changed.outcomes == ("replaced",)
    (name,) = [f for f in files(output / "d") if f.endswith(".png")]
    assert (output / "d" / name).read_bytes() == encode_image(images(1)[0])


def test_without_a_job_an_image_is_known_by_its_content(output):
    export_images(images(0), output, "d", "Gull")
    assert export_images(images(0), output, "d", "Gull").outcomes == ("same",)
    assert export_images(images(1), output, "d", "Gull").outcomes == ("written",)
    assert export_images(images(0), output, "d", "Tern").outcomes == ("written",)
    assert {row["label"] for row in open_manifest(output / "d").rows()} == {None}


def test_without_a_job_the_class_must_be_known_to_a_dataset_with_labels(jobs, output):
    export_images(images(0), output, "d", job=jobs[0])
    assert export_images(images(5), output, "d", "002.Tern").rows[0]["label"] == 1
    with pytest.raises(ValueError, match="no class 'Tern': it has 001.Gull"):
        export_images(images(6), output, "d", "Tern")


def test_a_dataset_keeps_its_classes(jobs, output, tmp_path):
    export_images(images(0), output, "d", "Gull")
    with pytest.raises(ValueError, match="other classes.*Choose another dataset_name"):
        export_images(images(0), output, "d", job=jobs[0])


def test_rejected_images_are_kept_apart_with_score_and_reason(jobs, output):
    options = {"classifier": FakeClassifier(), "rules": Rules(min_confidence=0.6)}
    options["transform"] = [{"angle": 1}, {"angle": 2}]
    report = export_images(red(0.8, 0.3), output, "d", job=jobs[0], guidance="steps 15-20", **options)
    assert report.accepted == 1 and "rejected: confidence 0.3 is below 0.6" in str(report)
    first, second = report.rows
    assert first["file"].startswith("train/001.Gull/") and second["file"].startswith("rejected/001.Gull/")
    assert [row["accepted"] for row in report.rows] == [True, False]
    assert second["scores"]["confidence"] == pytest.approx(0.3) and second["transform"] == {"angle": 2}
    assert second["scores"]["rank"] == 2 and second["scores"]["margin"] == pytest.approx(-0.4)
    assert second["scores"]["seen"] == "Tern" and "judge_confidence" not in second["scores"]
    assert first["seed"] == jobs[0].seed and first["prompt"] == "a photo of a Gull"
    assert first["guidance"] == "steps 15-20"


def test_a_stricter_rule_moves_the_image_when_replacing(jobs, output):
    strict = {"classifier": FakeClassifier(), "rules": Rules(min_confidence=0.9), "job": jobs[0]}
    export_images(red(0.8), output, "d", job=jobs[0])
    assert export_images(red(0.8), output, "d", **strict).accepted == 1
    assert export_images(red(0.8), output, "d", replace=True, **strict).accepted == 0
    assert [f.split("/")[0] for f in files(output / "d")] == ["dataset.json", "manifest.jsonl", "rejected"]


def test_the_judge_is_scored_apart_and_may_reject(jobs, output):
    class Stern(FakeClassifier):
        def predict_proba(self, images):
            return super().predict_proba(images).flip(1)

    options = {"classifier": FakeClassifier(), "judge": Stern(), "rules": Rules(0.5, min_judge_confidence=0.5)}
    (row,) = export_images(red(0.8), output, "d", job=jobs[0], **options).rows
    assert row["scores"]["confidence"] == pytest.approx(0.8)
    assert row["scores"]["judge_confidence"] == pytest.approx(0.2) and row["scores"]["judge_rank"] == 2
    assert not row["accepted"] and row["reason"] == "judge confidence 0.2 is below 0.5"


@pytest.mark.parametrize("rules", [Rules(0.1), Rules(require_top1=True), Rules(min_contour_agreement=0.1)])
def test_a_rule_without_its_score_does_not_pretend(rules, output):
    with pytest.raises(ValueError, match="The rules need"):
        export_images(images(0), output, "d", "Gull", rules=rules)
    assert files(output) == []


def boxed(job, box, size, mask_file=""):
    return dataclasses.replace(job, box=box, size=size, mask_file=mask_file)


def test_box_and_mask_follow_the_contour(jobs, output):
    mask = torch.zeros(1, 48, 64)
    mask[0, 10:30, 20:40] = 1
    transform = ContourTransform(flip=0).sample(3, 0, 48, 64)
    shifted = dataclasses.replace(transform, matrix=((1, 0, 8), (0, 1, 4), (0, 0, 1))).to_dict()
    job = boxed(jobs[0], (20.0, 10.0, 20.0, 20.0), (64, 48), "masks/x.png")
    moved = torch.roll(mask, (4, 8), (1, 2))
    big = torch.rand(1, 96, 128, 3)
    (row,) = export_images(big, output, "d", job=job, transform=[shifted], mask=moved).rows
    assert row["box"] == [56, 28, 40, 40]  # shifted by (8, 4), then twice as large
    stored = np.array(Image.open(output / "d" / row["mask"]))
    ys, xs = np.nonzero(stored)
    assert stored.shape == (96, 128) and set(np.unique(stored)) == {0, 255}
    assert abs(xs.min() - 56) <= 1 and abs(xs.max() + 1 - 96) <= 1 and abs(ys.min() - 28) <= 1
    assert not (output / "d" / "train" / "masks").exists()


def test_box_and_mask_of_a_source_of_another_shape_lie_where_the_controlnet_sees_the_object(jobs, output):
    """500 x 333 to 512 x 512: the centre, 333 x 333 from x = 84 on (rounded from 83.5), 512/333 as large."""
    mask = torch.zeros(1, 333, 500)
    mask[0, 100:233, 184:284] = 1
    job = boxed(jobs[0], (184.0, 100.0, 100.0, 133.0), (500, 333), "masks/x.png")
    (row,) = export_images(torch.rand(1, 512, 512, 3), output, "d", job=job, mask=mask).rows
    assert row["box"] == pytest.approx([154, 154, 154, 205], abs=1.5)
    ys, xs = np.nonzero(np.array(Image.open(output / "d" / row["mask"])))
    assert (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) == pytest.approx((154, 154, 154, 205), abs=1.5)
    job = boxed(jobs[1], None, (500, 333), "masks/x.png")
    (row,) = export_images(torch.rand(1, 512, 512, 3), output, "d", job=job, mask=mask).rows
    assert row["box"] == pytest.approx([154, 154, 154, 205], abs=1.5)


def test_the_part_of_a_box_that_is_cut_off_does_not_count(jobs, output):
    at_the_side = boxed(jobs[0], (0.0, 100.0, 100.0, 133.0), (500, 333))
    (row,) = export_images(torch.rand(1, 512, 512, 3), output, "d", job=at_the_side).rows
    assert row["box"] == pytest.approx([0, 154, 25, 205], abs=1.5)
    outside = boxed(jobs[1], (0.0, 100.0, 80.0, 133.0), (500, 333))
    assert export_images(torch.rand(1, 512, 512, 3), output, "d", job=outside).rows[0]["box"] is None


def test_box_through_a_transform_to_another_shape(jobs, output):
    mask = torch.zeros(1, 333, 500)
    mask[0, 100:233, 0:60] = 1
    contour = mask[..., None].repeat(1, 1, 1, 3)
    _, (moved,), (drawn,) = transform_batch(contour, ContourTransform(), 5, 1, mask, size=(512, 512))
    job = boxed(jobs[0], (0.0, 100.0, 60.0, 133.0), (500, 333), "masks/x.png")
    pictures = torch.rand(1, 1024, 1024, 3)
    (row,) = export_images(pictures, output, "d", job=job, mask=moved[None], transform=[drawn.to_dict()]).rows
    ys, xs = np.nonzero(np.array(Image.open(output / "d" / row["mask"])))
    assert row["box"] == pytest.approx([xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1], abs=4)
    assert moved.sum() > 100


def test_without_a_source_mask_the_blank_one_is_dropped_and_without_a_box_the_mask_gives_it(jobs, output):
    blank = torch.ones(1, 8, 10)
    (row,) = export_images(images(0), output, "d", job=jobs[0], mask=blank).rows
    assert row["mask"] is None and row["box"] is None
    drawn = torch.zeros(1, 8, 10)
    drawn[0, 2:5, 3:9] = 1
    (row,) = export_images(images(1), output, "d", job=boxed(jobs[1], None, (10, 8), "m.png"), mask=drawn).rows
    assert row["box"] == [3, 2, 6, 3] and (output / "d" / row["mask"]).is_file()
    (output / "d" / row["mask"]).unlink()
    assert not is_complete(output, "d")


def test_agreement_is_measured_inside_a_mask_that_is_only_a_box(jobs, output):
    picture = torch.zeros(1, 64, 64, 3)
    picture[:, 20:44, 20:44] = 1
    contour = extract(picture)
    picture[:, 4:10, 4:60] = 1  # a background that nobody asked for
    box = torch.zeros(1, 64, 64)
    box[:, 15:50, 15:50] = 1
    scores = []
    for job, mask in zip(jobs, (None, box)):
        (row,) = export_images(picture, output, "d", job=job, contour=contour, mask=mask).rows
        scores.append(row["scores"]["contour_agreement"])
        assert row["mask"] is None and row["box"] is None
    assert scores[0] < 0.9 and scores[1] == 1.0


def test_the_workflow_enters_the_key(jobs, output):
    keys = [export_images(images(0), output, "d", job=jobs[0], workflow=w).rows[0]["key"] for w in ("", "a", "b")]
    assert keys[0] == jobs[0].key and len(set(keys)) == 3
    rows = open_manifest(output / "d").rows()
    assert [row["job_key"] for row in rows] == [jobs[0].key] * 3 and len(rows) == 3


def test_an_unknown_class_of_the_classifier_is_an_error(output):
    with pytest.raises(ValueError, match="No class '003.Auk'"):
        export_images(images(0), output, "d", "003.Auk", classifier=FakeClassifier())
    assert files(output) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 8, 8, 3), float("nan")), "Image 0 of .*NaN"),
        (torch.cat((torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8, 3), float("inf")))), "Image 1 of "),
        (torch.zeros(0, 8, 8, 3), "empty batch"),
        (torch.zeros(8, 8, 3), "must be float"),
        (torch.zeros(1, 3, 8, 8), "must be float"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), "must be float"),
        (None, "must be float.*NoneType"),
    ],
)
def test_bad_images_name_the_job_and_write_nothing(jobs, output, bad, message):
    with pytest.raises(ValueError, match=message) as caught:
        export_images(bad, output, "d", job=jobs[4])
    assert "job 4 (002.Tern)" in str(caught.value)
    assert files(output) == [] and not (output / "d").exists()


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/abs", "C:\\x", "", "a\\b", ".hidden", "a//b", "NUL"])
def test_dataset_names_that_are_refused(output, name):
    with pytest.raises(ValueError):
        export_images(images(0), output, name, "Gull")
    assert files(output.parent) == []


def test_a_link_out_of_the_output_folder_is_refused(output, tmp_path):
    (output / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads outside"):
        dataset_folder(output, "link/x")
    (output / "d").mkdir()
    (output / "d" / "train").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads outside"):
        export_images(images(0), output, "d", "Gull")


@pytest.mark.parametrize("name", ["F-16A/B", "F/A-18", ".hidden", "CON", "a.", "a\tb", "100%", "test"])
def test_any_class_name_can_be_a_folder_and_is_found_again(output, name):
    (row,) = export_images(images(0), output, "d", name).rows
    folder = row["file"].split("/")[1]
    assert row["class_name"] == name == class_of_folder(folder)
    assert [f for f in files(output) if f.endswith(".png")] == ["d/" + row["file"]]
    with pytest.raises(ValueError, match="No class given"):
        export_images(images(0), output, "d", "")


def test_class_name_against_the_job(jobs, output):
    with pytest.raises(ValueError, match="not the job's"):
        export_images(images(0), output, "d", "Tern", job=jobs[0])
    with pytest.raises(ValueError, match="2 transforms for 1 image"):
        export_images(images(0), output, "d", job=jobs[0], transform=[{}, {}])


def test_cancel_leaves_whole_files_only(jobs, output):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:  # once before the first write, then before each file
            raise InterruptedError

    with pytest.raises(InterruptedError):
        export_images(images(0, 3), output, "d", job=jobs[0], check=check)
    assert len([f for f in files(output / "d") if f.startswith("train")]) == 1
    assert not [f for f in files(output / "d") if f.endswith(".part")]
    report = export_images(images(0, 3), output, "d", job=jobs[0])
    assert report.outcomes == ("same", "written", "written")


@pytest.mark.parametrize(
    ("image_format", "pil", "error"),
    [("png", "PNG", 0), ("webp lossless", "WEBP", 0), ("jpeg", "JPEG", 8), ("webp", "WEBP", 12)],
)
def test_encoders(image_format, pil, error):
    ramp = torch.linspace(-0.1, 1.1, 32)
    image = torch.stack((ramp.expand(32, 32), ramp.expand(32, 32).T, torch.full((32, 32), 0.5)), -1)
    read = Image.open(io.BytesIO(encode_image(image, image_format)))
    assert (read.format, read.size, read.mode) == (pil, (32, 32), "RGB")
    pixels = torch.from_numpy(np.array(read)).float()
    assert (pixels - image.clamp(0, 1) * 255).abs().max() <= error + 0.5 + 1e-4


def test_metadata_is_off_by_default():
    assert Image.open(io.BytesIO(encode_image(images(0)[0]))).info == {}
    with_text = encode_image(images(0)[0], metadata={"prompt": '{"1": 2}'})
    assert Image.open(io.BytesIO(with_text)).info == {"prompt": '{"1": 2}'}
    with pytest.raises(ValueError, match="image_format must be one of"):
        encode_image(images(0)[0], "gif")


def test_check_images_accepts_half_precision():
    check_images(images(0).half(), "x")


def test_each_image_keeps_the_seed_of_its_noise(jobs, output):
    """In its row, and where the workflow is saved in its file; old rows have no such fields and stay readable."""
    given = {"metadata": {"prompt": "{}"}, "noise": [(7, 4), (7, 2)], "together": 6}
    report = export_images(images(0, 2), output, "higfa", job=jobs[0], **given)
    assert [(row["noise_seed"], row["noise_index"], row["index"]) for row in report.rows] == [(7, 4, 0), (7, 2, 1)]
    assert [row["sampled_together"] for row in report.rows] == [6, 6]
    with Image.open(report.folder / report.rows[0]["file"]) as saved:
        assert json.loads(saved.text["higfa"]) == {"noise_seed": 7, "noise_index": 4}
    plain = export_images(images(1, 1), output, "higfa", job=jobs[1], metadata={"prompt": "{}"})
    assert not {"noise_seed", "sampled_together"} & plain.rows[0].keys()
    with Image.open(plain.folder / plain.rows[0]["file"]) as saved:
        assert "higfa" not in saved.text
