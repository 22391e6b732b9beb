import dataclasses
import hashlib
import json
import os
from collections import Counter

import pytest
from PIL import Image

from higfa_core.plans.inputs import load_job, pick_jobs
from higfa_core.plans.plan import Job, Plan, job_seed, jobs_from_json, jobs_to_json
from higfa_core.plans.plan_file import write_plan
from higfa_core.plans.prompts import Prompts, read_lines
from higfa_core.sources.layouts import read_dataset
from higfa_core.sources.source import ClassInfo, SourceDataset, SourceImage


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "birds"
    for name, count in {"001.Gull": 3, "002.Tern": 3, "003.Auk": 3}.items():
        for i in range(count):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i * 20, len(name), int(name[2]) * 40)).save(root / name / f"{i}.png")
    return root


def make(root, replicas=1, prompt="a photo of a {class}", **options):
    return Plan(read_dataset(root), replicas, Prompts((prompt,)), **options)


def fake_dataset(**counts):
    names = sorted(counts)
    images = [SourceImage(f"{n}/{i:03}.png", n, names.index(n)) for n in names for i in range(counts[n])]
    return SourceDataset("nowhere", "fake", "", tuple(ClassInfo(n, n) for n in names), tuple(images))


def first_63_bits(text):
    return int(hashlib.sha256(text.encode("utf-8")).hexdigest()[:16], 16) // 2


def test_seed_golden_values():
    assert job_seed(7, "a/1.png", "a", 2) == first_63_bits('[7,"a/1.png","a",2]')
    assert job_seed(0, "train/鴉/1.png", "鴉", 0) == first_63_bits('[0,"train/鴉/1.png","鴉",0]')
    assert job_seed(0, "e\u0301/1.png", "e\u0301", 0) == job_seed(0, "\u00e9/1.png", "\u00e9", 0)
    assert job_seed(0, "a/1.png", "a", 0) == 3356933864010758762  # printf | sha256sum


def test_key_golden_value(birds):
    job = make(birds, plan_seed=5)[4]
    content = hashlib.sha256((birds / job.source).read_bytes()).hexdigest()
    parts = {
        "source_sha256": content,
        "contour_sha256": content,
        "mask_sha256": None,
        "class_name": job.class_name,
        "prompt": "a photo of a Tern",
        "seed": first_63_bits(f'[5,"{job.source}","002.Tern",0]'),
        "replica": 0,
        "treatment": [0],
    }
    assert job.source == "002.Tern/1.png"
    assert job.key == hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize(
    "options",
    [{"prompt": "a drawing of a {class}"}, {"plan_seed": 1}],
)
def test_each_pixel_input_changes_every_key(birds, options):
    before, after = make(birds), make(birds, **options)
    assert not {job.key for job in before} & {job.key for job in after}


def test_key_follows_file_content_only(birds, tmp_path):
    before = [job.key for job in make(birds)]
    changed = birds / make(birds)[4].source
    os.utime(changed, (1, 1))
    assert [job.key for job in make(birds)] == before
    copy = tmp_path / "elsewhere"
    birds.rename(copy)
    assert [job.key for job in make(copy)] == before
    Image.new("RGB", (8, 8), (1, 2, 3)).save(copy / changed.relative_to(birds))
    after = [job.key for job in make(copy)]
    assert [i for i in range(9) if after[i] != before[i]] == [4]


def test_a_mask_enters_the_key_of_its_image(birds):
    before = [job.key for job in make(birds)]
    (birds / "masks" / "001.Gull").mkdir(parents=True)
    Image.new("L", (8, 8)).save(birds / "masks" / "001.Gull" / "0.png")
    after = [job.key for job in make(birds)]
    assert [i for i in range(9) if after[i] != before[i]] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("contour_from", ["same", "other"])
def test_no_two_jobs_are_alike(birds, contour_from):
    jobs = list(make(birds, replicas=4, contour_from=contour_from))
    assert len(jobs) == 36
    assert len({job.key for job in jobs}) == len({job.seed for job in jobs}) == 36
    assert Counter(job.source for job in jobs) == {source.path: 4 for source in read_dataset(birds).images}
    assert jobs == [make(birds, replicas=4, contour_from=contour_from)[i] for i in range(36)]


def test_contour_from_other_stays_in_the_class(birds):
    jobs = list(make(birds, replicas=8, contour_from="other"))
    for job in jobs:
        assert job.contour_source != job.source
        assert job.contour_source.split("/")[0] == job.source.split("/")[0] == job.class_name
    assert len({(job.source, job.contour_source) for job in jobs}) == 18  # 9 images, both others of each


def test_contour_from_other_needs_two_images():
    with pytest.raises(ValueError, match="'b' has one image"):
        Plan(fake_dataset(a=2, b=1), contour_from="other")
    assert len(Plan(fake_dataset(a=2, b=1), {"a": 5}, contour_from="other")) == 5


