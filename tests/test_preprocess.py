"""Preprocessing against the definition, one image at a time, and back."""

import numpy as np
import pytest
import scipy.linalg

from kipx import checks, preprocess
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


def slow_zca(pixels, reg, unit_norm):
    """Pixel by pixel: the fitted map applied to `pixels` themselves, float64."""
    n, h, w, c = pixels.shape
    d = h * w * c
    values = [[float(v) for v in pixels[..., k].ravel()] for k in range(c)]
    mean = [sum(v) / len(v) for v in values]
    std = [(sum((x - m) ** 2 for x in v) / len(v)) ** 0.5 for v, m in zip(values, mean, strict=True)]
    rows = np.zeros((n, d))
    for i, image in enumerate(pixels.tolist()):
        row = [(v - mean[k]) / std[k] for line in image for pixel in line for k, v in enumerate(pixel)]
        if unit_norm:
            row = [v - sum(row) / d for v in row]
            norm = sum(v * v for v in row) ** 0.5
            row = [v / norm if norm else v for v in row]
        rows[i] = row
    covariance = sum(np.outer(row, row) for row in rows) / n
    root = scipy.linalg.sqrtm(covariance + reg * sum(np.diag(covariance)) / d * np.eye(d))
    return (rows @ np.linalg.inv(root)).reshape(pixels.shape)


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("shape", [(13, 4, 3, 2), (7, 1, 5, 1), (9, 3, 3, 3), (1, 3, 2, 1)])
def test_zca_in_parts_equals_a_slow_one(shape, unit_norm, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, size=shape).astype(np.uint8)
    pixels[0] = pixels[0] if len(pixels) == 1 else 99  # a constant image
    expected = slow_zca(pixels, 0.3, unit_norm)
    for images_a_part in (1, 2, 6, len(pixels), 100):
        monkeypatch.setattr(preprocess, "PART", images_a_part * pixels[0].size)
        fitted = zca(reg=0.3, unit_norm=unit_norm)(pixels)
        np.testing.assert_allclose(fitted.apply(pixels), expected, rtol=1e-4, atol=3e-6)
        np.testing.assert_allclose(fitted.apply(pixels.astype(np.float32)), expected, rtol=1e-4, atol=3e-6)
        np.testing.assert_allclose(fitted.apply(fitted.invert(expected))[1:], expected[1:], rtol=1e-3, atol=3e-6)


