"""Augmentation against Pillow and scipy; the share, the chances and the bits of what is drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance, ImageOps

from kipx import augment, checks, distill, support
from kipx.augment import autoaugment, geometry, tones

RNG = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray((255 * RNG.random((5, 4, 3)) ** 2).astype(np.uint8)).resize((20, 17), Image.Resampling.BICUBIC)
)
IMAGES = {
    "noise": RNG.integers(0, 256, (32, 32, 3)),
    "smooth": PHOTO,
    "faint": RNG.integers(90, 120, (7, 5, 3)),
    "constant": np.full((6, 6, 3), 17),
    "two levels": RNG.integers(0, 2, (9, 8, 3)) * 200,
    "one pixel": RNG.integers(0, 256, (1, 1, 3)),
    "two rows": RNG.integers(0, 256, (2, 5, 3)),
}
TONES = {
    "invert": (tones.invert, ImageOps.invert, [()]),
    "solarize": (tones.solarize, ImageOps.solarize, [(0,), (52,), (256,)]),
    "posterize": (tones.posterize, ImageOps.posterize, [(1,), (2,), (8,)]),
    "autocontrast": (tones.autocontrast, ImageOps.autocontrast, [()]),
    "equalize": (tones.equalize, ImageOps.equalize, [()]),
    **{
        name: (
            getattr(tones, name),
            lambda image, factor, name=name: getattr(ImageEnhance, name.title())(image).enhance(factor),
            [(0.1,), (1.72,)],
        )
        for name in ("brightness", "contrast", "color", "sharpness")
    },
}


def pillow(pixels):
    return Image.fromarray(np.asarray(pixels, np.uint8))


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", TONES)
def test_levels_are_pillows_within_one(name, image):
    """Most are equal; Pillow's own rounding of a stretch or a blend differs by one level here and there."""
    ours, theirs, arguments = TONES[name]
    for values in arguments:
        result = ours(jnp.asarray(IMAGES[image], jnp.int32), *values)
        assert result.dtype == jnp.int32
        assert np.abs(np.asarray(result) - np.asarray(theirs(pillow(IMAGES[image]), *values), np.int32)).max() <= 1


@pytest.mark.parametrize("image", ["noise", "faint", "one pixel"])
def test_pixels_come_from_where_pillow_takes_them(image):
    pixels, fill = IMAGES[image], (128, 128, 128)
    moved = jnp.asarray(pixels, jnp.int32)

    def affine(*coefficients):
        return pillow(pixels).transform(pixels.shape[1::-1], Image.Transform.AFFINE, coefficients, fillcolor=fill)

    for t in (-9, 0, 3):
        np.testing.assert_array_equal(geometry.translate(moved, np.array([0, t]), 128), affine(1, 0, t, 0, 1, 0))
        np.testing.assert_array_equal(geometry.translate(moved, np.array([t, 0]), 128), affine(1, 0, 0, 0, 1, t))
    for slope in (-0.24, 0.21):
        np.testing.assert_array_equal(geometry.shear_y(moved, slope, 128), affine(1, 0, 0, slope, 1, 0))
    for degrees in (-6, 27):
        ours = geometry.rotate(moved, np.radians(degrees), 128)
        assert np.mean(ours != np.asarray(pillow(pixels).rotate(degrees, fillcolor=fill))) <= 0.002  # edges of pixels


@pytest.mark.parametrize("shape", [(7, 5, 1), (6, 9, 3), (1, 1, 1)])
def test_turn_and_shift_is_scipys_bilinear(shape):
    image, angle, shift = RNG.random(shape).astype(np.float32), 0.3, np.array([0.4, -1.3])
    cos, sin = np.cos(angle), np.sin(angle)
    turn, centre = np.array([[cos, sin], [-sin, cos]]), (np.array(shape[:2]) - 1) / 2
    offset = centre - turn @ (centre + shift)
    ours = jax.jit(geometry.turn_and_shift)(image, np.float32(angle), shift.astype(np.float32))
    for channel, result in zip(np.moveaxis(image.astype(float), -1, 0), np.moveaxis(ours, -1, 0), strict=True):
        expected = scipy.ndimage.affine_transform(channel, turn, offset, order=1, mode="nearest")
        np.testing.assert_allclose(result, expected, atol=2e-6)


def test_turns_are_counter_clockwise_and_shifts_down_and_right():
    image = RNG.random((6, 6, 1)).astype(np.float32)
    turn_and_shift = jax.jit(geometry.turn_and_shift)
    quarter = turn_and_shift(image, np.float32(np.pi / 2), np.zeros(2, np.float32))
    np.testing.assert_allclose(quarter, np.rot90(image), atol=1e-5)
    moved = turn_and_shift(image, np.float32(0), np.array([1, 2], np.float32))
    np.testing.assert_allclose(moved[1:, 2:], image[:-1, :-2], atol=1e-6)