@pytest.mark.parametrize(("counts", "replicas"), [({"a": 4, "b": 4, "c": 4}, 3), ({"a": 1, "b": 7, "c": 3}, 2)])
def test_every_prefix_is_balanced(counts, replicas):
    plan = Plan(fake_dataset(**counts), replicas)
    turns = [plan._turn(i) for i in range(len(plan))]
    assert sorted(turns) == [(c, k) for c in sorted(counts) for k in range(counts[c] * replicas)]
    assert [name for name, _ in turns[:3]] == ["a", "b", "c"]
    seen = Counter()
    for name, turn in turns:
        assert turn == seen[name]
        seen[name] += 1
        unfinished = [seen[c] for c in counts if seen[c] < counts[c] * replicas]
        assert not unfinished or max(seen.values()) - min(unfinished) <= 1
    assert plan.counts() == dict(seen)


def test_replicas_follow_one_another(birds):
    gulls = [(job.replica, job.source) for job in make(birds, replicas=2) if job.label == 0]
    assert gulls == [(r, f"001.Gull/{i}.png") for r in (0, 1) for i in range(3)]


def test_a_large_plan_reads_no_file_until_asked():
    plan = Plan(fake_dataset(**{f"c{i}": 50 for i in range(200)}), 100)
    assert len(plan) == 1_000_000
    assert plan._turn(999_999) == ("c99", 4999)
    with pytest.raises(ValueError, match="Cannot read source file"):
        plan[0]


def test_index_out_of_range_says_how_many(birds):
    assert [job.index for job in pick_jobs(birds.parent, "birds", 8, replicas=1)[0]] == [8]
    with pytest.raises(ValueError, match="No job .*Use 0 to 8"):
        pick_jobs(birds.parent, "birds", 9, replicas=1)
    jobs, count = pick_jobs(birds.parent, "birds", 2, batch=4, replicas=1)
    assert ([job.index for job in jobs], count) == ([8], 3)
    with pytest.raises(ValueError, match="No batch of 4 jobs with index 3 .* Use 0 to 2"):
        pick_jobs(birds.parent, "birds", 3, batch=4, replicas=1)
    with pytest.raises(IndexError):
        make(birds)[9]
    assert make(birds)[-1] == make(birds)[8]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a {species}", r"\{species\}.*Use \{class\}, \{a class\}, \{super\}"),
        ("a {class.__class__}", "unknown placeholder"),
        ("a {class!r}", "unknown placeholder"),
        ("a {class:>10}", "unknown placeholder"),
        ("a {}", "unknown placeholder"),
        ("a bird", "names no class"),
        ("a {class", "literal brace"),
        ("a {class} on {background}", "no backgrounds are given"),
        ("a {class}, a {super}", "'001.Gull' has no super-class"),
    ],
)
def test_bad_templates(birds, template, message):
    with pytest.raises(ValueError, match=message):
        make(birds, prompt=template)


def test_template_is_not_a_string_replace():
    prompts = Prompts(("{{x}} birdhouse, a {class}, {index}",))
    assert prompts.render(ClassInfo("01.bird", "bird"), 3, 99) == "{x} birdhouse, a bird, 3"


def test_templates_know_the_article_and_earlier_ones_keep_their_words():
    auk = ClassInfo("01.Auk", "Auk", super_class="bird")
    assert Prompts().render(auk, 0, 0) == "a photo of an Auk"
    assert Prompts(("{a class}, {a super}",)).render(auk, 0, 0) == "an Auk, a bird"
    assert Prompts(("a photo of a {class}",)).render(auk, 0, 0) == "a photo of a Auk"
    with pytest.raises(ValueError, match="has no super-class"):
        Prompts(("{a class}, {a super}",)).check_classes([ClassInfo("01.Auk", "Auk")])


def test_variants_depend_on_the_job_alone_and_all_occur(birds, tmp_path):
    (tmp_path / "places.txt").write_text("# where\nthe sea\n\n a cliff \n", "utf-8")
    templates = ("a {style} of a {class} at {background}", "a {class}, a kind of {super}")
    prompts = Prompts(templates, read_lines(tmp_path / "places.txt"), ("photo", "sketch"), "bird")
    plan = Plan(read_dataset(birds), 20, prompts)
    seen = Counter(job.prompt for job in plan if job.class_name == "002.Tern")
    places, styles = ("the sea", "a cliff"), ("photo", "sketch")
    assert set(seen) == {f"a {s} of a Tern at {p}" for s in styles for p in places} | {"a Tern, a kind of bird"}
    fewer = {job.seed: job.prompt for job in Plan(read_dataset(birds), {"001.Gull": 9}, prompts)}
    assert fewer == {job.seed: job.prompt for job in plan if job.seed in fewer} and len(fewer) == 9


def test_lists_that_no_template_uses_are_a_mistake():
    with pytest.raises(ValueError, match="no prompt has {style}"):
        Prompts(styles=("oil",))
    with pytest.raises(ValueError, match="at least one prompt template"):
        Prompts(())


