"""The demo on the real server; how it resumes and fails is tested in tests/commands/test_demo.py."""

from pathlib import Path

from torchvision.datasets import ImageFolder

from higfa_core.batch.client import Client
from higfa_core.commands import demo
from higfa_core.store.manifest import Manifest

from .server import quick_workflow


def test_demo_on_a_real_server_and_again(server, capsys, monkeypatch, tmp_path):
    output = server.base / "output" / "higfa_demo"
    made = demo.Demo(server.base, images_per_class=1, workflow=quick_workflow(tmp_path))
    assert made.make("--server", server.url) == 0, capsys.readouterr().err + server.log_text()[-3000:]
    assert "accepted by the guide that steered the images" not in server.log_text()
    rows = Manifest(output).rows()
    accepted = [row for row in rows if row["accepted"]]
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Dataset: {output}  planned 32, written 32, accepted {len(accepted)}"
    )
    kept = {p.relative_to(output).as_posix() for kind in ("train", "rejected") for p in (output / kind).rglob("*.png")}
    assert {row["file"] for row in rows} == kept and len(rows) == 32

    dataset = ImageFolder(str(output / "train"))
    assert len(dataset) == len(accepted) > 0
    assert dataset[0][0].size == (128, 128)
    names = {row["file"]: row["class_name"] for row in accepted}
    for path, label in dataset.samples:
        assert dataset.classes[label] == names[Path(path).relative_to(output).as_posix()]

    compared = {path.name: Manifest(path).rows() for path in (output / "comparison").iterdir()}
    assert compared.keys() == {"warped_contour", "text_only", "text_and_contour"}
    assert {len(found) for found in compared.values()} == {32}
    means = {name: sum(row["scores"].get("confidence", 0) for row in rows) / 32 for name, rows in compared.items()}
    assert means["warped_contour"] == 0 < means["text_only"] < sum(row["scores"]["confidence"] for row in rows) / 32
    page = (output / "report.html").read_text("utf-8")
    assert page.count("<figure>") == 32 * 5 and 'class="none"' not in page and "class_type" not in page

    def refuse(*_):
        raise AssertionError("the second run submitted something")

    monkeypatch.setattr(Client, "submit", refuse)
    assert made.make("--server", server.url) == 0
    assert made.check() == 0
    assert "nothing to do" in capsys.readouterr().out
