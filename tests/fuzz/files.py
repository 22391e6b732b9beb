"""Readers of what other people made: lists of image sets, classifiers and what lies beside them, pictures."""

import io
import json
import zipfile

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from higfa_core.classifier import FineGrainedClassifier
from higfa_core.exports.mixing import MixedDataset
from higfa_core.files.images import load_image, load_mask
from higfa_core.sources.image_hashes import ImageHashes
from higfa_core.sources.layouts import read_dataset
from higfa_core.sources.leaks import inspect

from ..classifier.nets import ARCH, NAMES, classifier, module, write_transformers
from ..sources.layouts.miniatures import BUILDERS
from ..sources.layouts.more_miniatures import MORE
from .strategies import as_json, damaged, damaged_bytes, json_files, scalars, tables

PICTURES = (".jpg", ".jpeg", ".png")
COLUMNS = ["path", "image", "file", "label", "class", "split", "box", "mask", "breed", "id", "1.png", "train"]


@st.composite
def matlab(draw):
    """A MATLAB file with the names that lists have, and anything under them."""
    cells = st.lists(scalars.filter(lambda value: value is not None), max_size=4)
    held = {}
    for name in draw(st.lists(st.sampled_from(MATLAB_NAMES), min_size=1, max_size=4)):
        kind = draw(st.integers(0, 3))
        cell = draw(cells)
        if kind == 0:
            held[name] = np.array(draw(st.lists(st.floats(-1, 9), max_size=6)))
        elif kind == 1:
            held[name] = np.array([*map(_cell, cell), 0], dtype=object)[:-1].reshape(-1, 1)
        elif kind == 2:
            held[name] = np.array([[1, 2], [3, 4]], dtype=np.uint8)
        else:
            held[name] = np.array([(1, "a.jpg")], dtype=[("class", "O"), (draw(st.sampled_from(FIELDS)), "O")])
    buffer = io.BytesIO()
    savemat(buffer, held)
    return buffer.getvalue()


def _cell(value):
    return str(value).replace("\0", "").encode("utf-8", "replace").decode() if isinstance(value, str) else float(value)


MATLAB_NAMES = ("labels", "trnid", "valid", "tstid", "file_list", "annotation_list", "annotations", "class_names")
MATLAB_NAMES += ("make_names", "model_names", "sv_make_model_name")
FIELDS = ("fname", "relative_im_path", "bbox_x1")


def layouts(home):
    """Every set that is recognised, with one of its lists damaged."""
    roots = {name: build(home / name) for name, build in {**BUILDERS, **MORE}.items() if name != "image_folder"}
    lists = {}
    for name, root in roots.items():
        for file in sorted(root.rglob("*")):
            if file.is_file() and file.suffix.lower() not in PICTURES and file.name != "README":
                lists[f"{name}: {file.relative_to(root)}"] = (root, file, file.read_bytes())

    @st.composite
    def damage(draw):
        key = draw(st.sampled_from(sorted(lists)))
        _, file, whole = lists[key]
        way = draw(st.integers(0, 3))
        if file.suffix == ".mat" and way == 0:
            return key, draw(matlab())
        if file.suffix == ".json" and way < 3:
            return key, draw(json_files([json.loads(whole)]))
        if file.suffix == ".jsonl" and way < 3:
            return key, b"\n".join(as_json(draw(damaged([json.loads(line)]))) for line in whole.splitlines())
        if file.suffix in (".csv", ".txt") and way == 0:
            return key, draw(tables(COLUMNS))
        return key, draw(damaged_bytes([whole]))

    def read(part):
        key, data = part
        root, file, whole = lists[key]
        file.write_bytes(data)
        try:
            read_dataset(root)
        finally:
            file.write_bytes(whole)

    return damage(), read


def table(home):
    """Tables of any dialect, and JSON lists, beside a few pictures."""
    root = home / "table"
    for name in ("1.png", "a/2.png", "x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 9, 9)).save(root / name)
    rows = [{"path": "1.png", "label": "a", "split": "train"}, {"path": "x.jpg", "label": "b", "box": [1, 2, 3, 4]}]
    kinds = {".csv": tables(COLUMNS), ".tsv": tables(COLUMNS), ".json": json_files([rows, {"1.png": "a", "x.jpg": 3}])}
    kinds[".jsonl"] = st.lists(json_files(rows), min_size=1, max_size=3).map(b"\n".join)
    parts = st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.tuples(st.just(kind), kinds[kind]))
    whole = b"path,label\n1.png,a\nx.jpg,b\n"
    parts |= st.tuples(st.just(".csv"), damaged_bytes([whole, whole.decode().encode("utf-16")]))

    def read(part):
        kind, data = part
        file = root / f"images{kind}"
        file.write_bytes(data)
        try:
            read_dataset(root, "table", labels=file.name)
        finally:
            file.unlink()

    return parts, read


def tensors(home):
    """safetensors files: their header, their metadata, and their bytes."""
    path = home / "birds.safetensors"
    classifier().save(path)
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header, body = json.loads(blob[8 : 8 + size]), blob[8 + size :]
    facts = st.sampled_from([header["__metadata__"]]).flatmap(lambda known: damaged([known], 2))

    @st.composite
    def files(draw):
        way = draw(st.integers(0, 3))
        if way == 0:
            return draw(damaged_bytes([blob[: size + 2000], blob]))
        if way == 1:
            changed = as_json(draw(damaged([header])))
        else:
            known = draw(facts)
            known = known if isinstance(known, dict) else {"arch": known}
            texts = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in known.items()}
            changed = as_json(header | {"__metadata__": texts})
        return len(changed).to_bytes(8, "little") + changed + body

    def read(data):
        path.write_bytes(data)
        FineGrainedClassifier.load(path)

    return files(), read


