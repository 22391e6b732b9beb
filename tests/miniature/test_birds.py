"""The renderer: which marks make a species, and which of them a contour shows."""

import cv2
import numpy as np
import pytest
import torch

from higfa_core import contour
from higfa_core.miniature import birds


def test_every_species_has_its_own_name_and_marks():
    assert len(birds.SPECIES) == 32 == len(set(birds.CLASS_NAMES)) == len({s.marks for s in birds.SPECIES})
    for genus, varied in enumerate(birds.VARIED):
        siblings = birds.SPECIES[4 * genus : 4 * genus + 4]
        assert {s.name.split()[-1] for s in siblings} == {birds.GENERA[genus]}
        differ = frozenset.union(*(s.marks for s in siblings)) - frozenset.intersection(*(s.marks for s in siblings))
        assert differ == set(varied) <= set(birds.INNER)


def edges(view):
    image, mask = (torch.from_numpy(x)[None].float() / 255 for x in (view.image, view.mask))
    return contour.extract(image, mask=mask)[0, ..., 0].numpy() > 0.5


def apart(a, b):
    """Share of the lines of either that have no line of the other beside them."""
    near = [cv2.dilate(x.astype(np.uint8), np.ones((3, 3))) > 0 for x in (a, b)]
    return ((a & ~near[1]).sum() + (b & ~near[0]).sum()) / (a.sum() + b.sum())


@pytest.mark.parametrize("mark", birds.MARKS)
def test_a_contour_shows_half_of_the_marks(mark):
    found = []
    for species, about in list(enumerate(birds.SPECIES))[::3]:
        views = [birds.render(species, 40 + species, 256, m) for m in (about.marks | {mark}, about.marks - {mark})]
        found.append(apart(*map(edges, views)))
    shown = mark in birds.SEEN_BY_CONTOUR
    assert (np.mean(found) > 0.04) if shown else (np.mean(found) < 0.03), f"{np.mean(found):.3f} of the lines differ"


def test_marks_change_nothing_around_the_bird():
    plain, marked = (birds.render(3, 5, 128, frozenset(marks)) for marks in ((), birds.INNER))
    around = cv2.dilate(plain.mask | marked.mask, np.ones((5, 5))) == 0  # away from its softened outline
    assert around.mean() > 0.5 and np.array_equal(plain.image[around], marked.image[around])
    assert not np.array_equal(plain.image, marked.image)


def test_the_same_seed_draws_the_same_bird():
    first, again, other = (birds.render(9, seed, 128).image for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
