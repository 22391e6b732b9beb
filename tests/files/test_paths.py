import unicodedata

import pytest

from higfa_core.files.paths import (
    check_class_names,
    class_of_folder,
    fingerprint,
    folder_name,
    inside,
    name_flaw,
    refuse_held_out,
)


def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", ["..", "a/../../b", "/etc/passwd", "C:\\x", "..\\x", "", ".", "a\0b", "\\\\host\\x"])
def test_paths_that_lead_out_are_refused(tmp_path, path):
    with pytest.raises(ValueError, match="relative and without"):
        inside(tmp_path, path)


def test_links_that_lead_out_are_refused(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    assert inside(tmp_path / "root", "a/b") == tmp_path / "root" / "a" / "b"
    with pytest.raises(ValueError, match="leads outside"):
        inside(tmp_path / "root", "link/x")


def test_fingerprint_sees_every_kind_of_change(tmp_path):
    write(tmp_path / "a/1.png")
    write(tmp_path / "a/2.png")
    seen = [fingerprint(tmp_path)]
    assert fingerprint(tmp_path) == seen[0]
    write(tmp_path / "a/3.png")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "a/3.png").rename(tmp_path / "a/4.png")
    seen.append(fingerprint(tmp_path))
    write(tmp_path / "a/4.png", "longer")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "a/4.png").unlink()
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == 4 and seen[0] == seen[-1]


FOLDERS = {
    "003.Laysan_Albatross": "003.Laysan_Albatross",
    "F-16A/B": "F-16A%2FB",
    "F/A-18": "F%2FA-18",
    "Ram C/V Cargo Van Minivan 2012": "Ram C%2FV Cargo Van Minivan 2012",
    "a\\b": "a%5Cb",
    "a%2Fb": "a%252Fb",
    "100%": "100%25",
    "con": "%63on",
    "CON": "%43ON",
    "aux.png": "%61ux.png",
    "nul .txt": "%6Eul .txt",
    "console": "console",
    "val": "%76al",
    "Test": "%54est",
    "tests": "tests",
    "Training": "%54raining",
    "test_set": "%74est_set",
    "dev": "%64ev",
    "sunset": "sunset",
    ".x": "%2Ex",
    "..": "%2E%2E",
    " ": "%20",
    "dot.": "dot%2E",
    " both ": "%20both%20",
    'a:b*c?"<d>|': "a%3Ab%2Ac%3F%22%3Cd%3E%7C",
    "tab\there\0\x7f": "tab%09here%00%7F",
    "Grünfink": "Grünfink",
    "鴉": "鴉",
    "🦅 eagle": "🦅 eagle",
    "n'ko": "n'ko",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_class_has_a_folder_and_comes_back(name, tmp_path):
    folder = folder_name(name)
    assert folder == FOLDERS[name] and class_of_folder(folder) == name
    assert name_flaw(folder) == ""
    refuse_held_out(folder)
    inside(tmp_path, folder).mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == [folder]


def test_hostile_names_do_not_meet_in_one_folder():
    check_class_names(list(FOLDERS.keys() - {"CON"}))
    folders = {unicodedata.normalize("NFC", folder_name(name)).casefold() for name in FOLDERS}
    assert len(folders) == len(FOLDERS)


@pytest.mark.parametrize("name", ["", "x" * 201, "鴉" * 67, "/" * 67])
def test_names_without_a_folder(name):
    with pytest.raises(ValueError, match="Rename the class|No class given"):
        check_class_names(["fine", name])


@pytest.mark.parametrize("pair", [("Gull", "gull"), ("e\u0301", "\u00e9"), ("A/b", "a/B")])
def test_class_names_that_share_a_folder_elsewhere(pair):
    with pytest.raises(ValueError, match="one folder"):
        check_class_names(pair)


@pytest.mark.parametrize("part", ["val", "valid", "validation", "dev", "test", "TEST", "Testing", "eval", "Test-Set"])
def test_held_out_parts(part):
    refuse_held_out("train", "Training set", "contest", "values", "set", "")
    with pytest.raises(ValueError, match=f"'{part}' is a validation or test split"):
        refuse_held_out("a", part)
