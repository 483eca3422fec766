"""Preprocessing against the definition, one image at a time, and back."""

import numpy as np
import pytest

from kipx import checks
from kipx.preprocess import standardize, zca

PIXELS = np.random.default_rng(0).integers(0, 256, size=(60, 4, 3, 2)).astype(np.uint8)


def test_standardize_takes_mean_and_deviation_of_each_channel():
    fitted = standardize()(PIXELS)
    x = fitted.apply(PIXELS)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(fitted.invert(x), PIXELS, atol=1e-4)


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("reg", [0.1, 3.0])
def test_zca_equals_the_definition(reg, unit_norm):
    rows = []
    mean = [PIXELS[..., c].mean() for c in (0, 1)]
    std = [PIXELS[..., c].std() for c in (0, 1)]
    for image in PIXELS.astype(float):
        row = ((image - mean) / std).ravel()
        rows.append((row - row.mean()) / np.sqrt(np.sum((row - row.mean()) ** 2)) if unit_norm else row)
    covariance = sum(np.outer(row, row) for row in rows) / len(rows)
    regular = covariance + reg * np.trace(covariance) / 24 * np.eye(24)
    x = zca(reg=reg, unit_norm=unit_norm)(PIXELS).apply(PIXELS).reshape(60, -1)
    whiten = np.linalg.lstsq(np.array(rows), x, rcond=None)[0]  # the map that took the rows to x
    within = np.linalg.pinv(np.array(rows)) @ np.array(rows)  # centred rows leave the constant direction open
    np.testing.assert_allclose(whiten @ regular @ whiten.T, within, atol=1e-4)
    np.testing.assert_allclose(whiten, whiten.T, atol=1e-4)


def test_zca_can_be_undone_up_to_the_images_own_mean_and_norm():
    fitted = zca(reg=0.1)(PIXELS)
    x = fitted.apply(PIXELS)
    back = fitted.invert(x)
    np.testing.assert_allclose(fitted.apply(back), x, atol=1e-5)
    plain = standardize()(PIXELS)
    for image, original in zip(plain.apply(back), plain.apply(PIXELS), strict=True):
        assert np.corrcoef(image.ravel(), original.ravel())[0, 1] > 0.99999
    exact = zca(reg=0.1, unit_norm=False)(PIXELS)
    np.testing.assert_allclose(exact.invert(exact.apply(PIXELS)), PIXELS, atol=1e-3)


def test_a_constant_image_stays_finite():
    assert np.isfinite(zca(reg=0.1)(PIXELS).apply(np.full((1, 4, 3, 2), 7))).all()


def test_refusals():
    with pytest.raises(checks.UserError, match="channel 1 of the training images is constant"):
        standardize()(np.concatenate([PIXELS[..., :1], np.full_like(PIXELS[..., :1], 3)], axis=-1))
    with pytest.raises(checks.UserError, match=r"preprocess\.reg: expected a number >= 0, got -1"):
        zca(reg=-1)
    with pytest.raises(checks.UserError, match="singular"):
        zca(reg=0)(PIXELS[:5])
