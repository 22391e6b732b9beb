"""`train/<class>/<image>`, which torchvision's ImageFolder and timm read; `masks/` beside it where masks are known.

Readers of class folders number those that they find by sorted name, timm in natural order; a class without images has
no folder, for torchvision refuses an empty one. So each reader is told the dataset's own labels, in its own way:
`class_to_idx.json` maps folder names to labels, in label order, and `class_map.txt` lists the folder names for timm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ...files.paths import folder_name
from ..base import Export, put, put_json
from ..pictures import Picture

FOLDERS = {"train": "train", "validation": "val"}


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the images; yields each row as it was exported."""
    for picture in pictures:
        place = f"{folder_name(picture.row['class_name'])}/"
        row = {**picture.row, "file": f"{FOLDERS[picture.split]}/{place}{picture.name}", "mask": None}
        put(stage / row["file"], picture.data)
        if picture.mask:
            row["mask"] = f"masks/{place}{picture.stem}.png"
            put(stage / row["mask"], picture.mask)
        yield row
    names = list(map(folder_name, export.classes))
    put_json(stage / "class_to_idx.json", {name: label for label, name in enumerate(names)})
    put(stage / "class_map.txt", "".join(f"{name}\n" for name in names).encode())


def front_matter(export: Export) -> dict:
    """What `datasets` needs to know: a class "test tube" is not a split, and a class may have no images."""
    names = dict(enumerate(map(folder_name, export.classes)))
    label = {"name": "label", "dtype": {"class_label": {"names": names}}}
    features = [{"name": "image", "dtype": "image"}, label]
    files = [{"split": split, "path": f"{FOLDERS[split]}/**"} for split in export.splits]
    config = {"config_name": "default", "data_files": files, "drop_labels": False, "features": features}
    return {"configs": [config], "dataset_info": {"features": features}}


USE = """In this folder. The labels are those of `class_to_idx.json`, not the numbers that readers give to sorted names.
`higfa export --with-val` adds `val/`, read in the same way.

**torchvision**

```python
import json
from torchvision.datasets import ImageFolder

labels = json.load(open("class_to_idx.json", encoding="utf-8"))
train = ImageFolder("train")
train.target_transform = lambda index: labels[train.classes[index]]
```

**timm**; for its `train.py`: `--class-map class_map.txt`

```python
from timm.data import create_dataset

train = create_dataset("", root=".", split="train", class_map="class_map.txt")
```

**datasets**

```python
from datasets import load_dataset

train = load_dataset("path/to/this/folder", split="train")
```

**Keras** with TensorFlow

```python
import json
import keras
import tensorflow as tf

labels = json.load(open("class_to_idx.json", encoding="utf-8"))
train = keras.utils.image_dataset_from_directory("train", image_size=(512, 512))
numbers = tf.constant([labels[name] for name in train.class_names])
train = train.map(lambda images, found: (images, tf.gather(numbers, found)))
```

**fastai**; a categorical keeps the order, a list would be sorted

```python
import json
import pandas
from fastai.vision.all import ImageDataLoaders

names = list(json.load(open("class_to_idx.json", encoding="utf-8")))
vocab = pandas.Series(pandas.Categorical(names, categories=names))
loaders = ImageDataLoaders.from_folder(".", train="train", valid="val", vocab=vocab)
```

**Ultralytics**, 8.4 or newer, which wants `val/` too: `YOLO("yolo11n-cls.pt").train(data=".", trainer=Trainer)`;
without this trainer its class numbers are its own, and its class names right

```python
import json
from ultralytics.models.yolo.classify import ClassificationTrainer

class Trainer(ClassificationTrainer):
    def get_dataset(self):
        names = dict(enumerate(json.load(open(f"{self.args.data}/class_to_idx.json", encoding="utf-8"))))
        return super().get_dataset() | {"names": names, "nc": len(names)}
```

**FiftyOne**

```python
import json
import fiftyone

names = list(json.load(open("class_to_idx.json", encoding="utf-8")))
tree = fiftyone.types.ImageClassificationDirectoryTree
train = fiftyone.Dataset.from_dir(dataset_dir="train", dataset_type=tree, classes=names)
```"""
