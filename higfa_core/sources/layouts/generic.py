"""How to read a tree that is none of the known sets: by metadata, a table, or one folder per class."""

from __future__ import annotations

from ..source import SourceDataset
from ..tree import Tree
from . import hugging_face, image_folder, tables
from .mentions import find_mention, mention_above
from .packed import refuse_packed
from .plausible import SAY_SO


def recognise(tree: Tree, options: dict) -> tuple[str, SourceDataset]:
    """Name of the layout, and the dataset. ValueError, with the evidence and a question, where it is ambiguous."""
    homes = [home for home in hugging_face.homes(tree) if hugging_face.has_file_names(tree, home)]
    if len(homes) > 1:
        places = " and ".join(str(tree.root / tree.place(home)) for home in homes)
        raise ValueError(f"{tree.root} holds several Hugging Face sets. Choose one of {places}.")
    if homes:
        return "hugging_face", hugging_face.read(tree, homes[0], **options)
    if plain := tables.plain_tables(tree):
        return "table", tables.read(tree, plain, **options)
    refuse_packed(tree)
    if options.keys() & {"label_column", "labels"}:
        return "table", tables.read(tree, **options)
    return _table_or_folders(tree, options)


def _table_or_folders(tree: Tree, options: dict) -> tuple[str, SourceDataset]:
    folders, doubt = _attempt(image_folder.read_plausible, tree)
    try:
        files = tables.labelled_tables(tree)
    except ValueError as question:
        raise ValueError(f"{question} {SAY_SO}") from question
    if files:
        table = tables.read(tree, files, **options)
        if folders and not _agree(folders, table):
            raise ValueError(
                f"{table.evidence} and the folders of {tree.root} give the images different labels. For the table's, "
                f"add --labels {table.evidence.split(', ')[0]}. {SAY_SO}"
            )
        return ("image_folder", folders) if folders else ("table", table)
    if mention := find_mention(tree, [] if folders is None else _class_folders(folders)):
        raise ValueError(
            f"{tree.root / mention.file}: {mention}, so the folders alone may not tell classes and splits. If it is a "
            f"table of labels, add --labels {mention.file}. {SAY_SO}"
        )
    if folders is None:
        raise doubt
    if file := mention_above(tree):
        raise ValueError(
            f"{file} names images of {tree.root}, so the folders alone may not tell classes and splits. Give the "
            f"folder of that list. {SAY_SO}"
        )
    return "image_folder", folders


def _attempt(read, tree: Tree) -> tuple[SourceDataset | None, ValueError]:
    try:
        return read(tree), ValueError()
    except ValueError as error:
        return None, error


def _agree(folders: SourceDataset, table: SourceDataset) -> bool:
    """Whether both readings give each image the same class."""
    named = {image.path: image.class_name for image in table.images}
    return named == {image.path: image.class_name for image in folders.images}


def _class_folders(dataset: SourceDataset) -> set[str]:
    return {image.path.rpartition("/")[0] for image in dataset.images}
