"""The share of each room's lines that the tests run, in their own process and in those they start.

    python run.py test --coverage [pytest's arguments]

The pack that ComfyUI loads from a copy counts as the pack itself. A process that is killed tells nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("higfa_core", "nodes")


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        run = [sys.executable, "-m", "coverage", "run", "--rcfile", "pyproject.toml", "-m", "pytest", *arguments]
        status = subprocess.call(run, cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data)})
        print(table(files(data)))
    return status


def files(data: Path) -> dict[str, dict[str, int]]:
    """File of the pack, relative to it -> coverage's summary; also of files that nothing imported."""
    import coverage

    os.chdir(ROOT)
    found = coverage.Coverage(config_file="pyproject.toml", data_file=str(data))
    found.combine([str(data.parent)])
    found.get_data().touch_files([str(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")])
    report = data.with_suffix(".json")
    found.json_report(outfile=str(report))
    summaries = {file: about["summary"] for file, about in json.loads(report.read_text("utf-8"))["files"].items()}
    return {file: summary for file, summary in summaries.items() if file.split(os.sep)[0] in PACKAGES}


def table(files: dict[str, dict[str, int]]) -> str:
    """A line for each room: its statements, those that ran, their share."""
    rooms = defaultdict(lambda: [0, 0])
    for file, summary in files.items():
        parts = Path(file).parts
        for room in (parts[0] if len(parts) == 2 else "/".join(parts[:2]), "all"):
            rooms[room][0] += summary["num_statements"]
            rooms[room][1] += summary["covered_lines"]
    lines = [f"{room:26}{total:7}{ran:7}{ran / max(total, 1):9.2%}" for room, (total, ran) in sorted(rooms.items())]
    return "\n".join([f"{'room':26}{'lines':>7}{'run':>7}{'share':>9}", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
