"""Class-balanced samples and where the support set starts."""

import jax
import numpy as np
import pytest

from kipx import centroids, checks, support

LABELS = np.repeat([0, 1, 2, 3], [20, 5, 11, 3])
IMAGES = np.random.default_rng(0).normal(size=(39, 2, 2, 1)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 4, 7, 12, 17, 39])
def test_classes_are_balanced_until_they_run_out(size):
    places = np.asarray(support.class_balanced(jax.random.key(0), LABELS, size))
    assert len(set(places.tolist())) == size
    counts = np.bincount(LABELS[places], minlength=4)
    available = np.bincount(LABELS)
    full = counts < available  # classes that could give more differ by at most one image
    assert np.ptp(counts[full]) <= 1 if full.any() else True
    assert all(counts[~full] <= counts[full].max()) if full.any() else True


def test_every_image_and_every_class_has_its_turn():
    places = np.concatenate([support.class_balanced(jax.random.key(seed), LABELS, 6) for seed in range(200)])
    assert set(places.tolist()) == set(range(39))
    counts = np.bincount(LABELS[places], minlength=4)
    assert counts.max() < 1.2 * counts.min()


def test_natural_images_are_real_and_grouped_by_class():
    x, classes = support.natural(per_class=3)(jax.random.key(0), IMAGES, LABELS, 4)
    np.testing.assert_array_equal(classes, np.repeat(range(4), 3))
    where = [int(np.flatnonzero((image == IMAGES).all(axis=(1, 2, 3)))[0]) for image in np.asarray(x)]
    np.testing.assert_array_equal(LABELS[where], classes)
    assert len(set(where)) == 12


def test_noise_has_the_scale_of_the_images():
    x, classes = support.noise(per_class=500)(jax.random.key(0), 3 * IMAGES + 1, LABELS, 4)
    assert x.shape == (2000, 2, 2, 1)
    np.testing.assert_array_equal(np.bincount(classes), [500] * 4)
    assert float(x.std()) == pytest.approx((3 * IMAGES).std(), rel=0.05)


def test_labels_are_centred():
    y = np.asarray(support.one_hot(np.array([2, 0]), 4))
    np.testing.assert_allclose(y, [[-0.25, -0.25, 0.75, -0.25], [0.75, -0.25, -0.25, -0.25]])


def test_refusals():
    with pytest.raises(checks.UserError, match="expected at most 3, the images of class 3, got 4"):
        support.natural(per_class=4)(jax.random.key(0), IMAGES, LABELS, 4)
    with pytest.raises(
        checks.UserError, match=r"at most as many clusters as images of a class differ, got 2; lower it"
    ):
        centroids.kmeans(per_class=2)(jax.random.key(0), np.ones((8, 2, 2, 1)), np.repeat(np.arange(4), 2), 4)
    for make in (support.natural, support.noise):
        with pytest.raises(checks.UserError, match=r"support\.per_class: expected an integer >= 1, got 0"):
            make(per_class=0)
