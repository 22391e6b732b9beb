"""The demo with a fake server; on a real one it runs in tests/comfy/test_demo.py."""

import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.commands import demo
from higfa_core.miniature import birds
from higfa_core.miniature.sources import draw_sources
from higfa_core.plans.inputs import load_job, pick_jobs
from higfa_core.plans.plan_file import PlanFile
from higfa_core.plans.workflow import find_node
from higfa_core.store.manifest import Manifest

from ..batch.fake_comfy import FakeComfy, draw, jobs_of

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("--images-per-class", "2", "--jobs-per-class", "2")
COMPARED = ("warped_contour", "text_only", "text_and_contour")


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


class Judged(FakeComfy):
    """Its judge finds the classes of images more and less probable."""

    def _write(self, graph, count, jobs=None):
        self.scores = {"judge_confidence": draw("judge", jobs_of(graph)[0].key)}
        super()._write(graph, count, jobs)


class Demo:
    """The demo in `base`; a call runs it and returns exit code, stdout, stderr and how many prompts it sent."""

    def __init__(self, base):
        self.base, self.folder = base, base / "output" / "higfa_demo"
        self.server = Judged(base / "output", seconds=0)

    def __call__(self, *more, sizes=SIZES):
        before, out, err = len(self.server.posted), io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            more = more or ("--server", self.server.url, "--poll", "0.002")
            code = demo.main(["--base", str(self.base), *sizes, *more])
        return code, out.getvalue(), err.getvalue(), len(self.server.posted) - before


@pytest.fixture
def fresh(tmp_path):
    """A demo that nobody has run yet."""
    found = Demo(tmp_path / "base")
    yield found
    found.server.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo that was run; tests put back what they take away. `.first`: what the run gave."""
    found = Demo(tmp_path_factory.mktemp("made"))
    found.first = found()
    yield found
    found.server.close()


@contextmanager
def without(path):
    """The file is elsewhere for a while."""
    os.replace(path, path.with_name("elsewhere"))
    try:
        yield
    finally:
        os.replace(path.with_name("elsewhere"), path)


def test_the_sources_have_masks_that_the_plan_finds_and_only_missing_ones_are_drawn(tmp_path):
    folder = tmp_path / "higfa_demo"
    assert draw_sources(folder, 2) == 64
    drawn = sorted((folder / "train").rglob("*.png"))
    assert len(drawn) == 64 and {path.parent.name for path in drawn} == set(birds.CLASS_NAMES)
    (job,), count = pick_jobs(tmp_path, "higfa_demo", 5, replicas=1)
    loaded, image, mask = load_job(tmp_path, job)
    assert count == 64 and loaded.size == (128, 128) and image.shape == (1, 128, 128, 3)
    assert 0 < mask.mean() < 1 and (tmp_path / loaded.mask_file).is_file()
    times = {path: path.stat().st_mtime_ns for path in drawn[1:]}
    drawn[0].unlink()
    assert draw_sources(folder, 2) == 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in times.items())


def test_birds_of_an_earlier_version_are_not_mixed_with_these(tmp_path):
    """The sixteen species of old are still names of today's, and look otherwise."""
    (tmp_path / "higfa_demo" / "train" / "Marsh Finch").mkdir(parents=True)
    with pytest.raises(ValueError, match="an earlier version.*Move the folder away"):
        draw_sources(tmp_path / "higfa_demo", 1)


def test_a_dataset_a_comparison_and_a_report_are_made(made):
    code, out, _, sent = made.first
    rows = Manifest(made.folder).rows()
    accepted = sum(row["accepted"] for row in rows)
    assert (
        code == 0 and sent == 64 + 3 * 32 and accepted == len(rows) == 64
    )  # of two of a class, three quarters are two
    assert out.splitlines()[-1] == f"Dataset: {made.folder}  planned 64, written 64, accepted {accepted}"
    page = (made.folder / "report.html").read_text("utf-8")
    assert page.count("<figure>") == 32 * 5  # real, contour, text only, text and contour, HiGFA
    assert page.count("<img") == 32 * 5 + 2 * 64
    for name in COMPARED:
        assert (
            f"<figcaption>{name.replace('_', ' ')}" in page and len(Manifest(made.folder / "comparison" / name)) == 32
        )


