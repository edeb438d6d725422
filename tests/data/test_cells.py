"""Drawn blood smears: what is said of them against what the pixels show, measured with SciPy."""

import numpy as np
import pytest
from scipy.ndimage import center_of_mass, distance_transform_edt

from jaxdl.data.builders.cells import make_cells
from jaxdl.data.sources import load

SIZE = 96


@pytest.fixture(scope="module")
def smears():
    return make_cells(16, seed=1, size=SIZE)


def test_arrays(smears):
    assert smears["image"].shape == (16, SIZE, SIZE, 3) and smears["image"].dtype == np.uint8
    assert smears["instances"].shape == (16, SIZE, SIZE) and smears["instances"].dtype == np.int32
    assert smears["count"].shape == (16,) and smears["count"].dtype == np.float32
    assert smears["points"].shape[::2] == (16, 2) and smears["points"].dtype == np.float32


def test_the_count_is_that_of_the_instances_and_of_the_points(smears):
    for instances, count, points in zip(
        smears["instances"], smears["count"], smears["points"], strict=True
    ):
        numbers = np.unique(instances)
        np.testing.assert_array_equal(numbers[numbers > 0], 1 + np.arange(count))
        middles = center_of_mass(instances > 0, instances, 1 + np.arange(int(count)))
        np.testing.assert_allclose(points[: int(count)], middles, rtol=1e-5)
        assert np.isnan(points[int(count) :]).all()
    assert smears["count"].max() > 2 * smears["count"].min()


def test_red_cells_are_darker_than_the_ground_and_pale_in_the_middle(smears):
    inner, outer, ground = [], [], []
    for image, instances in zip(smears["image"], smears["instances"], strict=True):
        green = image[..., 1].astype(float)
        ground.append(np.percentile(green[instances == 0], 60))
        for number in range(1, instances.max() + 1):
            depth = distance_transform_edt(np.pad(instances == number, 1))[1:-1, 1:-1]
            if depth.max() > 6:  # a whole one
                inner.append(green[depth > 0.75 * depth.max()].mean())
                outer.append(
                    green[(depth > 0.2 * depth.max()) & (depth < 0.5 * depth.max())].mean()
                )
    assert np.mean(ground) - np.mean(outer) > 30
    assert np.mean(inner) - np.mean(outer) > 5


def test_cells_touch_and_overlap(smears):
    """Neighbouring pixels of two cells; and more light is taken where cells lie over others."""
    a, b = smears["instances"][:, 1:], smears["instances"][:, :-1]
    assert ((a != b) & (a > 0) & (b > 0)).any((1, 2)).all()


def test_more_crowded_is_more_cells():
    sparse, dense = (make_cells(12, 3, 64, crowding) for crowding in (0.3, 0.9))
    assert 2 < dense["count"].mean() / sparse["count"].mean() < 4
    covered = (dense["instances"] > 0).mean()
    assert 0.4 < covered < 0.9


def test_an_image_depends_on_its_seed_and_index_alone(smears):
    few, other = make_cells(3, seed=1, size=SIZE), make_cells(3, seed=2, size=SIZE)
    for name, array in few.items():
        np.testing.assert_array_equal(array, smears[name][:3])
    assert (few["image"] != other["image"]).any()


@pytest.mark.parametrize("size", [32, 51, 256])
def test_another_size_is_the_same_picture(smears, size):
    """Down to cells that are nearly hidden."""
    counts = make_cells(3, seed=1, size=size)["count"]
    np.testing.assert_allclose(counts, smears["count"][:3], atol=2)


def test_a_source_of_cells():
    source = load("cells", train=5, validation=2, test=3, size=32, crowding=0.4)
    assert not source.labelled and source.test.size == 3
    assert (
        source.splits["train"]["points"].shape[1:]
        == source.splits["validation"]["points"].shape[1:]
    )
    splits = {**source.splits, "test": source.test.open()}
    assert len({split["image"][0].tobytes() for split in splits.values()}) == 3


@pytest.mark.parametrize(
    "options, says",
    [({"count": 0}, "count is 0"), ({"size": 8}, "size is 8"), ({"crowding": 0.0}, "crowding is")],
)
def test_refused_in_one_line(options, says):
    with pytest.raises(ValueError, match=f"^cells: {says}"):
        make_cells(**{"count": 1, **options})
