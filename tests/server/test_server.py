"""The pack on a real server: what a person's browser is told."""

import re
import urllib.parse

import pytest

import run

pytestmark = pytest.mark.releases


def test_server_offers_every_node_of_the_pack(server, pack):
    info = server.get("/object_info")
    own = {key for key, value in info.items() if value["python_module"] == "custom_nodes.ComfyUI-HiGFA"}
    assert own == set(pack.nodes), server.log_text()[-3000:]


def test_server_offers_the_workflows_as_templates(server, pack):
    expected = {path.stem for path in (pack.folder / "workflows").glob("*.json")}
    assert set(server.get("/workflow_templates").get("ComfyUI-HiGFA", [])) == expected


def test_serve_names_a_page_that_opens_our_workflow(server):
    """The front end reads `template` and `source` (letters, digits, `_.-`) and fetches that template."""
    asked = {name: value for name, (value,) in urllib.parse.parse_qs(run.START_PAGE.lstrip("?")).items()}
    assert asked.keys() == {"template", "source"} and all(re.fullmatch("[a-zA-Z0-9_.-]+", v) for v in asked.values())
    found = server.get(f"/api/workflow_templates/{asked['source']}/{asked['template']}.json")
    assert found["nodes"] and "HiGFA_KSampler" in str(found)


def test_server_stays_out_of_comfyuis_own_folders(server):
    stats = server.get("/system_stats")
    assert stats["devices"][0]["type"] == "cpu"
    assert (server.base / "custom_nodes" / "ComfyUI-HiGFA").exists()
    assert str(server.base / "temp-test") in server.log_text()
