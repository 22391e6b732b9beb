"""`croissant.json`: the export in MLCommons' Croissant 1.1, with its provenance (W3C PROV) and RAI fields."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

from ..files.hashes import file_sha256
from ..wording import counted
from .base import Export, put_json
from .card import LIMITS, METHOD, weights
from .reasons import reasons

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
FIELDS = {
    "file": "sc:Text",
    "sha256": "sc:Text",
    "class_name": "sc:Text",
    "label": "sc:Integer",
    "synthetic": "sc:Boolean",
    "source": "sc:Text",
    "prompt": "sc:Text",
    "width": "sc:Integer",
    "height": "sc:Integer",
}
FILE_TYPES = {".jsonl": "application/jsonlines", ".json": "application/json", ".csv": "text/csv"}
FILE_TYPES |= {".md": "text/markdown", ".tar": "application/x-tar"}
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
CITATION = (
    "@article{lu2025higfa, author={Lu, Zhiguang and Xu, Qianqian and Wen, Peisong and Dai, Siran and Huang, Qingming}, "
    "title={{HiGFA}: hierarchical guidance for fine-grained data augmentation with diffusion models}, "
    "journal={arXiv preprint arXiv:2511.12547}, year={2025}}"
)


def write_croissant(stage: Path, export: Export) -> None:
    """Write `croissant.json`, describing everything in `stage`."""
    put_json(stage / "croissant.json", describe(stage, export))


def describe(stage: Path, export: Export) -> dict:
    """The Croissant of an export; files are hashed."""
    made = sum(export.counts(True).values())
    source, checkpoint = export.licences()
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": export.name,
        "description": f"{counted(made, 'synthetic image')} of {counted(len(export.classes), 'class')}. {METHOD}",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "citeAs": CITATION,
        "license": [f"real images: {source}", f"checkpoint: {checkpoint}"],
        "datePublished": datetime.now(timezone.utc).date().isoformat(),
        "version": "1.0.0",
        "keywords": ["synthetic", "fine-grained", "image classification"],
        "distribution": _distribution(stage),
        "recordSet": [_classes(export), _images()],
        **_provenance(export),
        **_rai(export),
    }


def _distribution(stage: Path) -> list[dict]:
    files = [path for path in sorted(stage.iterdir()) if path.suffix in FILE_TYPES]
    found = [
        {
            "@type": "cr:FileObject",
            "@id": path.name,
            "name": path.name,
            "contentUrl": path.name,
            "contentSize": f"{path.stat().st_size} B",
            "encodingFormat": FILE_TYPES[path.suffix],
            "sha256": file_sha256(path),
        }
        for path in files
    ]
    return found + [
        {"@type": "cr:FileSet", "@id": f"{folder}-{suffix[1:]}", "name": f"images in {folder}"}
        | {"encodingFormat": kind, "includes": f"{folder}/**/*{suffix}"}
        for folder in ("train", "val", "data", "real", "images")
        for suffix, kind in IMAGE_TYPES.items()
        if next((stage / folder).rglob(f"*{suffix}"), None)
    ]


def _images() -> dict:
    fields = [
        {"@type": "cr:Field", "@id": f"images/{name}", "name": name, "dataType": kind}
        | {"source": {"fileObject": {"@id": "manifest.jsonl"}, "extract": {"column": name}}}
        for name, kind in FIELDS.items()
    ]
    about = "One record an image; file is its path, in a shard: the shard's name and the file's in it."
    return {"@type": "cr:RecordSet", "@id": "images", "name": "images", "description": about, "field": fields}


def _classes(export: Export) -> dict:
    kinds = {"label": "sc:Integer", "name": "sc:Text"}
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [{"@type": "cr:Field", "@id": f"classes/{n}", "name": n, "dataType": k} for n, k in kinds.items()],
        "data": [{"classes/label": label, "classes/name": name} for label, name in enumerate(export.classes)],
    }


def _provenance(export: Export) -> dict:
    dataset = export.collection.plan.get("dataset") or {}
    files = [file for _, file in weights(export.collection.workflow)]
    made = (item.row["created"] for item in export.items)
    times = sorted(time for time in made if isinstance(time, str) and time) or ["unknown"]
    agent = {"@type": ["prov:SoftwareAgent", "prov:Agent"], "prov:label": "HiGFA for ComfyUI"}
    activity = {
        "@type": "prov:Activity",
        "prov:type": "synthetic image generation",
        "prov:label": f"{METHOD} Model files: {', '.join(files) or 'unknown'}.",
        "prov:startedAtTime": times[0],
        "prov:endedAtTime": times[-1],
        "prov:wasAssociatedWith": agent,
    }
    name = dataset.get("name") or export.items[0].row.get("dataset") or "unknown"
    label = f"{name} ({dataset.get('layout', 'unknown layout')}), training images only"
    origin = {"@type": "prov:Entity", "prov:label": label}
    return {"prov:wasDerivedFrom": origin, "prov:wasGeneratedBy": activity}


def _rai(export: Export) -> dict:
    rejected = sum((reasons(found) for found in export.collection.rejected.values()), Counter())
    lost = "; ".join(f"{reason}: {count}" for reason, count in sorted(rejected.items())) or "none"
    return {
        "rai:dataCollection": METHOD,
        "rai:dataCollectionType": ["Synthetic"],
        "rai:dataManipulationProtocol": f"Images were accepted by rules on stored scores. Rejected: {lost}.",
        "rai:dataAnnotationProtocol": ["The label of an image is the class that was asked for; no person checked it."],
        "rai:machineAnnotationTools": ["HiGFA guide classifier, and a judge where its scores are present"],
        "rai:dataLimitations": list(LIMITS),
        "rai:dataBiases": ["Poses, layouts and class balance follow the real training images and the plan's counts."],
    }