def test_job_round_trip(birds):
    job = make(birds, name="set/birds")[5]
    assert Job.from_json(job.to_json()) == job
    assert "\n" not in job.to_json() and job.classes == ("001.Gull", "002.Tern", "003.Auk")


def test_several_jobs_round_trip_and_say_their_classes_once(birds):
    jobs = list(make(birds, name="set/birds"))
    text = jobs_to_json(jobs)
    assert jobs_from_json(text) == jobs and "\n" not in text and text.count('"classes"') == 1
    assert jobs_to_json(jobs[:1]) == jobs[0].to_json() and jobs_from_json(jobs[0].to_json()) == jobs[:1]
    for wrong in ('{"jobs": 1}', '{"jobs": []}', '{"jobs": [1]}', '{"classes": 1, "jobs": [{}]}', "[]", "1"):
        with pytest.raises(ValueError, match="Job"):
            jobs_from_json(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "'seed'"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**63}, "seed must be in"),
        ({"seed": True}, "'seed'"),
        ({"extra": 1}, r"extra \(unknown\)"),
        ({"label": 1}, "is not number 1"),
        ({"classes": "abc"}, "'classes'"),
        ({"key": "../../x"}, "64 lower-case hex"),
        ({"source": "val/a/1.png"}, "never be a source"),
        ({"contour_source": "test/a/1.png"}, "never be a source"),
        ({"dataset": "cub/test"}, "never be a source"),
        ({"box": [1, 2, 3]}, "'box' must be 4 numbers"),
        ({"size": ["8", 8]}, "'size' must be 2 numbers"),
    ],
)
def test_damaged_jobs(birds, change, message):
    values = dataclasses.asdict(make(birds)[0]) | change
    with pytest.raises(ValueError, match=message):
        Job.from_json(json.dumps(values))


def test_job_text_that_is_none(birds):
    values = json.loads(make(birds)[0].to_json())
    del values["prompt"]
    with pytest.raises(ValueError, match=r"prompt \(missing\)"):
        Job.from_json(json.dumps(values))
    for text in ("{", "[1]", "3"):
        with pytest.raises(ValueError, match="^Job"):
            Job.from_json(text)


def test_what_a_job_loads_stays_inside_the_input_folder(birds):
    job = make(birds)[0]
    loaded, image, mask = load_job(birds.parent, job)
    assert (image[0] * 255).round().tolist() == [[[0, 8, 40]] * 8] * 8 and mask is None
    assert loaded == dataclasses.replace(job, size=(8, 8))
    changes = [{"dataset": ".."}, {"dataset": "/etc"}, {"image_file": "../x.png"}]
    for change in [*changes, {"image_file": "birds/001.Gull/0.png", "mask_file": "/x.png"}]:
        with pytest.raises(ValueError, match="relative (path|and) without"):
            load_job(birds.parent, dataclasses.replace(job, **change))
    with pytest.raises(ValueError, match="relative path without '..', got '../secret.png'"):
        load_job(birds.parent, dataclasses.replace(job, contour_source="../secret.png"))
    with pytest.raises(ValueError, match="No training image 'secret.png'"):
        load_job(birds.parent, dataclasses.replace(job, contour_source="secret.png"))


def test_without_a_mask_the_box_says_where_the_object_is(birds):
    plain = read_dataset(birds)

    def plan(box):
        images = (dataclasses.replace(plain.images[0], box=box), *plain.images[1:])
        return Plan(dataclasses.replace(plain, images=images))

    jobs = [plan(box)[0] for box in (None, (1.5, 2.0, 3.0, 4.0), (1.5, 2.0, 3.0, 4.5))]
    assert len({job.key for job in jobs}) == 3 and plan(None)[1].key == plan((0, 0, 1, 1))[1].key
    for job in (jobs[1], dataclasses.replace(jobs[1], image_file="birds/" + jobs[1].source)):
        loaded, _, mask = load_job(birds.parent, job)
        ys, xs = mask[0].nonzero(as_tuple=True)
        assert mask.shape == (1, 8, 8) and (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (1, 5, 2, 6)
        assert mask.sum() == 16 and loaded.mask_file == ""


@pytest.mark.parametrize("dataset", ["../birds", "/tmp", "", "cub/val"])
def test_dataset_names_that_are_refused(tmp_path, dataset):
    with pytest.raises(ValueError, match="relative and without|never be a source"):
        pick_jobs(tmp_path, dataset, 0)


def test_a_source_that_cannot_be_read_leaves_no_half_a_plan(birds, tmp_path):
    plan = make(birds)
    (birds / "003.Auk" / "2.png").unlink()
    with pytest.raises(ValueError, match="Cannot read source file.*2.png"):
        write_plan(tmp_path / "out", plan, workflow={}, workflow_digest="", dataset_name="x", options={})
    assert list((tmp_path / "out").iterdir()) == []
