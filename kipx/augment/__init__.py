"""Augmentation of targets: a share of each batch is changed at random, as raw pixels, then preprocessed.

Each builder returns `augment(pixels, batch_size)`: from the training pixels (n, h, w, c) and the images in a batch to a
`change` for `distill.class_balanced_batches`, or None where nothing changes. `change(key, places)` takes the places of
a batch among the training pixels and returns which of the batch are augmented, exactly round(rate * batch_size) of
them, drawn without replacement, and their new pixels, float32. Each image has its own key, and the same key gives the
same bits. The others stay as they are.

Pixels are augmented and then preprocessed, which equals the authors' undo, augment, preprocess again wherever
preprocessing can be undone, and works where it cannot.
"""

import jax
import numpy as np

from kipx import checks


def none(*, rate: float = 0.0):
    """Targets as they are.

    Args:
      rate: 0; any other share needs a choice of what to do.
    Returns:
      augment, see the module; its change is None.
    """
    if checks.share("augment.rate", rate):
        raise checks.UserError(
            f"augment.rate: augment=none augments nothing, expected 0, got {rate}; take another, as augment=geometric"
        )
    return lambda pixels, batch_size: None


def grayscale(*, rate: float, rotation_degrees: float = 10.0, shift: float = 0.1):
    """Turns and shifts images of one channel, bilinear, edges repeated.

    Args:
      rate: the share of a batch, 0 to 1.
      rotation_degrees: 0 to 180; angles are uniform between minus and plus this.
      shift: 0 to 1; shifts along each axis are uniform between minus and plus this share of the side.
    Returns:
      augment, see the module.
    Raises:
      UserError: a number out of range; from augment, images of other than one channel.
    Source: paper section 3.1; the ranges are the likely ones, the paper does not say.
    """
    transform = _turn_and_shift(rotation_degrees, shift)
    return of_a_share(transform, rate, lambda pixels: _check_channels("grayscale", pixels, 1))


def geometric(*, rate: float, rotation_degrees: float = 10.0, shift: float = 0.1, flip: bool = True):
    """Turns and shifts images of any number of channels, bilinear, edges repeated, then mirrors them by chance.

    Args:
      rate: the share of a batch, 0 to 1.
      rotation_degrees: 0 to 180; angles are uniform between minus and plus this.
      shift: 0 to 1; shifts along each axis are uniform between minus and plus this share of the side.
      flip: whether each augmented image is mirrored left to right with probability 1/2.
    Returns:
      augment, see the module.
    Raises:
      UserError: a number out of range.
    Source: the kinds of change that the authors' KIP notebook offers, but for its shift of channels.
    """
    from kipx.augment import geometry

    moved = _turn_and_shift(rotation_degrees, shift)

    def transform(key, image):
        key_flip, key_move = jax.random.split(key)
        image = moved(key_move, image)
        return geometry.mirror_by_chance(key_flip, image) if flip else image

    return of_a_share(transform, rate, lambda pixels: None)


def rgb(*, rate: float, flip: bool = True, fill: int = 128):
    """Mirrors images of three channels by chance, then applies AutoAugment's policy for CIFAR-10.

    Args:
      rate: the share of a batch, 0 to 1.
      flip: whether each augmented image is mirrored left to right with probability 1/2.
      fill: 0 to 255, the level of what a shift, shear or turn uncovers.
    Returns:
      augment, see the module; pixels are rounded to whole levels first, as the policy's operations work on these.
    Raises:
      UserError: a number out of range; from augment, images of other than three channels or pixels not 0 to 255.
    Source: paper section 3.1; Cubuk et al., AutoAugment, 2018.
    """
    from kipx.augment import autoaugment, geometry

    if checks.integer("augment.fill", fill, at_least=0) > 255:
        raise checks.UserError(f"augment.fill: expected an integer from 0 to 255, got {fill}")

    def transform(key, image):
        key_flip, key_policy = jax.random.split(key)
        levels = jax.numpy.round(image).astype(np.int32)
        if flip:
            levels = geometry.mirror_by_chance(key_flip, levels)
        return autoaugment.apply(key_policy, levels, fill).astype(np.float32)

    return of_a_share(transform, rate, _check_levels)


def _turn_and_shift(rotation_degrees, shift):
    """(key, image) -> the image, turned and shifted by no more than that."""
    from kipx.augment import geometry  # on dm-pix, which not every machine with JAX has

    checks.share("augment.shift", shift)
    if checks.not_negative("augment.rotation_degrees", rotation_degrees) > 180:
        raise checks.UserError(f"augment.rotation_degrees: expected a number from 0 to 180, got {rotation_degrees}")

    def transform(key, image):
        key_angle, key_shift = jax.random.split(key)
        angle = jax.random.uniform(key_angle, (), np.float32, -1, 1) * np.float32(np.radians(rotation_degrees))
        shares = jax.random.uniform(key_shift, (2,), np.float32, -1, 1) * np.float32(shift)
        return geometry.turn_and_shift(image, angle, shares * np.asarray(image.shape[:2], np.float32))

    return transform


def of_a_share(transform, rate, check):
    """Builds an augmentation from what is done to one image.

    Args:
      transform: (key, pixels (h, w, c) float32) -> pixels of that shape; jit-safe, random by the key alone.
      rate: the share of a batch, 0 to 1.
      check: training pixels -> None; raises UserError for images that the transform is not for.
    Returns:
      augment, see the module.
    Raises:
      UserError: a share out of range; from augment, one that rounds to no image of a batch.
    """
    checks.share("augment.rate", rate)
    of_all = jax.jit(lambda keys, images: jax.lax.map(lambda one: transform(*one), (keys, images)))

    def augment(pixels, batch_size):
        check(pixels)
        count = round(rate * checks.integer("target.batch_size", batch_size, at_least=1))
        if rate and not count:
            raise checks.UserError(
                f"augment.rate: {rate} of target.batch_size={batch_size} rounds to no image; raise one of them"
            )
        return _change(of_all, pixels, count) if count else None

    return augment


def _change(of_all, pixels, count):
    def change(key, places):
        key_which, key_how = jax.random.split(key)
        chosen = jax.random.permutation(key_which, len(places))[:count]
        images = pixels[np.asarray(places[chosen])].astype(np.float32)
        host = jax.local_devices(backend="cpu")[0]  # where pixels and preprocessing are
        return chosen, of_all(*jax.device_put((jax.random.split(key_how, count), images), host))

    return change


_FITTING = {1: "grayscale", 3: "rgb"}


def _check_channels(name, pixels, channels):
    if pixels.shape[-1] != channels:
        raise checks.UserError(
            f"augment: {name} is for images of {channels} channel{'s' if channels > 1 else ''}, "
            f"got {pixels.shape[1:]}; take augment={_FITTING.get(pixels.shape[-1], 'geometric')} or none"
        )


def _check_levels(pixels):
    _check_channels("rgb", pixels, 3)
    checks.byte_levels("augment: rgb", pixels)