def outcomes(image):
    """{bytes: probability} of all that the policy can make of an image, by Pillow."""
    found = {}
    for row in autoaugment.POLICY:
        choices = (
            [(1 - p, None, 0, 1)] + [(p / 2, name, level, sign) for sign in (1, -1)] for name, p, level in halves(row)
        )
        for first, second in itertools.product(*choices):
            made = by_pillow(by_pillow(pillow(image), *first[1:]), *second[1:]).tobytes()
            found[made] = found.get(made, 0) + first[0] * second[0] / len(autoaugment.POLICY)
    return found


def halves(row):
    return (row[:1] + row[1:3], row[3:4] + row[4:])


def by_pillow(image, name, level, sign):
    fill, share = (128, 128, 128), level / 10
    moves = {
        "shear_y": (1, 0, 0, sign * 0.3 * share, 1, 0),
        "translate_x": (1, 0, round(sign * share * 10 * image.width / 32), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, round(sign * share * 10 * image.height / 32)),
    }
    if name in moves:
        return image.transform(image.size, Image.Transform.AFFINE, moves[name], fillcolor=fill)
    if name == "rotate":
        return image.rotate(sign * int(30 * share), fillcolor=fill)
    numbers = {"solarize": 256 - int(256 * share), "posterize": 4 - int(4 * share)}
    if name in numbers or name in ("invert", "autocontrast", "equalize"):
        return getattr(ImageOps, name)(image, *([numbers[name]] if name in numbers else []))
    return image if name is None else getattr(ImageEnhance, name.title())(image).enhance(0.1 + 1.8 * share)


def test_the_policy_draws_its_outcomes_with_their_probabilities():
    image, draws = IMAGES["noise"][:16, :12] // 2 + 40, 2000
    found = outcomes(image)
    possible = np.stack([np.frombuffer(made, np.uint8) for made in found]).astype(np.int32)
    apply = jax.jit(jax.vmap(lambda key: autoaugment.apply(key, jnp.asarray(image, jnp.int32), 128)))
    made = np.asarray(apply(jax.random.split(jax.random.key(0), draws))).reshape(draws, -1)
    distance = np.stack([np.abs(possible - one).mean(axis=1) for one in made])
    assert distance.min(axis=1).max() <= 0.5  # each is one of Pillow's, a level more or less
    counts = np.bincount(distance.argmin(axis=1), minlength=len(found))
    expected = draws * np.array(list(found.values()))
    assert np.isclose(expected.sum(), draws)
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected) + 5)


