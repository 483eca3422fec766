"""What is minimized over the support set. The engine never sees a loss, the objective never sees a device."""

import jax.numpy as jnp

from kipx import checks, krr

METRICS = ("train_loss", "train_accuracy", "train_rkhs_norm")  # the last where the norm has a weight
UNIT_IMAGES = 50  # of the targets, that the unit of RKHS norms is taken from


def kip(engine, *, ridge, rkhs_weight=0.0, targets=None):
    """Kernel Inducing Points: the KRR loss from support to a batch of targets, with its gradient.

    The small part (solve, loss, its derivatives by the Gram matrices) is differentiated as one; the large part, the
    kernel itself, goes block by block through the engine's vjp.

    With rkhs_weight the loss has a term more: half of it times the squared RKHS norm of the predictor, a mean over
    classes, in units of 1 / mean k(x, x) over targets. What a network of finite width predicts differs from KRR the
    more, the larger that norm is.

    Args:
      engine: kipx.engine.Engine.
      ridge: > 0, dimensionless.
      rkhs_weight: >= 0, dimensionless.
      targets: (n, h, w, c) images, of which the first are the unit of norms; None without rkhs_weight.
    Returns:
      (x_support, y_support, x_target, y_target) -> (metrics, g_images, g_labels), metrics being METRICS: half the mean
      squared error, the accuracy and, with rkhs_weight, the squared norm that it weighs.
    Source: paper eq. (1) and section 2.1; the norm is not in the paper.
    """
    checks.positive("ridge", ridge)
    unit = weighed_unit(engine, rkhs_weight, targets)

    def value_and_grad(x_support, y_support, x_target, y_target):
        k_ss, k_ts = engine.gram(x_support), engine.gram(x_target, x_support)
        (loss, predictions), cotangents = krr.value_and_cotangents(
            k_ss, k_ts, y_support, y_target, ridge=ridge, rkhs_weight=rkhs_weight * unit
        )
        ct_ss, ct_ts, g_labels = cotangents
        g_images = engine.vjp(x_support, None, ct_ss) + engine.vjp(x_target, x_support, ct_ts)
        measured = [loss, krr.accuracy(predictions, y_target)]
        if rkhs_weight:
            measured.append(unit * krr.squared_norm(k_ss, y_support, ridge=ridge))
        return dict(zip(METRICS, measured, strict=False)), g_images, g_labels

    return value_and_grad


def rkhs_norm(engine, x_support, y_support, *, targets, ridge):
    """The squared RKHS norm of a set's predictor, as `kip` weighs it: a mean over classes, dimensionless.

    Args:
      engine, targets, ridge: as for `kip`.
      x_support, y_support: (n_s, h, w, c) images and (n_s, classes) labels.
    """
    return float(norm_unit(engine, targets) * krr.squared_norm(engine.gram(x_support), y_support, ridge=ridge))


def weighed_unit(engine, rkhs_weight, targets):
    """norm_unit, or 0.0 where the norm has no weight and nothing is to be computed."""
    checks.not_negative("rkhs_weight", rkhs_weight)
    if rkhs_weight and targets is None:
        raise checks.UserError("targets: expected images beside rkhs_weight, whose unit they are, got none")
    return norm_unit(engine, targets) if rkhs_weight else 0.0


def norm_unit(engine, targets):
    """Mean k(x, x) over the first targets, each image by itself: that needs no memory."""
    each = [engine.gram(jnp.asarray(targets[i : i + 1])) for i in range(min(UNIT_IMAGES, len(targets)))]
    return float(jnp.mean(jnp.stack(each)))
