"""Whether folders may count as classes: the tree must look like it, and nothing in it may contradict."""

from __future__ import annotations

import re

from ...files.paths import split_of
from ...wording import counted
from ..hints import is_beside_images, is_container, speaks_of_images, split_hint, split_pairs, split_word
from ..tree import Folder, Tree, stem_of

# Images that people put beside their class folders to illustrate the set.
ABOUT = re.compile(
    r"(?i)(readme|overview|trimap|mask|sample|example|preview|logo|banner|screenshot|fig|teaser|cover|icon)"
)
SAY_SO = "If the folders are the classes after all, add --layout image_folder."


def refuse_implausible(tree: Tree, base: str, folder: Folder, classes: list[str]) -> None:
    """ValueError, with the evidence and the question, unless the class folders `classes` of `base` look like it."""
    place = tree.root / tree.place(base)
    if is_beside_images(place.name):
        raise ValueError(f"{place} usually holds masks or lists, not classes. {SAY_SO}")
    for check in (_names, _splits, _depth, _strays):
        if why := check(folder, classes):
            raise ValueError(f"The folders in {place} may not be the classes: {why}. {SAY_SO}")


def _names(folder: Folder, classes: list[str]) -> str:
    """Folders that hold something other than one class."""
    if kept := next(filter(speaks_of_images if len(classes) == 1 else is_container, classes), ""):
        return f"{kept} is a usual name for a folder of all images; give the table of their labels with --labels FILE"
    for name in classes:
        for path, _ in folder.folders[name].walk(name):
            if beside := next(filter(is_beside_images, path.split("/")), ""):
                return f"{beside} usually holds masks or lists, not a class"
    return ""


def _splits(folder: Folder, classes: list[str]) -> str:
    """Folders that are splits with unusual names."""
    if pair := split_pairs(classes):
        return f"{' and '.join(pair[:2])} look like splits; give the one with the training images"
    levels = [[name for name in classes if not (split_of(name) and len(classes) > 1)]]
    levels += [list(inner.folders) for name in classes for _, inner in folder.folders[name].walk()]
    for names in levels:
        if pair := split_pairs(names):
            return f"{' and '.join(pair[:2])} look like splits"
        if split := next(filter(split_hint, names), ""):
            return f"{split} looks like a split"
    if len(classes) == 1 and split_word(classes[0])[0]:
        return f"{classes[0]} looks like a split, and is the only folder"
    return ""


def _depth(folder: Folder, classes: list[str]) -> str:
    """Images one level too deep for a class folder, in some classes or in all."""
    nested = {name: [part for part, _ in folder.folders[name].walk(name) if "/" in part] for name in classes}
    filled = {name: [part for part in parts if _folder(folder, part).images] for name, parts in nested.items()}
    deep = {name: parts for name, parts in filled.items() if parts}
    if not deep or _is_one_level(folder, deep, classes):
        return ""
    name, parts = next(iter(deep.items()))
    example = _folder(folder, parts[0]).images[0]
    return (
        f"{len(deep)} of {len(classes)} hold folders of images, such as {example}; if {parts[0]} and the like "
        f"are the classes, give the folder that holds them"
    )


def _is_one_level(folder: Folder, deep: dict[str, list[str]], classes: list[str]) -> bool:
    """Whether each class has all its images in one folder of the same name everywhere: `<class>/images/`."""
    if len(deep) < len(classes) or any(folder.folders[name].images for name in classes):
        return False
    ends = {tuple(part.split("/")[1:]) for parts in deep.values() for part in parts}
    return len(ends) == 1 and all(map(is_container, next(iter(ends))))


def _strays(folder: Folder, classes: list[str]) -> str:
    """Images beside the class folders instead of in one."""
    strays = [path for path in folder.images if not ABOUT.match(stem_of(path))]
    return f"beside them, in none: {counted(len(strays), 'image')} such as {strays[0]}" if strays else ""


def _folder(folder: Folder, path: str) -> Folder:
    for name in path.split("/"):
        folder = folder.folders[name]
    return folder