def test_its_jobs_are_those_that_run_on_the_canvas_takes(made):
    inputs = dict(json.loads(demo.WORKFLOW.read_text("utf-8"))["2"]["inputs"])
    assert inputs.pop("job") == "" == inputs.pop("plan") and inputs.pop("layout") == "auto"  # which the node reads
    plan = PlanFile(made.folder)
    assert len(plan) == 64
    for index in range(0, 64, 5):
        assert pick_jobs(made.base / "input", **{**inputs, "index": index})[0] == [plan.job(index)]


def test_another_start_has_nothing_to_do(made):
    code, out, err, sent = made("--check")
    assert (code, err, sent) == (0, "", 0)
    assert out.splitlines()[0] == "everything exists, nothing to do" and "written 64" in out.splitlines()[1]
    assert made()[::3] == (0, 0)


@pytest.mark.parametrize(
    "pattern",
    [
        "output/higfa_demo/manifest.jsonl",
        "output/higfa_demo/plan.json",
        "output/higfa_demo/comparison/warped_contour/manifest.jsonl",
        "input/higfa_demo/train/*/001.png",
        "input/higfa_demo/masks/*/000.png",
    ],
)
def test_check_notices_a_file_that_is_gone(made, pattern):
    with without(next(made.base.glob(pattern))):
        assert made("--check") == (1, "", "", 0)


@pytest.mark.parametrize("pattern", ["train/*/001.png", "masks/*/000.png"])
def test_check_notices_a_source_that_has_changed(made, pattern):
    source = next((made.base / "input" / "higfa_demo").glob(pattern))
    with without(source):
        Image.new("RGB", (8, 8)).save(source)
        assert made("--check")[0] == 1


def test_check_renews_a_report_that_is_gone_and_asks_for_what_was_asked_for(made):
    report = made.folder / "report.html"
    report.unlink()
    assert made("--check", sizes=("--images-per-class", "2", "--jobs-per-class", "1"))[0] == 1 and not report.exists()
    assert made("--check")[0] == 0 and report.stat().st_size > 10_000


