"""The export formats. A format is a module with `write`, `front_matter` (for the README) and `USE`."""

from . import coco, hugging_face, image_folder, lists, webdataset

FORMATS = {
    "imagefolder": image_folder,
    "huggingface": hugging_face,
    "webdataset": webdataset,
    "coco": coco,
    "lists": lists,
}