def sidecar(home):
    """What lies beside a classifier: name.json, classes.txt, timm's config.json."""
    path = home / "model.safetensors"
    safetensors.torch.save_file(module().state_dict(), path)
    facts = {"arch": ARCH, "class_names": list(NAMES), "num_classes": 5, "temperature": 1.5, "model_kwargs": {}}
    facts["preprocess"] = {"input_size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = {"architecture": ARCH, "num_classes": 5, "label_names": list(NAMES), "model_args": {"drop_rate": 0.1}}
    config["pretrained_cfg"] = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
    lines = "\n".join(NAMES).encode()
    parts = st.tuples(st.just("model.json"), json_files([facts]))
    parts |= st.tuples(st.just("config.json"), json_files([config]))
    parts |= st.tuples(st.just("classes.txt"), damaged_bytes([lines]))

    def read(part):
        name, data = part
        whole = {"config.json": as_json(config)} if name == "config.json" else {"model.json": as_json(facts)}
        if name == "classes.txt":
            whole["model.json"] = as_json({"arch": ARCH})
        for file in ("model.json", "config.json", "classes.txt"):
            (home / file).unlink(missing_ok=True)
        for file, content in {**whole, name: data}.items():
            (home / file).write_bytes(content)
        FineGrainedClassifier.load(path)

    return parts, read


def transformers_folder(home):
    """A folder of transformers: config.json and preprocessor_config.json."""
    path = write_transformers(home / "vit")
    names = ("config.json", "preprocessor_config.json")
    whole = {name: (home / "vit" / name).read_bytes() for name in names}
    parts = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), json_files([json.loads(whole[name])])))

    def read(part):
        name, data = part
        for file, content in {**whole, name: data}.items():
            (home / "vit" / file).write_bytes(content)
        FineGrainedClassifier.load(path)

    return parts, read


def checkpoint(home):
    """Torch files: the zip, the pickle in it, and what a training script put beside the weights."""
    path = home / "birds.pth"
    args = {"model": ARCH, "num_classes": 5, "img_size": 64, "mean": [0.5] * 3}
    beside = {
        "arch": ARCH,
        "args": args,
        "class_names": list(NAMES),
        "class_to_idx": {n: i for i, n in enumerate(NAMES)},
    }
    beside |= {"hyper_parameters": {"model_name": ARCH, "num_classes": 5, "classes": list(NAMES)}, "epoch": 3}
    state = module().state_dict()
    torch.save({**beside, "state_dict": state}, path)
    blob = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))

    def rebuilt(data):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, data if name == pickled else content)
        return buffer.getvalue()

    def saved(content):
        buffer = io.BytesIO()
        held = content if isinstance(content, dict) else {"x": content}
        torch.save({**held, "state_dict": state}, buffer)
        return buffer.getvalue()

    files = damaged_bytes([blob]) | damaged_bytes([records[pickled]]).map(rebuilt) | damaged([beside]).map(saved)

    def read(data):
        path.write_bytes(data)
        FineGrainedClassifier.load(path)

    return files, read


def picture(home):
    """Pictures of every kind that is read, damaged."""
    pixels = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)
    samples = []
    for name in "PNG-RGB PNG-P PNG-I;16 JPEG-RGB JPEG-CMYK GIF-P BMP-RGB TIFF-RGB TIFF-F WEBP-RGB PPM-RGB".split():
        kind, _, mode = name.partition("-")
        buffer, image = io.BytesIO(), Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if kind == "JPEG" else {}
        (image if mode == "I;16" else image.convert(mode)).save(buffer, kind, **options)
        samples.append(buffer.getvalue())
    path = home / "picture.png"

    def read(data):
        path.write_bytes(data)
        ImageHashes().of(home, [path.name])
        image = load_image(path)
        assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
        load_mask(path, *image.shape[1:3])

    return damaged_bytes(samples), read


def pictures_of_a_set(home):
    """The search for leaks among images of which one is damaged."""
    for name in ("train/a/0.png", "train/b/1.png", "test/a/2.png"):
        (home / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 90).convert("RGB").save(home / "set" / name)
    file = home / "set" / "train/a/0.png"
    whole = file.read_bytes()

    def read(data):
        file.write_bytes(data)
        inspect(read_dataset(home / "set"), ImageHashes())

    return damaged_bytes([whole, (home / "set" / "test/a/2.png").read_bytes()]), read


def mix(home):
    sample = {"probability": 0.5, "classes": ["a", "b"], "root": ".", "labels": {"0.png": 0, "1.png": 1}}
    sample["pairs"] = {"0.png": ["data/a/x.png"]}
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(home / name)

    def read(data):
        (home / "mix.json").write_bytes(data)
        found = MixedDataset.from_lists(home / "mix.json")
        for index in range(len(found)):
            found.path(index)

    return json_files([sample]), read


TARGETS = {
    "layouts": layouts,
    "tables": table,
    "safetensors": tensors,
    "sidecar": sidecar,
    "transformers": transformers_folder,
    "checkpoint": checkpoint,
    "picture": picture,
    "leaks": pictures_of_a_set,
    "mix.json": mix,
}
