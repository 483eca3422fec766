"""AutoAugment's policy for CIFAR-10: 25 pairs of operations, one pair drawn for each image."""

from functools import partial

import jax
import jax.numpy as jnp

from kipx.augment import geometry, tones

# Each: operation, probability, level 0 to 9; twice.
POLICY = (
    ("invert", 0.1, 7, "contrast", 0.2, 6),
    ("rotate", 0.7, 2, "translate_x", 0.3, 9),
    ("sharpness", 0.8, 1, "sharpness", 0.9, 3),
    ("shear_y", 0.5, 8, "translate_y", 0.7, 9),
    ("autocontrast", 0.5, 8, "equalize", 0.9, 2),
    ("shear_y", 0.2, 7, "posterize", 0.3, 7),
    ("color", 0.4, 3, "brightness", 0.6, 7),
    ("sharpness", 0.3, 9, "brightness", 0.7, 9),
    ("equalize", 0.6, 5, "equalize", 0.5, 1),
    ("contrast", 0.6, 7, "sharpness", 0.6, 5),
    ("color", 0.7, 7, "translate_x", 0.5, 8),
    ("equalize", 0.3, 7, "autocontrast", 0.4, 8),
    ("translate_y", 0.4, 3, "sharpness", 0.2, 6),
    ("brightness", 0.9, 6, "color", 0.2, 8),
    ("solarize", 0.5, 2, "invert", 0.0, 3),
    ("equalize", 0.2, 0, "autocontrast", 0.6, 0),
    ("equalize", 0.2, 8, "equalize", 0.6, 4),
    ("color", 0.9, 9, "equalize", 0.6, 6),
    ("autocontrast", 0.8, 4, "solarize", 0.2, 8),
    ("brightness", 0.1, 3, "color", 0.7, 0),
    ("solarize", 0.4, 5, "autocontrast", 0.9, 3),
    ("translate_y", 0.9, 9, "translate_y", 0.7, 9),
    ("autocontrast", 0.9, 2, "solarize", 0.8, 3),
    ("equalize", 0.8, 8, "invert", 0.1, 3),
    ("translate_y", 0.7, 9, "autocontrast", 0.9, 1),
)

# Each: (image, level, sign, fill) -> image. Shifts are in pixels of a side of 32, and in proportion for others.
OPERATIONS = {
    "shear_y": lambda image, level, sign, fill: geometry.shear_y(image, sign * 0.03 * level, fill),
    "translate_x": lambda image, level, sign, fill: geometry.translate(image, _shift(image, 1, sign * level), fill),
    "translate_y": lambda image, level, sign, fill: geometry.translate(image, _shift(image, 0, sign * level), fill),
    "rotate": lambda image, level, sign, fill: geometry.rotate(image, jnp.radians(3.0 * sign * level), fill),
    "invert": lambda image, level, sign, fill: tones.invert(image),
    "autocontrast": lambda image, level, sign, fill: tones.autocontrast(image),
    "equalize": lambda image, level, sign, fill: tones.equalize(image),
    "solarize": lambda image, level, sign, fill: tones.solarize(image, 256 - 256 * level // 10),
    "posterize": lambda image, level, sign, fill: tones.posterize(image, 4 - 4 * level // 10),
    "contrast": lambda image, level, sign, fill: tones.contrast(image, 0.1 + 0.18 * level),
    "color": lambda image, level, sign, fill: tones.color(image, 0.1 + 0.18 * level),
    "brightness": lambda image, level, sign, fill: tones.brightness(image, 0.1 + 0.18 * level),
    "sharpness": lambda image, level, sign, fill: tones.sharpness(image, 0.1 + 0.18 * level),
}


def apply(key, image, fill):
    """Draws one of the 25 pairs and applies its two operations, each with its probability and a random sign.

    Levels mean what they mean in the authors' code: tenths of each operation's range.

    Args:
      key: JAX key.
      image: (h, w, 3) int32, 0 to 255.
      fill: level of what a shift, shear or turn uncovers.
    Returns:
      (h, w, 3) int32, 0 to 255.
    Source: Cubuk et al., AutoAugment, 2018, the appendix's table for CIFAR-10; ranges as in the authors' code, whose
      posterize keeps 4 - 4 * level / 10 bits where the paper says 4 to 8. They fill with the data set's mean color.
    """
    key_pair, *keys = jax.random.split(key, 3)
    pair = jax.random.randint(key_pair, (), 0, len(POLICY))
    for i, key_i in enumerate(keys):
        names, probabilities, levels = zip(*(row[3 * i : 3 * i + 3] for row in POLICY), strict=True)
        numbers = jnp.asarray([list(OPERATIONS).index(name) for name in names], jnp.int32)
        chances, levels = jnp.asarray(probabilities, jnp.float32), jnp.asarray(levels, jnp.int32)
        image = _perhaps(key_i, image, numbers[pair], chances[pair], levels[pair], fill)
    return image


def _perhaps(key, image, number, probability, level, fill):
    key_use, key_sign = jax.random.split(key)
    used = jax.random.uniform(key_use, (), jnp.float32) < probability
    sign = 2 * jax.random.bernoulli(key_sign).astype(jnp.int32) - 1
    branches = [lambda image, *_: image, *(partial(operation, fill=fill) for operation in OPERATIONS.values())]
    return jax.lax.switch(jnp.where(used, 1 + number, 0), branches, image, level, sign)


def _shift(image, axis, level):
    return jnp.zeros(2, jnp.float32).at[axis].set(jnp.round(level * jnp.float32(image.shape[axis] / 32)))