@pytest.mark.parametrize("images_a_part", [1, 7, 60, 61])
def test_standardize_in_parts_equals_all_at_once(images_a_part, monkeypatch):
    whole = standardize()(PIXELS)
    monkeypatch.setattr(preprocess, "PART", images_a_part * PIXELS[0].size)
    fitted = standardize()(PIXELS)
    np.testing.assert_allclose(fitted.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(fitted.std, whole.std, rtol=1e-14)
    np.testing.assert_allclose(fitted.invert(fitted.apply(PIXELS)), PIXELS, atol=1e-4)


def test_no_images_make_no_images():
    for fit in (standardize(), zca()):
        fitted = fit(PIXELS)
        assert fitted.apply(PIXELS[:0]).shape == fitted.invert(PIXELS[:0]).shape == (0, 4, 3, 2)


@pytest.mark.parametrize(("reg", "tolerance"), [(0.1, 1e-4), (1e-4, 1e-3), (1e-8, 1e-2)])
def test_what_is_undone_is_precise_even_where_whitening_is_strong(reg, tolerance):
    """Smooth images, whose covariance has eigenvalues far apart; float32 in between, errors in levels of 255."""
    waves = np.cos(np.arange(8)[:, None] * np.arange(8) * 0.4)
    weights = np.random.default_rng(2).normal(size=(300, 8, 8, 1)) * 0.3 ** np.add.outer(range(8), range(8))[..., None]
    pixels = 127 + 60 * np.einsum("iy,nijc,jx->nyxc", waves, weights, waves)
    fitted = zca(reg=reg, unit_norm=False)(pixels)
    np.testing.assert_allclose(fitted.invert(fitted.apply(pixels)), pixels, atol=tolerance)


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
    with pytest.raises(checks.UserError, match="channel 1 of the training images constant"):
        standardize()(np.concatenate([PIXELS[..., :1], np.full_like(PIXELS[..., :1], 3)], axis=-1))
    with pytest.raises(checks.UserError, match=r"preprocess\.reg: expected a number >= 0, got -1"):
        zca(reg=-1)
    for reg in (0, 1e-14):
        with pytest.raises(checks.UserError, match=f"singular; expected a larger one, such as 0.1, got {reg}$"):
            zca(reg=reg)(PIXELS[:5])
    with pytest.raises(checks.UserError, match="nothing is left to whiten once each image's mean is off"):
        zca()(PIXELS[:, :1, :1, :1])
    for fit, given in ((zca(reg=1e300), "reg=1e\\+300"), (preprocess.zca_pixels(eps=1e-300), "eps=1e-300")):
        with pytest.raises(checks.UserError, match=rf"preprocess\.{given}: float32 cannot hold its whitening"):
            fit(np.repeat(PIXELS[:2], 9, axis=0))


@pytest.mark.parametrize("fit", [preprocess.normalize(mean=0.5, std=0.5), preprocess.zca_pixels()])
@pytest.mark.parametrize("images", [PIXELS / 255, PIXELS.astype(float) - 128, PIXELS.astype(float) * 2])
def test_what_divides_by_255_is_for_pixels_to_255(fit, images):
    with pytest.raises(checks.UserError, match=r"is for pixels from 0 to 255, got .*; rescale the images, or take"):
        fit(images)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_channel_that_is_constant_but_for_rounding_is_refused(dtype):
    """The sums of 0.1 over many pixels leave a deviation of rounding errors, which no image is to be divided by."""
    images = np.concatenate([np.zeros((400, 9, 7, 1)), np.full((400, 9, 7, 1), 0.1)], axis=-1).astype(dtype)
    images[..., 0] = np.random.default_rng(0).normal(size=(400, 9, 7))
    with pytest.raises(checks.UserError, match="channel 1 of the training images constant"):
        standardize()(images)
    images[..., 1] += np.arange(7, dtype=dtype) * dtype(1e-6)
    assert np.all(standardize()(images).std > 0), "little is not nothing"


def test_normalize_is_torchvisions_on_pixels_of_one():
    mean, std = [0.5, 0.25], [0.2, 0.1]
    fitted = preprocess.normalize(mean=mean, std=std)(PIXELS)
    expected = np.stack([(PIXELS[..., c] / 255 - mean[c]) / std[c] for c in (0, 1)], axis=-1)
    np.testing.assert_allclose(fitted.apply(PIXELS), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fitted.invert(expected), PIXELS, atol=1e-9)
    one = preprocess.normalize(mean=0.5, std=0.2)(PIXELS)
    np.testing.assert_allclose(one.apply(PIXELS), (PIXELS / 255 - 0.5) / 0.2, rtol=1e-6, atol=1e-6)


def test_normalize_takes_dcs_numbers_of_the_data_set_that_is_named():
    photos = np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)
    x = preprocess.normalize(dataset="cifar10")(photos).apply(photos)
    np.testing.assert_allclose(x[..., 2], (photos[..., 2] / 255 - 0.4465) / 0.2010, rtol=1e-5, atol=1e-5)
    x = preprocess.normalize(dataset="cifar10", std=1.0)(photos).apply(photos)
    np.testing.assert_allclose(x[..., 0], photos[..., 0] / 255 - 0.4914, rtol=1e-5, atol=1e-5)


def test_zca_of_pixels_equals_the_definition():
    rows = (PIXELS / 255).reshape(60, 24)
    rows = rows - rows.mean(axis=0)
    root = scipy.linalg.sqrtm(rows.T @ rows / 59 + 0.1 * np.eye(24))
    fitted = preprocess.zca_pixels(eps=0.1)(PIXELS)
    np.testing.assert_allclose(fitted.apply(PIXELS).reshape(60, 24), rows @ np.linalg.inv(root), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fitted.invert(fitted.apply(PIXELS)), PIXELS, atol=1e-3)


def test_images_that_are_held_out_change_mean_and_deviation_alone():
    whole, fitted = zca()(PIXELS), zca(held_out=20)(PIXELS)
    np.testing.assert_array_equal(fitted.mean, whole.mean)
    x = (PIXELS[:40] - whole.mean) / whole.std
    rows = x.reshape(40, 24) - x.reshape(40, 24).mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    covariance = rows.T @ rows / 40
    root = scipy.linalg.sqrtm(covariance + 0.1 * np.trace(covariance) / 24 * np.eye(24))
    np.testing.assert_allclose(fitted.whitening, np.linalg.inv(root), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: preprocess.normalize(), r"preprocess\.mean: .* got dataset None; give preprocess\.mean"),
        (lambda: preprocess.normalize(mean=0.5, dataset="digits"), "got dataset digits"),
        (lambda: preprocess.normalize(mean="half", std=1), "expected a number or a list of one a channel, got 'half'"),
        (lambda: preprocess.normalize(mean=0.5, std=0), r"preprocess\.std: expected a number > 0, got 0"),
        (lambda: preprocess.normalize(dataset="cifar10")(PIXELS), "mean and std of 2 channels, got 3 and 3"),
        (lambda: preprocess.zca_pixels(eps=0), r"preprocess\.eps: expected a number > 0, got 0"),
        (lambda: zca(held_out=-1), r"preprocess\.held_out: expected an integer >= 0, got -1"),
        (lambda: zca(held_out=60)(PIXELS), r"preprocess\.held_out: expected less than 60 images, got 60"),
    ],
)
def test_what_peers_do_refuses_what_it_cannot(build, message):
    with pytest.raises(checks.UserError, match=message):
        build()