PIXELS = RNG.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
BUILDERS = {
    "grayscale": (lambda rate: augment.grayscale(rate=rate), PIXELS[..., :1]),
    "rgb": (lambda rate: augment.rgb(rate=rate), PIXELS),
    "geometric": (lambda rate: augment.geometric(rate=rate), PIXELS),
    "geometric of two channels": (lambda rate: augment.geometric(rate=rate), PIXELS[..., :2]),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_key_decides_which_images_change_and_each_changes_in_its_own_way(name):
    builder, pixels = BUILDERS[name]
    change, places = builder(0.5)(pixels, 40), jnp.zeros(40, int)
    chosen, images = change(jax.random.key(1), places)
    assert len(np.unique(chosen)) == 20
    assert images.shape == (20, *pixels.shape[1:])
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 255
    assert len(np.unique(np.asarray(images).reshape(20, -1), axis=0)) > 10
    again, same = change(jax.random.key(1), places)
    np.testing.assert_array_equal(again, chosen)
    np.testing.assert_array_equal(same, images)
    other, different = change(jax.random.key(2), places)
    assert not np.array_equal(np.sort(other), np.sort(chosen))
    assert not np.array_equal(different, images)


@pytest.mark.parametrize(("rate", "count"), [(0.25, 5), (0.52, 10), (0.53, 11), (1.0, 20), (1, 20)])
def test_the_share_is_exact(rate, count):
    chosen, images = augment.grayscale(rate=rate)(PIXELS[..., :1], 20)(jax.random.key(0), jnp.arange(20))
    assert len(np.unique(chosen)) == len(images) == count


def test_images_of_rate_nothing_or_none_are_left_alone():
    assert augment.none()(PIXELS, 20) is None
    assert augment.none(rate=0)(PIXELS, 20) is None
    assert augment.rgb(rate=0)(PIXELS, 20) is None


def _sevenths(pixels):
    return (np.asarray(pixels) / 7).astype(np.float32)


def test_a_batch_keeps_its_other_images_and_labels_bit_for_bit():
    classes = np.arange(40) % 4
    x, y = jnp.asarray(PIXELS / 7, jnp.float32), support.one_hot(classes, 4)
    plain = distill.class_balanced_batches(x, y, classes, batch_size=20)
    change = augment.rgb(rate=0.3)(PIXELS, 20)
    mixed = distill.class_balanced_batches(x, y, classes, batch_size=20, change=change, apply=_sevenths)
    for seed in range(3):
        (x_plain, y_plain), (x_mixed, y_mixed) = plain(jax.random.key(seed)), mixed(jax.random.key(seed))
        np.testing.assert_array_equal(y_plain, y_mixed)
        differ = np.any(np.asarray(x_plain != x_mixed), axis=(1, 2, 3))
        assert 0 < differ.sum() <= 6
    same = distill.class_balanced_batches(
        x, y, classes, batch_size=20, change=lambda key, at: (jnp.arange(5), PIXELS[at[:5]]), apply=_sevenths
    )
    np.testing.assert_array_equal(same(jax.random.key(0))[0], plain(jax.random.key(0))[0])


@pytest.mark.parametrize(("degrees", "shift"), [(20.0, 0.0), (0.0, 0.1)])
def test_turns_and_shifts_fill_their_ranges(degrees, shift):
    """A dot right of the centre, followed by its centre of mass."""
    dot = np.zeros((1, 41, 41, 1), np.float32)
    dot[0, 20, 32] = 1
    change = augment.grayscale(rate=1.0, rotation_degrees=degrees, shift=shift)(dot, 300)
    images = np.asarray(change(jax.random.key(0), jnp.zeros(300, int))[1])[..., 0]
    down = (images.sum(axis=2) @ np.arange(41)) / images.sum(axis=(1, 2)) - 20
    right = (images.sum(axis=1) @ np.arange(41)) / images.sum(axis=(1, 2)) - 20
    moves = [np.degrees(np.arctan2(-down, right)) / 20] if degrees else [down / 4.1, (right - 12) / 4.1]
    for move in moves:  # uniform between -1 and 1
        assert 0.95 < move.max() < 1.03
        assert -1.03 < move.min() < -0.95
        assert abs(move.mean()) < 5 / np.sqrt(3 * 300)


@pytest.mark.parametrize("flip", [True, False])
def test_geometric_mirrors_half_of_what_it_augments(flip):
    change = augment.geometric(rate=1.0, rotation_degrees=0, shift=0, flip=flip)(PIXELS, 400)
    _, images = change(jax.random.key(0), jnp.zeros(400, int))
    kept = np.array([np.allclose(image, PIXELS[0], atol=1e-3) for image in images])
    mirrored = np.array([np.allclose(image, PIXELS[0, :, ::-1], atol=1e-3) for image in images])
    assert np.all(kept ^ mirrored)
    assert abs(mirrored.sum() - 200 * flip) <= 50 * flip


@pytest.mark.parametrize("rate", [-0.1, 1.01, float("nan"), "half", True, None])
@pytest.mark.parametrize("builder", [augment.none, augment.grayscale, augment.rgb, augment.geometric])
def test_rates_out_of_range_are_refused(builder, rate):
    with pytest.raises(checks.UserError, match=r"augment\.rate: expected a number from 0 to 1, got"):
        builder(rate=rate)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: augment.none(rate=0.5), r"augment=none augments nothing, expected 0, got 0\.5"),
        (lambda: augment.grayscale(rate=0.5, shift=2), r"augment\.shift: expected a number from 0 to 1, got 2"),
        (
            lambda: augment.grayscale(rate=0.5, rotation_degrees=-1),
            r"augment\.rotation_degrees: expected a number >= 0",
        ),
        (lambda: augment.grayscale(rate=0.5, rotation_degrees=181), "expected a number from 0 to 180, got 181"),
        (lambda: augment.geometric(rate=0.5, shift=2), r"augment\.shift: expected a number from 0 to 1, got 2"),
        (lambda: augment.rgb(rate=0.5, fill=256), r"augment\.fill: expected an integer from 0 to 255, got 256"),
        (lambda: augment.grayscale(rate=0.5)(PIXELS, 10), "grayscale is for images of 1 channel, .*take augment=rgb"),
        (
            lambda: augment.rgb(rate=0.5)(PIXELS[..., :1], 10),
            "rgb is for images of 3 channels, .*take augment=grayscale",
        ),
        (lambda: augment.grayscale(rate=0.5)(PIXELS[..., [0] * 4], 10), "take augment=geometric or none"),
        (lambda: augment.rgb(rate=0.5)(PIXELS / 255, 10), r"pixels from 0 to 255, got 0\.0 to 1\.0; rescale"),
        (lambda: augment.rgb(rate=0.5)(PIXELS - 128.0, 10), r"pixels from 0 to 255, got -128"),
        (lambda: augment.rgb(rate=0.1)(PIXELS, 4), r"augment\.rate: 0\.1 of target\.batch_size=4 rounds to no image"),
        (lambda: augment.rgb(rate=0.1)(PIXELS, 0), r"target\.batch_size: expected an integer >= 1, got 0"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(checks.UserError, match=message):
        build()
