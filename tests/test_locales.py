"""The texts of the nodes in every language, as ComfyUI's page reads them from locales/."""

import re

import pytest

from .conftest import ROOT
from .locale_files import LOCALES, SYNTAX, flat, of_nodes, plain, read, written

OTHERS = {"zh": "[\u4e00-\u9fff]", "ja": "[\u3040-\u30ff\u4e00-\u9fff]", "ko": "[\uac00-\ud7a3]"}
# Words that stay as they are, because the field writes them so.
SAME = {"cfg", "vae", "cutmix", "mixup", "CLIP", "VAE", "JSON", "ControlNet", "Latent", "HiGFA KSampler", "HiGFA"}


@pytest.fixture(scope="module")
def english(pack) -> dict:
    return of_nodes(pack.nodes)


def test_languages():
    assert {folder.name for folder in LOCALES.iterdir()} == {"en", *OTHERS}


def test_english_is_what_the_nodes_say(english):
    assert (LOCALES / "en" / "nodeDefs.json").read_text("utf-8") == written(plain(english)), (
        "run `python run.py exec -- python -m tests.locale_files` and commit what it wrote"
    )


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_is_translated_and_none_is_stale(english, language):
    wanted, found = flat(english), flat(read(language))
    assert set(found) == set(wanted)
    left = {path: text for path, text in found.items() if text not in SAME and not re.search(OTHERS[language], text)}
    assert left == {}
    assert {path: text for path, text in found.items() if SYNTAX & set(text)} == {}


@pytest.mark.parametrize("language", OTHERS)
def test_translations_keep_numbers_choices_and_names_of_files(pack, english, language):
    found, lacking = read(language), []
    for node_id, node in pack.nodes.items():
        for item in node.GET_SCHEMA().inputs:
            said = (english[node_id]["inputs"][item.id]).get("tooltip", "")
            there = found[node_id]["inputs"][item.id].get("tooltip", "")
            options = [one for one in getattr(item, "options", None) or () if re.search(rf"\b{one}:", said)]
            numbers = re.findall(r"\d+(?:\.\d+)*", said)
            lacking += [(node_id, item.id, fact) for fact in [*options, *numbers] if fact not in there]
    assert lacking == []


@pytest.mark.parametrize("language", ["en", *OTHERS])
def test_the_pages_own_words(language):
    words = flat(read(language, "main.json"))
    assert set(words) == set(flat(read("en", "main.json"))) and all(words.values())
    script = (ROOT / "web" / "higfa.js").read_text("utf-8")
    assert all(f'"{key}"' in script for key in read("en", "main.json") if key != "templateWorkflows")
