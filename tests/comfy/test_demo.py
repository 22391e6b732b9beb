"""The demo: first with a fake server in this process (no ComfyUI needed), at the end on the real one."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.batch.client import PromptFailed
from higfa_core.commands import demo
from higfa_core.miniature import birds
from higfa_core.plans.inputs import load_job, pick_job
from higfa_core.plans.workflow import digest, find_node, image_key
from higfa_core.store.manifest import Manifest

ROOT = Path(demo.__file__).resolve().parents[2]
COMPARED = {"contour", "transformed", "text", "text contour"}


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value % 256, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def canvas_inputs(inputs):
    """Those of Dataset Job that make up a plan on the canvas."""
    assert inputs["plan"] == ""
    return {name: value for name, value in inputs.items() if name != "plan"}


class FakeClient:
    """Runs a prompt when it is waited for, writing what the nodes would: Export Dataset's row, SaveImage's files."""

    def __init__(self, base, fail=()):
        self.base, self.fail = base, fail
        self.prompts, self.most, self.jobs, self.comparisons, self.cancelled = {}, 0, [], [], []
        self.interrupt_at = None

    def submit(self, prompt, prompt_id=None):
        self.prompts[prompt_id] = prompt
        self.most = max(self.most, len(self.prompts))
        return prompt_id

    def wait(self, prompt_id, timeout):
        nodes = {node["class_type"]: node["inputs"] for node in self.prompts[prompt_id].values()}
        if self.interrupt_at == len(self.jobs):
            raise KeyboardInterrupt
        prompt = self.prompts.pop(prompt_id)
        inputs = canvas_inputs(nodes["HiGFA_DatasetJob"])
        job, _ = pick_job(self.base / "input", **inputs)
        if "HiGFA_ExportDataset" not in nodes:
            return {"outputs": self.compare(job, prompt)}
        self.jobs.append(job.index)
        if job.index in self.fail:
            raise PromptFailed("Node 10 (HiGFA_KSampler): ValueError: no <such> class")
        self.export(job, digest(prompt, find_node(prompt, "HiGFA_ExportDataset")), nodes["HiGFA_ExportDataset"])
        return {"outputs": {}}

    def export(self, job, workflow, widgets):
        accepted, key, name = job.index % 4 != 3, image_key(job.key, workflow), widgets["dataset_name"]
        file = f"{'train' if accepted else 'rejected'}/{job.class_name}/{key[:16]}-0.png"
        row = {"key": key, "index": 0, "batch": 1, "file": file, "class_name": job.class_name, "label": job.label}
        row |= {"accepted": accepted, "reason": "", "seed": job.seed, "prompt": job.prompt}
        row |= {"scores": {"confidence": 0.75}}
        row |= {"source": job.source, "transform": None, "created": "", "plan_index": job.index}
        manifest = Manifest(self.base / "output" / name)
        manifest.start(job.classes)
        manifest.write(row, png(job.index))

    def compare(self, job, prompt):
        self.comparisons.append(job.index)
        outputs = {}
        for key, node in prompt.items():
            if node["class_type"] == "SaveImage":
                folder, _, stem = node["inputs"]["filename_prefix"].rpartition("/")
                path = self.base / "output" / folder / f"{stem}_00001_.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(job.index))
                outputs[key] = {"images": [{"filename": path.name, "subfolder": folder, "type": "output"}]}
            if node["class_type"] == "HiGFA_ClassifyImages":
                table = f"1: Tern 80.0%, Gull 12.5% | Gull: 12.5%\nmean of 1, {job.class_name}: 12.5%"
                outputs[key] = {"text": [table]}
        return outputs

    def cancel(self, prompt_ids):
        self.cancelled += list(prompt_ids)


@pytest.fixture
def base(tmp_path):
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    return tmp_path


def make(base, **sizes):
    sizes = {"images_per_class": 2, "jobs_per_class": 2, **sizes}
    return demo.Demo(base, base / "output" / "higfa_demo", **sizes)


def arguments(base, *more):
    output = base / "output" / "higfa_demo"
    sizes = ["--images-per-class", "2", "--jobs-per-class", "2"]
    return ["--base", str(base), "--output", str(output), *sizes, *more]


# --- sources and jobs


def test_sources_are_rendered_once_with_masks_that_the_plan_finds(base):
    assert make(base).render_sources() == 32
    drawn = sorted((base / "input" / "higfa_demo" / "train").rglob("*.png"))
    assert len(drawn) == 32 and {p.parent.name for p in drawn} == set(birds.CLASS_NAMES)
    assert Image.open(drawn[0]).size == (128, 128)
    job, count = pick_job(base / "input", "higfa_demo", 5, replicas=1)
    loaded, image, mask = load_job(base / "input", job)
    assert count == 32 and loaded.size == (128, 128) and image.shape == (1, 128, 128, 3)
    assert 0 < mask.mean() < 1 and (base / "input" / loaded.mask_file).is_file()

    times = {p: p.stat().st_mtime_ns for p in drawn[1:]}
    drawn[0].unlink()
    assert make(base).render_sources() == 1
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in times.items())


def test_jobs_are_those_that_run_on_the_canvas_takes(base):
    it = make(base)
    it.render_sources()
    workflow = json.loads(demo.WORKFLOW.read_text("utf-8"))
    inputs = canvas_inputs(workflow[only(workflow, "HiGFA_DatasetJob")]["inputs"])
    for job in it.jobs()[::7]:
        assert pick_job(base / "input", **{**inputs, "index": job.index})[0] == job


def test_more_jobs_than_sources_add_replicas_and_keep_the_first_jobs(base):
    make(base).render_sources()
    few = make(base, jobs_per_class=1).jobs()
    many = make(base, jobs_per_class=5)
    assert len(few) == 16 and len(many.jobs()) == 80
    assert [job.key for job in many.jobs()[:16]] == [job.key for job in few]
    last = many.jobs()[-1]
    inputs = next(n for n in many.job_graph(last).values() if n["class_type"] == "HiGFA_DatasetJob")["inputs"]
    assert pick_job(base / "input", **canvas_inputs(inputs))[0] == last


def test_output_outside_comfyuis_output_folder_is_refused(base, capsys):
    assert demo.main(["--base", str(base), "--output", str(base / "elsewhere")]) == 1
    assert "must be a folder inside" in capsys.readouterr().err


@pytest.mark.parametrize("sizes", [["--images-per-class", "0"], ["--images-per-class", "1001"]])
def test_impossible_sizes_are_refused(base, sizes):
    with pytest.raises(SystemExit):
        demo.main(["--base", str(base), "--output", str(base / "output" / "x"), *sizes])


# --- the comparison graph


def only(graph, class_type, **inputs):
    """The id of the one such node with those inputs."""
    found = [key for key, n in graph.items() if n["class_type"] == class_type and inputs.items() <= n["inputs"].items()]
    assert len(found) == 1, found
    return found[0]


def test_comparison_differs_from_higfa_in_the_sampler_and_nothing_else(base):
    original = json.loads(demo.WORKFLOW.read_text("utf-8"))
    graph = demo.comparison_graph(original, "d/report/x")
    links = [value for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert {source for source, _ in links} <= graph.keys()
    kinds = {node["class_type"] for node in graph.values()}
    assert {kind for kind in kinds if kind.startswith(("HiGFA_Export", "HiGFA_KS", "HiGFA_Gui", "Preview"))} == set()
    sampler = original[only(original, "HiGFA_KSampler")]["inputs"]
    for name in ("text", "text contour"):
        inputs = graph[f"sample {name}"]["inputs"]
        assert {key: inputs[key] for key in demo.KSAMPLER_INPUTS} == {key: sampler[key] for key in demo.KSAMPLER_INPUTS}
        assert graph[f"judge {name}"]["inputs"]["class_name"] == sampler["class_name"]
    prompt = only(graph, "CLIPTextEncode", text=[only(graph, "HiGFA_DatasetJob"), 3])
    negative, control = only(graph, "CLIPTextEncode", text=""), only(graph, "ControlNetApplyAdvanced")
    text_only, with_contour = graph["sample text"]["inputs"], graph["sample text contour"]["inputs"]
    assert [text_only[side] for side in ("positive", "negative")] == [[prompt, 0], [negative, 0]]
    assert [with_contour[side] for side in ("positive", "negative")] == [[control, 0], [control, 1]]
    assert {k: v["inputs"]["images"] for k, v in graph.items() if v["class_type"] == "SaveImage"} == {
        "save contour": [only(graph, "HiGFA_ExtractContour"), 0],
        "save transformed": [only(graph, "HiGFA_TransformContour"), 0],
        "save text": ["decode text", 0],
        "save text contour": ["decode text contour", 0],
    }
    prefixes = [v["inputs"]["filename_prefix"] for v in graph.values() if v["class_type"] == "SaveImage"]
    assert len(set(prefixes)) == 4 and all(p.startswith("d/report/x-") for p in prefixes)


# --- a whole run, resumed, failing, interrupted


def test_run_makes_the_dataset_and_the_report(base, capsys):
    client = FakeClient(base)
    assert demo.run(make(base), client) == 0
    assert client.jobs == list(range(32)) and client.comparisons == list(range(16)) and client.most == 2
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"Dataset: {base / 'output' / 'higfa_demo'}  planned 32, written 32, accepted 24"
    page = (base / "output" / "higfa_demo" / "report.html").read_text("utf-8")
    assert page.count("<figure>") == 16 * 6
    assert page.count("<img") == 16 * 6 + 32  # the rows and the contact sheet
    for words in ("text only<br><b>12.5%", "text + contour<br><b>12.5%", "HiGFA<br><b>75.0%", "judges its own work"):
        assert words in page
    assert "<figcaption>transformed contour</figcaption>" in page
    assert "http" not in page.replace("http-equiv", "")


def test_second_run_submits_nothing(base):
    demo.run(make(base), FakeClient(base))
    client = FakeClient(base)
    assert demo.run(make(base), client) == 0
    assert client.jobs == client.comparisons == []


def test_resume_submits_only_what_is_missing(base):
    demo.run(make(base), FakeClient(base))
    folder = base / "output" / "higfa_demo"
    lost = [row["file"] for row in Manifest(folder).rows() if row["plan_index"] in (3, 20)]
    for file in lost:
        (folder / file).unlink()
    next((folder / "report").glob("*-text_contour_*.png")).unlink()
    client = FakeClient(base)
    assert demo.run(make(base), client) == 0
    assert client.jobs == [3, 20] and len(client.comparisons) == 1


def test_failures_are_reported_with_node_and_message_and_tried_again_next_time(base, capsys):
    client = FakeClient(base, fail={4, 9})
    assert demo.run(make(base), client) == 1
    shown = capsys.readouterr()
    assert shown.err.count("Node 10 (HiGFA_KSampler): ValueError: no <such> class") == 1
    assert "2 failed:" in shown.err
    assert "job 4 (" in shown.err and "job 9 (" in shown.err
    assert shown.out.splitlines()[-1].endswith("planned 32, written 30, accepted 22")
    assert make(base).finished_keys() is None

    client = FakeClient(base)
    assert demo.run(make(base), client) == 0
    assert client.jobs == [4, 9]


def test_run_stops_when_every_job_of_a_round_fails(base, capsys):
    client = FakeClient(base, fail=set(range(32)))
    assert demo.run(make(base), client) == 1
    assert set(client.jobs) == set(range(16)) and client.comparisons == []
    assert "and 13 more" in capsys.readouterr().err
    assert not (base / "output" / "higfa_demo" / "report.html").exists()


def test_ctrl_c_cancels_what_is_at_the_server_and_the_next_start_goes_on(base, monkeypatch, capsys):
    client = FakeClient(base)
    client.interrupt_at = 5
    monkeypatch.setattr(demo, "Client", lambda url: client)
    assert demo.main(arguments(base)) == 130
    assert "goes on from there" in capsys.readouterr().err
    assert set(client.cancelled) == set(client.prompts) and len(client.cancelled) >= 1
    client = FakeClient(base)
    assert demo.run(make(base), client) == 0
    assert client.jobs == list(range(5, 32))


# --- check


def check(base, capsys, *more):
    capsys.readouterr()
    status = demo.main(arguments(base, "--check", *more))
    shown = capsys.readouterr()
    assert shown.err == ""
    return status, shown.out


def test_check_is_quiet_before_and_content_after(base, capsys):
    assert check(base, capsys) == (1, "")
    assert not (base / "output" / "higfa_demo").exists()
    demo.run(make(base), FakeClient(base))
    status, out = check(base, capsys)
    last = f"Dataset: {base / 'output' / 'higfa_demo'}  planned 32, written 32, accepted 24"
    assert status == 0 and out.splitlines() == ["everything is there, nothing to do", last]
    assert check(base, capsys, "--jobs-per-class", "1") == (1, "")  # not what was asked for


@pytest.mark.parametrize("pattern", ["report.html", "train/*/*.png", "manifest.jsonl", "demo.json"])
def test_check_misses_a_deleted_file_of_the_dataset(base, capsys, pattern):
    demo.run(make(base), FakeClient(base))
    next((base / "output" / "higfa_demo").glob(pattern)).unlink()
    assert check(base, capsys) == (1, "")


@pytest.mark.parametrize("pattern", ["train/*/001.png", "masks/*/000.png"])
def test_check_misses_a_deleted_or_changed_source(base, capsys, pattern):
    demo.run(make(base), FakeClient(base))
    source = next((base / "input" / "higfa_demo").glob(pattern))
    source.write_bytes(png(1))
    assert check(base, capsys) == (1, "")
    source.unlink()
    assert check(base, capsys) == (1, "")


def test_check_imports_nothing_heavy(base):
    demo.run(make(base), FakeClient(base))
    code = "import sys; from higfa_core.commands.demo import main; status = main(sys.argv[1:])\n"
    code += "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'tqdm', 'torchvision'} & set(sys.modules)\n"
    code += "sys.exit(f'imported {heavy}' if heavy else status)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments(base, "--check")], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 5  # under 1 s on an idle machine


# --- the real server


def test_demo_on_a_real_server_and_again(server, capsys, monkeypatch):
    from torchvision.datasets import ImageFolder

    output = server.base / "output" / "higfa_demo"
    sizes = ["--images-per-class", "1"]
    command = ["--base", str(server.base), "--output", str(output), *sizes]
    assert demo.main([*command, "--server", server.url]) == 0, capsys.readouterr().err + server.log_text()[-3000:]
    rows = Manifest(output).rows()
    accepted = [row for row in rows if row["accepted"]]
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Dataset: {output}  planned 16, written 16, accepted {len(accepted)}"
    )
    kept = {p.relative_to(output).as_posix() for kind in ("train", "rejected") for p in (output / kind).rglob("*.png")}
    assert {row["file"] for row in rows} == kept and len(rows) == 16

    dataset = ImageFolder(str(output / "train"))
    assert len(dataset) == len(accepted) > 0
    assert dataset[0][0].size == (64, 64)
    names = {row["file"]: row["class_name"] for row in accepted}
    for path, label in dataset.samples:
        assert dataset.classes[label] == names[Path(path).relative_to(output).as_posix()]

    page = (output / "report.html").read_text("utf-8")
    assert page.count("<figure>") == 16 * 6 and page.count("<img") == 16 * 7
    assert 'class="none"' not in page and "class_type" not in page
    for row in (json.loads(p.read_text("utf-8")) for p in (output / "report").glob("*.json")):
        assert row["files"].keys() == COMPARED and row["confidence"].keys() == {"text", "text contour"}

    def refuse(*_):
        raise AssertionError("the second run submitted something")

    monkeypatch.setattr(demo.Client, "submit", refuse)
    assert demo.main([*command, "--server", server.url]) == 0
    assert demo.main([*command, "--check"]) == 0
    assert "nothing to do" in capsys.readouterr().out
