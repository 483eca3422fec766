"""What is minimized over the support set. The engine never sees a loss, the objective never sees a device."""

from kipx import checks, krr


def kip(engine, *, ridge):
    """Kernel Inducing Points: the KRR loss from support to a batch of targets, with its gradient.

    The small part (solve, loss, its derivatives by the Gram matrices) is differentiated as one; the large part, the
    kernel itself, goes block by block through the engine's vjp.

    Args:
      engine: kipx.engine.Engine.
      ridge: > 0, dimensionless.
    Returns:
      (x_support, y_support, x_target, y_target) -> (metrics, g_images, g_labels), metrics being `train_loss` and
      `train_accuracy`.
    Source: paper eq. (1) and section 2.1.
    """
    checks.positive("ridge", ridge)

    def value_and_grad(x_support, y_support, x_target, y_target):
        k_ss, k_ts = engine.gram(x_support), engine.gram(x_target, x_support)
        (loss, predictions), cotangents = krr.value_and_cotangents(k_ss, k_ts, y_support, y_target, ridge=ridge)
        ct_ss, ct_ts, g_labels = cotangents
        g_images = engine.vjp(x_support, None, ct_ss) + engine.vjp(x_target, x_support, ct_ts)
        return {"train_loss": loss, "train_accuracy": krr.accuracy(predictions, y_target)}, g_images, g_labels

    return value_and_grad
