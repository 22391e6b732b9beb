"""Every script in benchmarks/ at its smallest: it starts, measures what it says and prints its table."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(p.name for p in FOLDER.glob("*.py") if "__main__" in p.read_text(encoding="utf-8"))
# The judge takes ten minutes to train: the guide stands in for it, with two images of two steps.
FIDELITY = """
import sys
sys.path.insert(0, "benchmarks")
import fidelity
sampler, guidance, warp = fidelity.settings_of_workflow()
fidelity.settings_of_workflow = lambda: ({**sampler, "steps": 2}, guidance, warp)
fidelity.load_judge = lambda: fidelity.load_world().classifier
fidelity.BATCH = 2
fidelity.main()
"""


def output(*command, comfyui=None):
    env = {k: v for k, v in os.environ.items() if k != "COMFYUI_PATH"}
    if comfyui:
        env["COMFYUI_PATH"] = str(comfyui)
    done = subprocess.run([sys.executable, *command], cwd=FOLDER.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text):
    """First cell -> the other cells of each line of the printed tables."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {tuple(cells[:2]): cells[2:] for cells in lines}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_needs_no_comfyui(name):
    assert "python run.py exec -- python benchmarks/" + name in output(f"benchmarks/{name}", "--help")


@pytest.fixture
def guided_call(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("guided_call")


class TestGuidedCall:
    def test_table(self, comfyui_path):
        arguments = ("--quick", "--micro-batch", "1", "--decoders", "vae", "--batches", "1", "2")
        text = output("benchmarks/guided_call.py", *arguments, comfyui=comfyui_path)
        one, two = (rows(text)["vae", batch] for batch in "12")
        assert one[0] == two[0] == "1"  # images at once
        assert 10 < int(one[3]) == int(two[3])  # kept for backward, MiB: of one image, whatever the batch
        assert int(one[2]) > int(one[3])  # the peak holds what is kept
        assert rows(text)["UNet CFG step", "1"][-1] == "1.00"
        assert "vae: peak of batch 2 is" in text

    def test_kept_for_backward_is_counted_once_and_given_back(self, guided_call):
        x, frozen = torch.ones(1000, requires_grad=True), torch.ones(1000)
        with guided_call.counting_kept([frozen]) as kept:
            for _ in range(2):  # one after the other: the peak is that of one
                y = x.exp()  # keeps its result, 4000 bytes
                z = y * y  # keeps y twice, which is there already
                torch.autograd.grad((z * frozen).sum(), x)  # keeps a weight, which is not counted
        assert (kept.peak, kept.bytes) == (4000, 0)

    def test_peak_of_a_call(self, guided_call):
        freed = [np.ones(2000) for _ in range(10_000)]  # 160 MB in small pieces, which malloc would keep
        last = freed[-1].copy()  # so that its heap does not just shrink
        del freed
        result, peak = guided_call.with_peak(lambda: torch.ones(2**24).sum().item(), torch.device("cpu"))
        assert result == 2**24 and 0.9 * 2**26 < peak < 1.5 * 2**26 and len(last)


def test_overhead(comfyui_path):
    arguments = ("--rounds", "1", "--steps", "2", "--batch", "1")
    text = output("benchmarks/overhead.py", *arguments, comfyui=comfyui_path)
    assert "| stock, contour on positive and negative |" in text and "| HiGFA, relax |" in text


def test_fidelity(comfyui_path):
    text = output("-c", FIDELITY, "--images", "2", comfyui=comfyui_path)
    assert all(f"| {method} |" in text for method in ("text only", "text + contour", "HiGFA"))


def test_trace(comfyui_path, tmp_path):
    text = output("benchmarks/trace.py", "--picture", str(tmp_path / "trace.png"), comfyui=comfyui_path)
    assert text.startswith("guided steps")
    with Image.open(tmp_path / "trace.png") as image:
        assert len(image.convert("RGB").getcolors(2**20)) > 10


def test_fidelity_refuses_to_tune_on_evaluation_seeds():
    with pytest.raises(AssertionError, match="tried on --seeds tune"):
        output("benchmarks/fidelity.py", "--set", "eta=1")
