"""The kernel of two images over all pairs of positions, in NumPy, one formula after the other: an independent truth."""

import numpy as np

from kipx.architecture import AvgPool, Conv, Dense, Flatten, Relu


def kernel(architecture, x1, x2, kind):
    """Scalar kernel of two (h, w, c) images, float64 (extended where the machine has it)."""
    images = [np.asarray(x, np.longdouble) for x in (x1, x2)]
    k = {(a, b): np.einsum("yxc,zwc->yxzw", images[a], images[b]) / images[0].shape[-1] for a in (0, 1) for b in (0, 1)}
    t = np.zeros_like(k[0, 1])
    for layer in architecture:
        if isinstance(layer, Relu):
            t, k = _relu(k, t)
        elif isinstance(layer, Conv | Dense):
            size = layer.size if isinstance(layer, Conv) else 1
            k = {pair: layer.w_std**2 * _window(v, size) + layer.b_std**2 for pair, v in k.items()}
            t = k[0, 1] + layer.w_std**2 * _window(t, size)
        elif isinstance(layer, AvgPool):
            k, t = {pair: _pool(v, layer.size) for pair, v in k.items()}, _pool(t, layer.size)
        else:
            collapse = _diagonal_mean if isinstance(layer, Flatten) else (lambda v: v.mean(keepdims=True))
            k, t = {pair: collapse(v) for pair, v in k.items()}, collapse(t)
    return float((t if kind == "ntk" else k[0, 1]).item())


def _relu(k, t):
    out, factors = {}, {}
    for (a, b), c in k.items():
        v1 = np.einsum("yxyx->yx", k[a, a])[:, :, None, None]
        v2 = np.einsum("yxyx->yx", k[b, b])[None, None]
        equal = (c == v1) & (c == v2) & (c > 0)
        scale = np.sqrt(v1 * v2)
        cosine = np.clip(np.where(scale > 0, c / np.where(scale > 0, scale, 1), 0), -1, 1)
        angle = np.where(equal, 0, np.arctan2(np.sqrt((1 - cosine) * (1 + cosine)), cosine))
        factors[a, b] = (np.longdouble(np.pi) - angle) / (2 * np.longdouble(np.pi))
        out[a, b] = scale * np.sin(angle) / (2 * np.longdouble(np.pi)) + factors[a, b] * c
    return t * factors[0, 1], out


def _window(k, size):
    h, w = k.shape[:2]
    total = np.zeros_like(k)
    for dy in range(-(size // 2), size // 2 + 1):
        for dx in range(-(size // 2), size // 2 + 1):
            ys, xs = slice(max(0, -dy), min(h, h - dy)), slice(max(0, -dx), min(w, w - dx))
            yt, xt = slice(max(0, dy), min(h, h + dy)), slice(max(0, dx), min(w, w + dx))
            total[ys, xs, ys, xs] += k[yt, xt, yt, xt]
    return total / size**2


def _pool(k, size):
    h, w = k.shape[0] // size, k.shape[1] // size
    k = k[: h * size, : w * size, : h * size, : w * size]
    return k.reshape(h, size, w, size, h, size, w, size).mean(axis=(1, 3, 5, 7))


def _diagonal_mean(k):
    return np.einsum("yxyx->yx", k).mean().reshape(1, 1, 1, 1)
