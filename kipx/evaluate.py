"""Test accuracy of kernel ridge regression from a support set."""

import jax.numpy as jnp
import numpy as np

from kipx import checks, krr

BATCH = 1000


def build(engine, x_test, y_test, *, ridge, batch=BATCH, keep=False):
    """Builds the evaluation of support sets on one test set, `batch` rows of the Gram matrix at a time.

    Args:
      engine: kipx.engine.Engine.
      x_test: (n, h, w, c) preprocessed images.
      y_test: (n, c) centred one-hot labels.
      ridge: > 0, dimensionless.
      batch: rows of k_ts held at once; the last one is filled up from the front, so that one compilation serves all.
      keep: whether the Gram matrices of the last images stay in memory, for other labels of the same.
    Returns:
      (x_support, y_support) -> {'test_accuracy': in [0, 1], 'test_mse': 0.5 * mean squared error} and what
      `krr.condition` tells.
    Raises:
      UserError: there are no test images.
      NumericalError: as `krr.condition`, or the error is not finite.
    Source: paper section 3.1.
    """
    n = x_test.shape[0]
    if n == 0:
        raise checks.UserError("x_test: expected test images, got none")
    batch = min(batch, n)
    starts = [min(start, n - batch) for start in range(0, n, batch)]

    last = [None, None]

    def rows(x_support):
        if x_support is last[0]:
            return last[1]
        found = ((s, engine.gram(x_test[s : s + batch], x_support)) for s in starts)
        if keep:
            found = list(found)
            last[:] = x_support, found
        return found

    def evaluate(x_support, y_support):
        k_ss = engine.gram(x_support)
        condition = krr.condition(k_ss, ridge=ridge)
        alpha = krr.solve(k_ss, y_support, ridge=ridge)
        parts = {s: k.astype(jnp.float64) @ alpha for s, k in rows(x_support)}
        kept = [parts[s][at - s :] for s, at in zip(starts, range(0, n, batch), strict=True)]
        predictions = jnp.concatenate(kept)
        test_mse = float(krr.half_mse(predictions, y_test))
        if not np.isfinite(test_mse):
            raise checks.NumericalError(
                f"the test error is {test_mse}: predictions are beyond all numbers; "
                "raise ridge or set kernel.dtype=float64"
            )
        return {"test_accuracy": float(krr.accuracy(predictions, y_test)), "test_mse": test_mse, **condition}

    return evaluate


def remembering(evaluate):
    """The evaluation that does not repeat itself where it is asked for the set it measured last.

    Args, Returns: as what `build` returns; sets are equal if they are the same JAX arrays, which nobody can change.
    """
    last = [None, None, None]

    def once(x_support, y_support):
        if x_support is not last[0] or y_support is not last[1]:
            last[:] = x_support, y_support, evaluate(x_support, y_support)
        return dict(last[2])

    return once
