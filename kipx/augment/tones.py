"""What becomes of levels: operations on one image (h, w, c) int32, 0 to 255, as Pillow defines them on bytes."""

import jax
import jax.numpy as jnp


def invert(image):
    """255 minus each level."""
    return 255 - image


def solarize(image, threshold):
    """Inverts levels from the threshold up."""
    return jnp.where(image < threshold, image, 255 - image)


def posterize(image, bits):
    """Keeps the upper bits of each level."""
    return image >> (8 - bits) << (8 - bits)


def autocontrast(image):
    """Stretches each channel to 0 to 255; a constant one stays."""
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    return jnp.where(high > low, 255 * (image - low) // jnp.maximum(high - low, 1), image)


def equalize(image):
    """Spreads each channel's levels so that their counts below are about even; one of few levels stays."""
    return jax.vmap(_equalize, in_axes=-1, out_axes=-1)(image)


def _equalize(channel):
    counts = jnp.zeros(256, jnp.int32).at[channel].add(1)
    step = (channel.size - counts[channel.max()]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[channel], channel)


def brightness(image, factor):
    """From black (0) through the image (1) and beyond."""
    return _blend(0, image, factor)


def contrast(image, factor):
    """From the mean gray (0) through the image (1) and beyond."""
    gray = _gray(image)
    mean = (2 * gray.sum() + gray.size) // (2 * gray.size)
    return _blend(mean, image, factor)


def color(image, factor):
    """From gray (0) through the image (1) and beyond; three channels."""
    return _blend(_gray(image), image, factor)


def sharpness(image, factor):
    """From smoothed (0) through the image (1) and beyond; the outermost pixels stay."""
    return _blend(_smooth(image), image, factor)


def _blend(start, image, factor):
    mixed = start + jnp.float32(factor) * (image - start).astype(jnp.float32)
    return jnp.clip(mixed, 0, 255).astype(jnp.int32)


def _gray(image):
    """(h, w, 1): luma as in ITU-R 601, in sixteen bits."""
    weights = jnp.asarray([19595, 38470, 7471], jnp.int32)
    return (image @ weights + 32768 >> 16)[..., None]


def _smooth(image):
    """The mean of 3x3 pixels, the middle one five times, rounded."""
    h, w, _ = image.shape
    if min(h, w) < 3:
        return image
    window = sum(image[y : y + h - 2, x : x + w - 2] for y in range(3) for x in range(3))
    inner = image[1:-1, 1:-1]
    return image.at[1:-1, 1:-1].set((2 * (window + 4 * inner) + 13) // 26)
