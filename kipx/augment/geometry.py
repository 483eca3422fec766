"""Where pixels come from: turns, shifts and shears of one image (h, w, c), all channels alike."""

import dm_pix
import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def turn_and_shift(image, angle, shift):
    """Turns an image around its centre, then shifts it; bilinear, pixels beyond the edge are the edge's.

    Args:
      image: (h, w, c) float.
      angle: radians, counter-clockwise.
      shift: (2,) pixels, down and right.
    Returns:
      (h, w, c) float.
    """
    centre = (jnp.asarray(image.shape[:2], image.dtype) - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([cos, sin, -sin, cos]).reshape(2, 2).astype(image.dtype)
    return _pull(image, turn, centre - turn @ (centre + shift), order=1, mode="nearest")


def rotate(image, angle, fill):
    """Turns (h, w, c) around its centre by radians, counter-clockwise; nearest pixel, `fill` from outside."""
    centre = (jnp.asarray(image.shape[:2], jnp.float32) - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([cos, sin, -sin, cos]).reshape(2, 2).astype(jnp.float32)
    return _pull(image, turn, centre - turn @ centre, mode="constant", cval=fill)


def shear_y(image, slope, fill):
    """Pulls column x of (h, w, c) up by slope * (x + 1/2); nearest pixel, `fill` from outside."""
    slope = jnp.asarray(slope, jnp.float32)
    matrix = jnp.eye(2, dtype=jnp.float32).at[0, 1].set(slope)
    return _pull(image, matrix, jnp.zeros(2, jnp.float32).at[0].set(slope / 2), mode="constant", cval=fill)


def translate(image, offset, fill):
    """(h, w, c) whose pixel (y, x) was at (y, x) + offset, (2,) pixels; `fill` from outside."""
    return _pull(image, jnp.eye(2, dtype=jnp.float32), jnp.asarray(offset, jnp.float32), mode="constant", cval=fill)


def mirror_by_chance(key, image):
    """(h, w, c), mirrored left to right with probability 1/2."""
    return dm_pix.random_flip_left_right(key, image)


def _pull(image, matrix, offset, *, order=0, mode, cval=0):
    """The image whose pixel p is the given one's at matrix @ p + offset, p = (y, x).

    In the plane: dm-pix's affine_transform interpolates between channels too, and takes many times as long.
    """
    places = jnp.tensordot(matrix, jnp.indices(image.shape[:2]), 1) + offset[:, None, None]
    pull = jax.vmap(lambda plane: map_coordinates(plane, places, order, mode, cval), in_axes=-1, out_axes=-1)
    return pull(image)
