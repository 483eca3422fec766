"""Finite networks and their training, against loops in NumPy, dense matrices and the kernel itself."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kipx import checks
from kipx.architecture import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, convnet, convvec, fc, myrtle
from kipx.finite import empirical, losses, spread, train
from kipx.finite import network as build
from kipx.kernel import build as build_kernel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5, 4, 2)).astype(np.float32)
ARCHITECTURES = {
    "convnet": convnet(depth=2, b_std=0.3),
    "convvec": convvec(depth=2),
    "fc": fc(depth=2),
    "pooled": (Conv(3, 1.2, 0.5), Relu(), AvgPool(2), Dense(1.1, 0.2), Relu(), GlobalAvgPool(), Dense(0.9, 0.4)),
}


def by_hand(layers, parameters, x, scaled):
    """The network by loops over positions, without normalization."""
    for layer, own in zip(layers, parameters, strict=True):
        if isinstance(layer, Conv | Dense):
            size = layer.size if isinstance(layer, Conv) else 1
            weights, biases = (np.asarray(own[key], np.float64) for key in ("weights", "biases"))
            factors = (layer.w_std / np.sqrt(len(weights)), layer.b_std) if scaled else (1, 1)
            x = x if x.ndim == 4 else x[:, None, None]
            n, h, w, _ = x.shape
            padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
            out = np.zeros((n, h, w, weights.shape[1]))
            for i, row, column in itertools.product(range(n), range(h), range(w)):
                window = padded[i, row : row + size, column : column + size].ravel()
                out[i, row, column] = factors[0] * window @ weights + factors[1] * biases
            x = out if isinstance(layer, Conv) or h * w > 1 else out[:, 0, 0]
        elif isinstance(layer, Relu):
            x = np.maximum(x, 0)
        elif isinstance(layer, AvgPool):
            n, h, w, c = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
        else:
            x = x.reshape(len(x), -1) if isinstance(layer, Flatten) else x.mean(axis=(1, 2))
    return x


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_is_its_layers(name, parameterization):
    net = build(ARCHITECTURES[name], width=3, classes=2, parameterization=parameterization)
    variables = net.init(jax.random.key(1), X)
    weights = iter([*variables["params"]["body"].values(), variables["params"]["readout"]])
    own = [next(weights) if isinstance(layer, Conv | Dense) else None for layer in ARCHITECTURES[name]]
    expected = by_hand(ARCHITECTURES[name], own, X.astype(np.float64), parameterization == "ntk")
    np.testing.assert_allclose(net.apply(variables, X), expected, rtol=2e-5, atol=1e-5)


def test_parameters_decide_the_precision():
    net = build(ARCHITECTURES["pooled"], width=3)
    variables = net.init(jax.random.key(1), X.astype(np.float64))
    outputs = net.apply(variables, X)
    assert outputs.dtype == net.apply(variables, X.astype(np.float64)).dtype == np.float32
    exact = net.apply(jax.tree.map(lambda array: array.astype("float64"), variables), X)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(outputs, exact, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_weights_start_with_the_variance_of_the_kernel(parameterization):
    net = build((Conv(3, 1.5, 0.7), Relu(), Flatten(), Dense()), width=4000, parameterization=parameterization)
    first = net.init(jax.random.key(0), X)["params"]["body"]["Weights_0"]
    scale = (1.5 / np.sqrt(18), 0.7) if parameterization == "standard" else (1, 1)
    assert first["weights"].shape == (18, 4000)
    np.testing.assert_allclose([first["weights"].std(), first["biases"].std()], scale, rtol=0.03)


@pytest.mark.parametrize(("kind", "axes"), [("layer", (1, 2, 3)), ("instance", (1, 2)), ("batch", (0, 1, 2))])
def test_normalization_is_over_its_axes_before_each_relu(kind, axes):
    architecture = (Conv(3), Relu(), Flatten(), Dense())
    net, plain = (build(architecture, width=6, normalization=n) for n in (kind, "none"))
    variables = net.init(jax.random.key(0), X)
    before = by_hand(architecture[:1], [variables["params"]["body"]["Weights_0"]], X.astype(np.float64), False)
    normal = (before - before.mean(axes, keepdims=True)) / np.sqrt(before.var(axes, keepdims=True) + 1e-6)
    found, _ = net.apply(variables, X, train=True, mutable=["batch_stats"], method="features")
    np.testing.assert_allclose(found, np.maximum(normal, 0).reshape(3, -1), rtol=1e-3, atol=2e-4)
    assert plain.apply(plain.init(jax.random.key(0), X), X).shape == (3, 10)


def test_batch_normalization_keeps_running_statistics():
    net = build((Conv(3), Relu(), Flatten(), Dense()), width=6, normalization="batch")
    variables = net.init(jax.random.key(0), X)
    _, moved = net.apply(variables, X, train=True, mutable=["batch_stats"])
    (own,) = moved["batch_stats"]["body"].values()
    before = by_hand((Conv(3),), [variables["params"]["body"]["Weights_0"]], X.astype(np.float64), False)
    np.testing.assert_allclose(own["mean"], 0.1 * before.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own["var"], 0.9 + 0.1 * before.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "choices", "message"),
    [
        (fc(depth=1), {"width": 0}, r"network\.width: expected an integer >= 1, got 0"),
        (fc(depth=1), {"width": 2, "parameterization": "mup"}, r"network\.parameterization: expected one of standard"),
        (fc(depth=1), {"width": 2, "normalization": "group"}, r"network\.normalization: expected one of none, layer"),
        (fc(depth=1), {"width": 2, "normalization": "instance"}, "of which this architecture has none; take layer"),
        ((Flatten(), Dense(), Relu()), {"width": 2}, r"ends in Dense, got Relu"),
        ((Dense(),), {"width": 2}, "expected one Flatten or GlobalAvgPool"),
    ],
)
def test_what_is_no_network_is_refused(architecture, choices, message):
    with pytest.raises(checks.UserError, match=message):
        build(architecture, **choices)


@pytest.mark.parametrize("name", ["mse", "cross_entropy", "soft_cross_entropy"])
def test_the_largest_curvature_is_that_of_the_dense_matrix(name):
    net = build(convnet(depth=1), width=4, classes=3)
    parameters = net.init(jax.random.key(0), X)
    y = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
    loss = losses.build(name, label_scale=2.0)
    found = empirical.largest_curvature(lambda p: net.apply(p, X), lambda o: loss(o, y), parameters, jax.random.key(1))
    rows = jax.tree.leaves(jax.jit(jax.jacobian(lambda p: net.apply(p, X).ravel()))(parameters))
    jacobian = np.concatenate([np.reshape(r, (9, -1)) for r in rows], axis=1).astype(np.float64)
    hessian = jax.jit(jax.hessian(lambda o: loss(o.reshape(3, 3), y)))(net.apply(parameters, X).ravel())
    expected = np.linalg.eigvals(jacobian @ jacobian.T @ np.asarray(hessian, np.float64)).real.max()
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_losses_are_their_formulas():
    outputs, labels = RNG.normal(size=(2, 4, 3))
    logs = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    soft = np.exp(3 * labels) / np.exp(3 * labels).sum(axis=1, keepdims=True)
    expected = {
        "mse": 0.5 * ((outputs - 3 * labels) ** 2).mean(),
        "cross_entropy": -logs[np.arange(4), labels.argmax(axis=1)].mean(),
        "soft_cross_entropy": -(soft * logs).sum(axis=1).mean(),
    }
    for name, value in expected.items():
        found = losses.build(name, label_scale=3.0)(jnp.asarray(outputs), jnp.asarray(labels))
        np.testing.assert_allclose(found, value, rtol=1e-6)


def data(n, sets=1):
    images = RNG.normal(size=(sets, n, 4, 4, 1)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(RNG.normal(size=(sets, n, 2)), jnp.float32)


RECIPE = {"factor": 0.3, "momentum": 0.9, "l2": 1e-2, "batch_size": 100, "steps": 12}


@pytest.mark.parametrize("centred", [False, True])
def test_training_is_sgd_with_momentum_a_cosine_and_l2(centred):
    """Against the rule written out, on one batch of all images."""
    (x, y), net, loss = data(5), build(convnet(depth=1), width=3, classes=2), losses.build("mse", label_scale=1.0)
    trainer = train.build(net, loss, **RECIPE, centred=centred)
    one = trainer.start(jnp.zeros(1, int), jax.random.split(jax.random.key(0), 1), x, y)
    parameters = jax.tree.map(lambda leaf: leaf[0], one.variables)
    start, velocity = parameters, jax.tree.map(jnp.zeros_like, parameters)

    @jax.jit
    def objective(p):
        outputs = net.apply(p, x[0]) - (net.apply(start, x[0]) if centred else 0)
        return loss(outputs, y[0]), outputs

    differentiated = jax.jit(jax.value_and_grad(objective, has_aux=True))
    for step in range(12):
        (value, _), gradient = differentiated(parameters)
        gradient = jax.tree.map(lambda g, p: g + 1e-2 * p, gradient, parameters)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        rate = float(one.rate[0]) * 0.5 * (1 + np.cos(np.pi * step / 12))
        parameters = jax.tree.map(lambda p, v, rate=rate: p - np.float32(rate) * v, parameters, velocity)
    one, found = trainer.advance(one, x[None], y, 0, 12)
    np.testing.assert_allclose(found[0], value, rtol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-5), one.variables, parameters)
    np.testing.assert_allclose(trainer.outputs(one, x[0])[0], objective(parameters)[1], rtol=1e-3, atol=1e-5)


def test_centring_is_refused_where_the_start_is_another_function_in_testing():
    nets = {n: build(fc(depth=1), width=3, classes=2, normalization=n) for n in ("batch", "layer")}
    loss = losses.build("mse", label_scale=1.0)
    with pytest.raises(
        checks.UserError, match=r"trainer\.centred: .*network\.normalization=batch.* take trainer\.centred="
    ):
        train.build(nets["batch"], loss, **RECIPE, centred=True)
    train.build(nets["batch"], loss, **RECIPE, centred=False)
    train.build(nets["layer"], loss, **RECIPE, centred=True)


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_stretches_and_company_change_nothing(normalization):
    """Steps in one stretch or several, networks alone or together: the same bits."""
    x, y = data(7, sets=2)
    net = build(convnet(depth=1), width=3, classes=2, normalization=normalization)
    recipe = {**RECIPE, "batch_size": 3}
    trainer = train.build(net, losses.build("mse", label_scale=1.0), **recipe)
    sets, keys = jnp.asarray([0, 1, 0, 1, 0, 1]), jax.random.split(jax.random.key(0), 6)  # tests have four devices
    together = trainer.start(sets, keys, x, y)
    whole, _ = trainer.advance(together, x[None], y, 0, 12)
    parts = together
    for first, steps in ((0, 1), (1, 6), (7, 5)):
        parts, _ = trainer.advance(parts, x[None], y, first, steps)
    alone = trainer.start(sets[1:2], keys[1:2], x, y)
    alone, _ = trainer.advance(alone, x[None], y, 0, 12)
    for a, b, c in zip(*(jax.tree.leaves(s.variables) for s in (whole, parts, alone)), strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a[1:2], c)
    assert not np.array_equal(jax.tree.leaves(whole.variables)[0][0], jax.tree.leaves(together.variables)[0][0])


def test_networks_of_a_width_compile_once_whatever_the_stretch_and_the_set(compiled):
    """Three networks: one program for each function, none for a second call."""
    x, y = data(5, sets=2)
    trainer = train.build(build(fc(depth=1), width=3, classes=2), losses.build("mse", label_scale=1.0), **RECIPE)
    keys = jax.random.split(jax.random.key(0), 3)
    for sets, steps in (([0, 1, 0], 2), ([1, 0, 1], 5)):
        before = len(compiled)
        networks = trainer.start(jnp.asarray(sets), keys, x, y)
        networks, _ = trainer.advance(networks, x[None], y, 0, steps)
        trainer.outputs(networks, x[0])
    assert before > 0
    assert len(compiled) == before


def test_networks_are_spread_over_threads_and_come_back_in_order(monkeypatch):
    """Any number of them on so many places; each place has every so-manieth."""

    def doubled(network, by):
        return {"twice": network * by}

    for places in (1, 3):
        monkeypatch.setattr(spread, "_places", lambda places=places: jax.local_devices()[:1] * places)
        for k in (1, 2, 3, 5, 7):
            found = spread.over_devices(doubled, jnp.arange(k), jnp.asarray(2))
            np.testing.assert_array_equal(found["twice"], 2 * np.arange(k))


def test_networks_are_spread_over_several_devices(monkeypatch):
    devices = jax.local_devices()[:3]
    monkeypatch.setattr(spread, "_places", lambda: devices)
    seen = []

    def where(network, by):
        seen.append((int(network), network.device, by.device))
        return network + by

    found = spread.over_devices(where, jnp.arange(5), jnp.asarray(1))
    np.testing.assert_array_equal(found, np.arange(5) + 1)
    assert found.device == devices[0]
    assert sorted(seen, key=lambda s: s[0]) == [(i, devices[i % 3], devices[i % 3]) for i in range(5)]


def test_an_error_in_one_thread_is_the_callers():
    def fails(network):
        raise FloatingPointError(f"{network} is no good")

    with pytest.raises(FloatingPointError, match="is no good"):
        spread.over_devices(fails, jnp.arange(3))


def test_an_epoch_takes_every_image_once():
    take = train._batches(jax.random.key(0), 7, 3)
    for epoch in range(3):
        places = np.concatenate([take(2 * epoch + part) for part in range(2)])
        assert len(set(places.tolist())) == 6
    assert not np.array_equal(take(0), take(2))


def test_each_step_sees_its_version():
    """With versions that are equal nothing changes; with one that is not, the steps that see it do."""
    x, y = data(4)
    net = build(fc(depth=1), width=3, classes=2)
    trainer = train.build(net, losses.build("mse", label_scale=1.0), **RECIPE)
    start = trainer.start(jnp.zeros(1, int), jax.random.split(jax.random.key(0), 1), x, y)
    plain = trainer.advance(start, x[None], y, 0, 3)[0]
    equal = trainer.advance(start, jnp.stack([x, x, x, x]), y, 0, 3)[0]
    later = trainer.advance(start, jnp.stack([x, x, x, -x]), y, 0, 3)[0]
    sooner = trainer.advance(start, jnp.stack([x, x, -x, x]), y, 0, 3)[0]
    first = [np.asarray(jax.tree.leaves(s.variables)[1]) for s in (plain, equal, later, sooner)]
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[3])


@pytest.mark.parametrize(("factor", "falls"), [(0.9, True), (1.15, False)])
def test_the_largest_stable_rate_is_where_training_begins_to_diverge(factor, falls):
    """A linear network has the same curvature everywhere; the cosine is so long that the rate stays."""
    x, y = data(6)
    recipe = {"factor": factor, "momentum": 0.5, "l2": 0.0, "batch_size": 6, "steps": 10**6}
    trainer = train.build(build(fc(depth=0), width=1, classes=2), losses.build("mse", label_scale=1.0), **recipe)
    one = trainer.start(jnp.zeros(1, int), jax.random.split(jax.random.key(0), 1), x, y)
    one, early = trainer.advance(one, x[None], y, 0, 1)
    _, late = trainer.advance(one, x[None], y, 1, 300)
    assert bool(late[0] < early[0]) == falls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet", "fc", "myrtle"])
def test_the_tangent_kernel_and_the_features_approach_the_infinite_ones(name):
    """Within four standard errors of the mean over networks, which shrink with the width; shown as measured."""
    architecture = {"convnet": convnet(depth=2), "fc": fc(depth=2), "myrtle": myrtle(depth=5)}[name]
    x = jnp.asarray(RNG.normal(size=(3, 8, 8, 2)), jnp.float32)
    last, networks = architecture[-1], 48
    errors = {}
    for width, (kind, parameterization) in itertools.product(
        (16, 64, 256), [("ntk", "ntk"), ("nngp", "ntk"), ("nngp", "standard")]
    ):
        net = build(architecture, width=width, classes=1, parameterization=parameterization)

        def measure(key, net=net, kind=kind):
            variables = net.init(key, x)
            if kind == "ntk":
                return empirical.ntk(net.apply, variables, x, x)
            features = net.apply(variables, x, method="features")
            return last.w_std**2 * features @ features.T / features.shape[1] + last.b_std**2

        jitted = jax.jit(measure)
        found = jnp.stack([jitted(key) for key in jax.random.split(jax.random.key(width), networks)])
        exact = build_kernel(architecture, kind)(x)
        error = np.linalg.norm(found.mean(axis=0) - exact) / np.linalg.norm(exact)
        spread = np.linalg.norm(found.std(axis=0)) / np.linalg.norm(exact) / np.sqrt(networks)
        print(f"{name} {kind} {parameterization} width {width}: off by {error:.4f}, standard error {spread:.4f}")
        errors[kind, parameterization, width] = error, spread
    for (_, _, width), (error, spread) in errors.items():
        assert error < 4 * spread + 1 / width  # the mean itself is off by a multiple of 1 / width
    for kind, parameterization, _ in errors:
        assert errors[kind, parameterization, 256][1] < 0.5 * errors[kind, parameterization, 16][1]


def test_the_network_is_the_kernels_at_any_width():
    """Without ReLUs the mean over networks is exact at every width: one linear layer, many starts."""
    architecture = (Conv(3, 1.3, 0.4), Flatten(), Dense(0.8, 0.3))
    net = build(architecture, width=64, classes=1, parameterization="ntk")
    x = jnp.asarray(X)
    kernels = jax.lax.map(
        lambda key: empirical.ntk(net.apply, net.init(key, x), x, x), jax.random.split(jax.random.key(0), 400)
    )
    exact = build_kernel(architecture)(x)
    error = np.abs(kernels.mean(axis=0) - exact)
    assert (error < 4 * kernels.std(axis=0) / 20 + 1e-5).all()
    assert (kernels.std(axis=0) / 20 < 0.02 * exact.max()).all()
