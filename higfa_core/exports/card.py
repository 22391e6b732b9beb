"""The data card of an export: README.md with Hugging Face front matter, for whoever receives the folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import yaml

from ..files.hashes import file_sha256
from ..sources.ledger import LeftOut
from ..wording import counted
from .base import Export
from .markdown import FORMULA, bullets, inline, table
from .reasons import reasons

WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
PROMPTS_SHOWN = 10
METHOD = (
    "Made with HiGFA for ComfyUI ([arXiv 2511.12547](https://arxiv.org/abs/2511.12547)): a frozen diffusion model, "
    "steered by a text prompt, by the warped contour of a real training image, and in the final steps by the gradient "
    "of a fine-grained classifier of these classes. A workflow may use fewer of these."
)
LIMITS = (
    "Labels are the classes that were asked for. No person looked at every image: some show another class, or none.",
    "The guide's scores rate images that it steered itself and are too high; a judge's, where present, do not.",
    "A class that the diffusion model does not know can look right to the classifier and be wrong in what it ignores.",
    "Poses and layouts follow the contours of the real training images, so their biases are kept, and repeated.",
    "Diffusion models can reproduce images they were trained on.",
    "For training only: validate and test on real images.",
)
FORMULAS = (
    "Do not open `meta.csv` in a spreadsheet, which takes names that begin with =, +, - or @ for formulas. They stand "
    "there as they are, because trainers compare them."
)


def write_card(stage: Path, export: Export, writer: ModuleType) -> None:
    """Write `README.md`; `writer`, the format's module, explains how to read it."""
    about = front_matter(stage, export, writer)
    front = yaml.dump(about, Dumper=_Plain, allow_unicode=True, sort_keys=False, width=1000)
    parts = [f"# {inline(export.name)}", METHOD, "## Read it", writer.USE, "## Images", *_images(export)]
    parts += ["## How they were made", *_making(export), "## What was rejected", *_rejected(export)]
    parts += ["## Known failure modes", bullets(LIMITS), "## Licences", *_licences(export)]
    (stage / "README.md").write_text(f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n", "utf-8", newline="\n")


def front_matter(stage: Path, export: Export, writer: ModuleType) -> dict:
    """What the Hub and `datasets` read."""
    total = len(export.items)
    size = next((name for top, name in SIZES if total < top), "n>1M")
    front = {"pretty_name": export.name, "license": "other", "license_name": " / ".join(export.licences())}
    front |= {"task_categories": ["image-classification"], "annotations_creators": ["machine-generated"]}
    front |= {"size_categories": [size], "tags": ["synthetic", "higfa", "data-augmentation"]}
    if name := (export.collection.plan.get("dataset") or {}).get("name"):
        front["source_datasets"] = [f"extended|other-{name}"]
    front |= writer.front_matter(export)
    for config in front.get("configs", ()):
        # `datasets` caches by name and version, and would not notice that another export replaced this one.
        config["version"] = f"1.0.{int(file_sha256(stage / 'manifest.jsonl')[:8], 16)}"
    return front


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def weights(workflow: Mapping) -> list[tuple[str, str]]:
    """(node type, file) of every model file named in an API graph."""
    found = []
    for node in workflow.values():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        for value in inputs.values() if isinstance(inputs, Mapping) else ():
            if isinstance(value, str) and value.lower().endswith(WEIGHTS):
                found.append((str(node.get("class_type")), value))
    return sorted(set(found))


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True  # not all readers of front matter know them


def _images(export: Export) -> list[str]:
    made, real = export.counts(True), export.counts(False)
    known = Counter(source.class_name for source in export.collection.sources)
    rejected = {name: sum(export.collection.rejected.get(name, {}).values()) for name in export.classes}
    rows = [
        (label, name, made[name], real[name], known[name] if known else "unknown", rejected[name])
        for label, name in enumerate(export.classes)
    ]
    head = ("label", "class", "synthetic", "real, in here", "real, in the source", "rejected")
    images = f"{sum(made.values())} synthetic and {counted(sum(real.values()), 'real image')}"
    text = [f"{images} of {counted(len(export.classes), 'class')}."]
    if held_out := len(export.validation):
        text.append(f"The validation split has {held_out} more real images, of which no synthetic one was made.")
    if empty := [name for name in export.classes if not made[name]]:
        text.append(f"**Without any synthetic image**: {', '.join(map(inline, empty))}.")
    if export.options.per_class:
        text.append(f"At most {export.options.per_class} of each class were taken, the first of the plan.")
    if export.format == "lists" and any(name.startswith(FORMULA) for name in export.classes):
        text.append(FORMULAS)
    return [*text, table(head, rows)]


def _making(export: Export) -> list[str]:
    collection, made = export.collection, [item.row for item in export.items if item.row["synthetic"]]
    plan, text = collection.plan, []
    if dataset := plan.get("dataset"):
        facts = f"{dataset.get('layout', 'unknown layout')}; {dataset.get('evidence', '')}"
        source = f"{inline(dataset.get('name'))} ({inline(facts)})"
        text.append(f"Real training images: {source}. Images of other splits were never used.")
    if left_out := plan.get("left_out"):
        text += [
            "Files of the real images that were left out:",
            bullets(inline(LeftOut(**entry)) for entry in left_out),
        ]
    files = weights(collection.workflow)
    unnamed = "The workflow names no model file." if collection.workflow else "No workflow is known."
    text.append("Model files in the workflow:" if files else f"{unnamed} So no checkpoint is named.")
    if files:
        text.append(table(("node", "file"), files))
    prompts = Counter(row["prompt"] for row in made if row["prompt"])
    if prompts:
        shown = prompts.most_common(PROMPTS_SHOWN)
        text += [f"Prompts, {len(shown)} of {len(prompts)}:", bullets(f"{inline(text)} ({n})" for text, n in shown)]
    for title, value in (("Options of the plan", plan.get("options")), ("Thresholds", _asked(plan.get("rules")))):
        if value:
            text += [f"{title}:", f"```json\n{json.dumps(value, ensure_ascii=False, indent=1)}\n```"]
    versions = Counter(json.dumps(row.get("versions") or {}, sort_keys=True) for row in made)
    text.append("Versions: " + "; ".join(inline(_pairs(json.loads(value))) or "unknown" for value in versions))
    return [*text, "Each image's source, seed, prompt, scores and transform are in `manifest.jsonl`."]


def _rejected(export: Export) -> list[str]:
    rows = [
        (name, reason, count)
        for name in export.classes
        for reason, count in sorted(reasons(export.collection.rejected.get(name, {})).items())
    ]
    return [table(("class", "reason", "images"), rows)] if rows else ["Nothing."]


def _licences(export: Export) -> list[str]:
    source, checkpoint = export.licences()
    text = "The images derive from both: who passes them on has to meet the terms of both."
    return [f"- real images: {inline(source)}\n- checkpoint: {inline(checkpoint)}", text]


def _asked(rules: Mapping | None) -> dict:
    return {name: value for name, value in (rules or {}).items() if value not in (0, -1, False)}


def _pairs(values: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
