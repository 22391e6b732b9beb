"""HiGFA with the guidance and attention nodes that ComfyUI ships, measured; prints docs/compatibility.md.

    python run.py exec -- python benchmarks/compatibility.py --write

Each node alone, each two together, each guider, and what conditionings and masks can hold, on the miniature with a
contour (a few nodes on a small model of another family). Exits with 1 and names the fault when a run fails that
stock sampling makes, when an unmoved guidance (eta 0, preset constant) is not stock sampling, or when a node that acts
in stock sampling does not act and nothing says so. `--only TEXT` runs the rows whose name holds the text.
"""

import argparse
import logging
import os
import sys

from compatibility_bench import Bench
from compatibility_cases import GUIDERS, LEFT_OUT, RUN
from compatibility_pairs import pairs
from miniature_world import ROOT, start_comfyui

PAGE = ROOT / "docs" / "compatibility.md"

NODES = """| node | stock | HiGFA KSampler | HiGFA Guider | Guide Model | images through the model | as stock | notes |
|---|---|---|---|---|---|---|---|"""
CONDITIONINGS = NODES.replace("| node |", "| conditioning or mask |")
GUIDER = """| guider | effect of the guidance | as stock | notes |
|---|---|---|---|"""
TEXT = """# Compatibility

How HiGFA gets on with what ComfyUI {version} ships: measured, not read from the code. This page is printed by

```
python run.py exec -- python benchmarks/compatibility.py --write
```

and `tests/test_compatibility.py` fails when a release of ComfyUI has a node that takes a MODEL and returns a MODEL or a
GUIDER and is not on it.

## Nodes that change a MODEL

Each between the model and the sampler, on the miniature with a contour: 8 steps, cfg 3, euler, eta 1, `relax`, from
half of the noise schedule on. A name in brackets is a small model of that family with random weights and without a
contour, for nodes that do not act on the miniature. The numbers are the change that the node makes to the latent (RMS
of the difference, as a share of the RMS): in stock sampling with Apply ControlNet, and in our three nodes, each against
its own run without the node. *Images through the model*: stock / HiGFA KSampler (or Guider) / Guide Model. *As stock*:
with eta 0 and `constant` the run with the node is the stock run with the node (contour on the positive alone; for Guide
Model on both), and no node that acts in stock sampling is silently without effect.

{0}

## Conditionings and masks

The same, with the change against the plain prompt and its one contour.

{1}

## Guiders

Guide Model with Classifier in front of ComfyUI's own guiders, in SamplerCustomAdvanced.

{2}

## Two nodes together

{3}

## Not measured

{left_out}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name holds this text; no pairs")
    parser.add_argument("--write", action="store_true", help="write docs/compatibility.md instead of printing it")
    args = parser.parse_args()
    start_comfyui()
    import comfy.utils
    import comfyui_version

    comfy.utils.set_progress_bar_enabled(False)
    logging.getLogger().setLevel(logging.ERROR)
    bench = Bench()
    sections = [
        section(NODES, [bench.node(name, case) for name, case in RUN.items() if args.only in name]),
        section(CONDITIONINGS, [row() for name, row in bench.conditionings().items() if args.only in name]),
        section(GUIDER, [bench.guider(name) for name in GUIDERS if args.only in name]),
        "" if args.only else pairs(bench),
    ]
    left_out = "\n".join(f"- `{pattern}`: {why}." for pattern, why in LEFT_OUT.items())
    page = TEXT.format(*sections, left_out=left_out, version=comfyui_version.__version__)
    if args.write:
        PAGE.write_text(page, "utf-8", newline="\n")
    else:
        print(page)
    if bench.faults:
        raise SystemExit("\n".join(["Faults:", *bench.faults]))


def section(head: str, rows: list) -> str:
    return "\n".join([head, *map(str, rows)])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
