"""The linear maps on pairs of positions against loops over the pairs, and their transposes against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kipx.kernel.bands import Band, diagonal, pool_sum, pooled, spread, window_sum
from kipx.kernel.relu import _arccos, relu

BANDS = [Band(7, 3), Band(6, 5), Band(5, 0), Band(1, 0), Band(8, 3)]


def pairs(band):
    return list(zip(band.first.tolist(), band.second.tolist(), strict=True))


@pytest.mark.parametrize("band", BANDS)
def test_a_band_holds_each_pair_within_the_radius_once(band):
    wanted = {(a, b) for a in range(band.side) for b in range(band.side) if abs(a - b) <= band.radius}
    assert set(pairs(band)) == wanted
    assert len(pairs(band)) == len(wanted)


def test_the_papers_convnet_needs_424_pairs_a_side():
    assert len(Band(32, 7).first) == 424
    assert len(Band(28, 7).first) == 364


def maps(band):
    """name: (function on axis 0, the same by a loop over pairs)."""
    places = {pair: i for i, pair in enumerate(pairs(band))}

    def slow_window(x):
        steps = (-1, 0, 1)
        return [sum(x[places[a + s, b + s]] for s in steps if (a + s, b + s) in places) for a, b in pairs(band)]

    def slow_pool(x):
        above = pairs(pooled(band, 2))
        return [sum(x[places[2 * a + i, 2 * b + j]] for i in (0, 1) for j in (0, 1)) for a, b in above]

    chosen = {"window": (lambda x: window_sum(x, band, 0, 3), slow_window, len(places))}
    if band.radius % 2 and band.side > 1:
        chosen["pool"] = (lambda x: pool_sum(x, band, 0, 2), slow_pool, len(places))
    chosen["first"] = (lambda x: spread(x, band, 0, 0), lambda x: [x[a] for a, _ in pairs(band)], band.side)
    chosen["second"] = (lambda x: spread(x, band, 0, 1), lambda x: [x[b] for _, b in pairs(band)], band.side)
    chosen["diagonal"] = (
        lambda x: diagonal(x, band, 0),
        lambda x: [x[places[a, a]] for a in range(band.side)],
        len(places),
    )
    return chosen


@pytest.mark.parametrize(("band", "name"), [(band, name) for band in BANDS for name in maps(band)])
def test_each_map_and_its_transpose(band, name):
    function, slow, length = maps(band)[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(length, 2)))
    y, pull = jax.vjp(function, x)
    np.testing.assert_allclose(y, np.array(slow(np.asarray(x))), rtol=1e-12)
    ct = jnp.asarray(rng.normal(size=y.shape))
    assert float(jnp.vdot(ct, y)) == pytest.approx(float(jnp.vdot(pull(ct)[0], x)), rel=1e-12)


def test_arccos_is_good_to_rounding():
    x = np.concatenate([np.linspace(0, 1, 1001), 1 - 10.0 ** -np.arange(1, 15)])
    truth = 2 * np.arctan2(np.sqrt(1 - x), np.sqrt(1 + x))
    np.testing.assert_allclose(_arccos(jnp.asarray(x)), truth, rtol=3e-14)
    single = x.astype(np.float32)
    truth = 2 * np.arctan2(np.sqrt(1 - single.astype(float)), np.sqrt(1 + single.astype(float)))
    np.testing.assert_allclose(_arccos(jnp.asarray(single)), truth, rtol=3e-7)


def test_relu_moments_equal_a_monte_carlo_average():
    rng = np.random.default_rng(0)
    u, v = rng.multivariate_normal([0, 0], [[1.5, -0.6], [-0.6, 0.8]], size=2_000_000).T
    nngp, ntk = relu(*(jnp.asarray([a]) for a in (-0.6, 2.0, np.sqrt(1.5), np.sqrt(0.8))))
    assert float(nngp[0]) == pytest.approx(np.mean(np.maximum(u, 0) * np.maximum(v, 0)), abs=1e-3)
    assert float(ntk[0]) == pytest.approx(2 * np.mean((u > 0) & (v > 0)), abs=2e-3)
