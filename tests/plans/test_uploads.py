"""The names of many classes as a file in ComfyUI's input folder."""

import json

import pytest

from higfa_core.plans.plan import Job, jobs_from_json, jobs_to_json
from higfa_core.plans.uploads import classes_file, read_classes

MANY = tuple(f"{number:05}.Gull of the {number}th island 鴉" for number in range(1000))


def job(label, classes=MANY):
    places = ("birds/1.png", "birds/1.png")
    return Job("set", label, f"{label:064x}", classes[label], label, classes, *places, "a gull", 7, 0)


def put(folder, name, content):
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / name).write_bytes(content)
    return f"sub/{name}"


@pytest.mark.parametrize("labels", [[3], [3, 999, 0]])
def test_jobs_that_name_the_file_are_the_jobs(tmp_path, labels):
    jobs = [job(label) for label in labels]
    name = put(tmp_path, *classes_file(MANY))
    text = jobs_to_json(jobs, name)
    assert len(text) < 1000 < len(jobs_to_json(jobs)) and "\n" not in text
    assert jobs_from_json(text, lambda name: read_classes(tmp_path, name)) == jobs
    assert jobs_from_json(jobs_to_json(jobs)) == jobs
    with pytest.raises(ValueError, match="'classes' must be a list"):
        jobs_from_json(text)


def test_a_few_classes_stay_in_the_prompt():
    assert classes_file(MANY[:200]) is None


def test_its_name_is_that_of_its_content(tmp_path):
    name, content = classes_file(MANY)
    other, _ = classes_file(MANY[::-1])
    assert name != other and json.loads(content) == list(MANY)
    renamed = put(tmp_path, name.replace(".json", " (1).json"), content)  # as ComfyUI does where a name is taken
    assert read_classes(tmp_path, renamed) == list(MANY)


@pytest.mark.parametrize("content", [b'["Gull"]', b"{", b""])
def test_another_content_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="does not hold the class names that were sent"):
        read_classes(tmp_path, put(tmp_path, classes_file(MANY)[0], content))


@pytest.mark.parametrize(("name", "why"), [("sub/gone.json", "Cannot read the class names"), ("../x", "without '..'")])
def test_a_file_that_is_not_there(tmp_path, name, why):
    with pytest.raises(ValueError, match=why):
        read_classes(tmp_path, name)