def test_check_imports_nothing_heavy(made):
    code = "import sys; from higfa_core.commands.demo import main; status = main(sys.argv[1:])\n"
    code += "heavy = {'torch', 'numpy', 'cv2', 'torchvision', 'timm', 'matplotlib'} & set(sys.modules)\n"
    code += "sys.exit(f'imported {heavy}' if heavy else status)"
    command = [sys.executable, "-c", code, "--base", str(made.base), *SIZES, "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_more_jobs_keep_the_images_and_only_missing_ones_are_made(fresh):
    assert fresh("--check") == (1, "", "", 0) and not fresh.folder.exists()
    assert fresh(sizes=("--images-per-class", "1"))[::3] == (0, 4 * 32)
    before = {row["key"] for row in Manifest(fresh.folder).rows()}
    for row in Manifest(fresh.folder).rows()[3:5]:
        (fresh.folder / row["file"]).unlink()
    next((fresh.folder / "comparison" / "text_only").rglob("train/*/*.png")).unlink()
    assert fresh("--check", sizes=("--images-per-class", "1"))[0] == 1
    assert fresh(sizes=("--images-per-class", "1", "--jobs-per-class", "2"))[::3] == (0, 32 + 3)
    assert len(before) == 32 and before < {row["key"] for row in Manifest(fresh.folder).rows()}


def test_the_judge_keeps_three_quarters_of_each_species_and_empties_none(fresh):
    assert fresh(sizes=("--images-per-class", "4"))[0] == 0
    groups = defaultdict(list)
    for row in Manifest(fresh.folder).rows():
        groups[row["class_name"]].append((row["scores"]["judge_confidence"], row["accepted"]))
    assert len(groups) == 32 and sum(p < 0.5 for rows in groups.values() for p, _ in rows) > 20
    assert all([accepted for _, accepted in sorted(rows)] == [False, *[True] * 3] for rows in groups.values())


def test_a_demo_of_an_earlier_version_is_left_alone(fresh):
    fresh.server.__class__ = FakeComfy  # its images have no judge's scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "RULES", ("--min-judge-confidence", "0"))
        assert fresh(sizes=("--images-per-class", "1"))[0] == 0
    before = (fresh.folder / "manifest.jsonl").read_bytes()
    code, _, err, sent = fresh(sizes=("--images-per-class", "1"))
    assert (code, sent) == (1, 0) and "no judge has seen. Move the folder away" in err
    assert (fresh.folder / "manifest.jsonl").read_bytes() == before


def test_failures_name_the_node_and_are_tried_again_next_time(fresh):
    bad = set()

    def fault(key):
        if len(bad) < 2:
            bad.add(key)
        return "error" if key in bad else None

    fresh.server._fault = fault
    code, _, err, _ = fresh(sizes=("--images-per-class", "2"))
    assert code == 1 and "Node 3 (KSampler): OutOfMemoryError: no memory" in err
    assert not (fresh.folder / "report.html").exists()
    assert len(Manifest(fresh.folder).rows()) == 62
    fresh.server._fault = lambda key: None
    assert fresh(sizes=("--images-per-class", "2"))[::3] == (0, 2 + 3 * 32)


@pytest.mark.parametrize("sizes", [("--images-per-class", "0"), ("--images-per-class", "1001")])
def test_impossible_sizes_are_refused(tmp_path, sizes):
    with pytest.raises(SystemExit):
        demo.main(["--base", str(tmp_path), *sizes])


def test_without_the_workflows_it_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="Run it from a clone"):
        demo.Demo(tmp_path, workflow=tmp_path / "workflows" / "miniature_augment.json")


# --- the workflows of the comparison


def only(graph, class_type, **inputs):
    """The id of the one such node with those inputs."""
    found = [key for key, n in graph.items() if n["class_type"] == class_type and inputs.items() <= n["inputs"].items()]
    assert len(found) == 1, found
    return found[0]


def test_the_variants_differ_in_the_sampler_and_nothing_else():
    original = json.loads(demo.WORKFLOW.read_text("utf-8"))
    sampler = original[only(original, "HiGFA_KSampler")]["inputs"]
    made = demo.variants(original)
    assert tuple(made) == COMPARED and original == json.loads(demo.WORKFLOW.read_text("utf-8"))
    for graph in made.values():
        links = [value for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)]
        assert {source for source, _ in links} <= graph.keys()
        kinds = {node["class_type"] for node in graph.values()}
        assert not any(kind.startswith(("HiGFA_KS", "HiGFA_Guider", "Preview")) for kind in kinds)
    prompt = only(original, "CLIPTextEncode", text=[only(original, "HiGFA_DatasetJob"), 3])
    negative, control = only(original, "CLIPTextEncode", text=""), only(original, "ControlNetApplyAdvanced")
    sides = {"text_only": [[prompt, 0], [negative, 0]], "text_and_contour": [[control, 0], [control, 1]]}
    for name, conditions in sides.items():
        inputs = made[name][only(made[name], "KSampler")]["inputs"]
        assert [inputs["positive"], inputs["negative"]] == conditions
        assert {key: inputs[key] for key in demo.KSAMPLER_INPUTS} == {key: sampler[key] for key in demo.KSAMPLER_INPUTS}
    export = made["warped_contour"][find_node(made["warped_contour"], "HiGFA_ExportDataset")]["inputs"]
    assert (
        export["images"] == [only(original, "HiGFA_TransformContour"), 0]
        and not {"classifier", "judge"} & export.keys()
    )
