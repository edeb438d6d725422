"""Masks: what is refused, what is made of them, and how they are damaged."""

import numpy as np
import pytest
from scipy import ndimage

from jaxdl.data.masks import DAMAGES, Answers, check_masks, depth_map

IMAGE = np.zeros((2, 8, 9, 3), np.uint8)
MASK = np.zeros((2, 8, 9), np.uint8)
MASK[0, 2:5, 3:6] = 1
RNG = np.random.default_rng(0)


def changed(*place, value):
    mask = MASK.copy()
    mask[place] = value
    return mask


@pytest.mark.parametrize(
    ("mask", "filled", "problem"),
    [
        (
            MASK[:, 1:],
            False,
            r"masks are \[2, 7, 9\], images \[2, 8, 9, 3\]: a mask has the height",
        ),
        (changed(1, 0, 0, value=7), False, "the mask of example 1 has pixels of class 7: expected"),
        (MASK, True, "the mask of example 1 is empty, with no pixel of class 1: leave the example"),
        (255 * MASK.astype(int), False, "masks have no pixel of 1, but of 255, which means"),
        (0 * MASK, False, "all 2 masks are empty, with no pixel of class 1"),
    ],
)
def test_masks_that_cannot_be_learnt_from_are_named(mask, filled, problem):
    with pytest.raises(ValueError, match=f"^here: {problem}"):
        check_masks(IMAGE.shape, mask, "here", filled=filled)


def test_missing_pixels_are_no_fault():
    check_masks(IMAGE.shape, changed(1, 0, slice(3), value=255), "here", filled=False)
    check_masks(IMAGE.shape, np.where(MASK, -1, 1).astype(np.int32), "here", filled=True)


def test_depth_is_1_in_the_middle_of_each_instance():
    labels = np.zeros((9, 12), np.int32)
    labels[1:8, 1:8], labels[1:8, 8:11] = 1, 2  # two that touch
    depth = depth_map(labels)
    assert depth[4, 4] == depth[4, 9] == 1 and depth[labels == 0].max() == 0
    own = ndimage.distance_transform_edt(labels == 2)
    np.testing.assert_allclose(depth[labels == 2], (own / own.max())[labels == 2], rtol=1e-6)


def test_damages():
    mask = np.zeros((20, 20), np.uint8)
    mask[4:11, 5:12], mask[15:18, 15:18] = 1, 1
    shifted = DAMAGES["shifted"](mask, 2.0, RNG)
    moved = np.subtract(ndimage.center_of_mass(shifted), ndimage.center_of_mass(mask))
    assert 1 <= np.hypot(*moved) <= 3
    ours = DAMAGES["dilated"](mask, 1.0, RNG)
    np.testing.assert_array_equal(ours, ndimage.binary_dilation(mask))
    assert ndimage.label(DAMAGES["missing"](mask, 0.5, RNG))[1] == 1
    square = DAMAGES["polygons"](mask, 12, RNG)
    assert ndimage.label(square)[1] == 2 and 0.7 < (square & mask).sum() / mask.sum() <= 1
    coarse = DAMAGES["polygons"](mask, 3, RNG)
    assert 0 < (coarse & mask).sum() < (square & mask).sum()
    assert not any(DAMAGES[name](0 * mask, 2.0, RNG).any() for name in DAMAGES)


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        ("field", MASK[:, 1:], r"field is \[2, 7, 9\]: images of 8 x 9 need \[2, 8, 9\]"),
        ("instances", MASK[0], r"instances is \[8, 9\]: images of 8 x 9 need \[2, 8, 9\]"),
        ("points", np.zeros((2, 2), np.float32), r"points is \[2, 2\]: .* need \[2, most, 2\]"),
        ("count", np.zeros((2, 1), np.float32), r"count is \[2, 1\]: images .* need \[2\]"),
        ("label", np.array([0, 2]), r"label 2: expected 0 \(absent\) or 1 \(present\)"),
    ],
)
def test_other_answers_fit_their_images(name, rows, problem):
    split = {"image": IMAGE, "mask": MASK, name: rows}
    field = {"field": "field"} if name == "field" else {}
    with pytest.raises(ValueError, match=f"^here: {problem}"):
        Answers(("mask", *({name} - {"field"})), **field).of_split(split, "here")


def test_answers_are_made_of_a_split():
    split = {
        "image": IMAGE,
        "vessels": MASK,
        "field": changed(0, 2, value=1),
        "label": np.arange(2),
    }
    answers = Answers(("mask", "label"), "vessels", "field", (("", 0.0), ("dilated", 1.0)))
    ours = answers.of_split(split, "here")
    assert sorted(ours) == ["image", "label", "mask"] and ours["mask"].shape == (2, 2, 8, 9)
    known = split["field"] == 1
    np.testing.assert_array_equal(ours["mask"][:, 0][known], MASK[known])
    assert (ours["mask"][:, 0][~known] == 255).all()
    assert (ours["mask"][:, 1] == 1).sum() > (ours["mask"][:, 0] == 1).sum()
    with pytest.raises(ValueError, match=r"^here has image, vessels, field, label: .* needs point"):
        Answers(("point",)).of_split(split, "here")


def test_instances_are_a_mask_and_have_depth():
    labels = np.zeros((2, 8, 9), np.int32)
    labels[:, 1:4, 1:4], labels[:, 5:8, 5:8] = 1, 2
    answers = Answers(("mask", "depth"), mask="instances")
    ours = answers.of_split({"image": IMAGE, "instances": labels}, "here")
    np.testing.assert_array_equal(ours["mask"][:, 0], labels > 0)
    assert sorted(ours) == ["depth", "image", "mask"] and ours["depth"].max() == 1
