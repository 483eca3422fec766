"""Sampling KIP: members drawn by their weights, each step that of its member alone, evaluation under each."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_config import composed

from kipx import arguments, artifacts, checks, config, distill, evaluate, merged, objective, optimizer, sampled, track
from kipx.commands import distill as command
from kipx.commands import evaluate as measure_again
from kipx.engine import dense
from kipx.kernel import build

FAMILY = [
    "kernel=sampled",
    "kernel.members.convvec8.depth=0",
    "kernel.members.convvec3.depth=1",
    "kernel.depth=1",
    "dataset=npz",
    "target.batch_size=20",
    "baseline.draws=1",
    "logger=none",
]


def members(*weights):
    """FC1, FC2, ... of given weights, on dense engines."""
    from kipx.architecture import fc

    kernels = [build(fc(depth=i + 1), "ntk", "float64") for i in range(len(weights))]
    return [sampled.Member(f"fc{i + 1}", weights[i], k, dense.build(k)) for i, k in enumerate(kernels)]


def state(seed=0):
    return distill.State(0, jax.random.key(seed), jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2)), ())


def drawn(members, steps):
    """Names of the members that steps 0 .. steps - 1 draw."""
    step = sampled.step(members, [lambda s: (s, {}) for _ in members])
    return [step(state()._replace(step=i))[1]["kernel"] for i in range(steps)]


def test_members_are_drawn_by_their_weights_and_those_of_weight_0_never():
    names = collections.Counter(drawn(members(1, 0, 3), 1200))
    assert names["fc2"] == 0
    assert names["fc3"] / 1200 == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 1200) ** 0.5)


def test_a_step_is_that_of_the_member_drawn_alone():
    family = members(1, 1)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(12, 4, 4, 1))), jnp.asarray(rng.normal(size=(12, 2)))
    sample = distill.class_balanced_batches(x, y, np.arange(12) % 2, batch_size=6)
    rule = optimizer.joint(optax.adam(0.1))
    built = [distill.build(objective.kip(m.engine, ridge=1e-6), rule, sample) for m in family]
    step = sampled.step(family, [each for _, each in built])
    now, seen = built[0][0](jax.random.key(3), x[:4], y[:4]), set()
    for _ in range(6):
        new, metrics = step(now)
        alone, expected = built[[m.name for m in family].index(metrics.pop("kernel"))][1](now)
        assert metrics == expected
        np.testing.assert_array_equal(new.images, alone.images)
        seen.add(metrics["train_loss"])
        now = new
    assert len(set(drawn(family, 6))) == 2


def test_evaluation_is_under_each_member_and_in_the_mean():
    family = members(1, 3)
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(9, 4, 4, 1))), jnp.asarray(rng.normal(size=(9, 3)))
    found = sampled.evaluation(family, x[4:], y[4:], ridge=1e-3)(x[:4], y[:4])
    each = [evaluate.build(m.engine, x[4:], y[4:], ridge=1e-3)(x[:4], y[:4]) for m in family]
    for key in ("test_accuracy", "test_mse"):
        assert [found[f"{key}_fc1"], found[f"{key}_fc2"]] == [one[key] for one in each]
        assert found[key] == pytest.approx((each[0][key] + 3 * each[1][key]) / 4)


def run(folder, *more, resume=False):
    values = config.plain(composed(*FAMILY, *more), arguments.DISTILL)
    overrides = None if resume else []
    return command.run(folder, overrides=overrides, config=values, **arguments.distill(values))


def test_a_run_goes_on_bit_by_bit_and_is_evaluated_again(tiny_npz, tmp_path):
    data = (f"dataset.path={tiny_npz}", "optimizer.schedule=constant")
    whole = run(tmp_path / "whole", *data, "steps=8")
    run(tmp_path / "part", *data, "steps=3")
    assert run(tmp_path / "part", *data, "steps=8", resume=True) == whole
    assert (tmp_path / "part" / "support.npz").read_bytes() == (tmp_path / "whole" / "support.npz").read_bytes()
    names = {"convnet", "convvec3", "convvec8"}
    rows = track.read(tmp_path / "whole" / "metrics.jsonl")
    assert {row["kernel"] for row in rows[1:]} == names
    assert {f"test_{what}_{name}" for what in ("accuracy", "mse") for name in names} <= whole.keys() & rows[-1].keys()
    distilled = artifacts.load(tmp_path / "whole")
    cfg = merged.with_run(composed("run=x", command="evaluate"), distilled.config)
    again = measure_again.run(distilled, **arguments.evaluate(config.plain(cfg, arguments.EVALUATE)))
    assert again.keys() - whole.keys() == {f"rkhs_norm_{name}" for name in names}
    assert {key: whole.get(key, value) for key, value in again.items()} == again
    under = [f"{what}under {n}" for what in ("", "squared RKHS norm ") for n in sorted(names)]
    assert [row[0] for row in measure_again.table(again, tmp_path)[1][2:8]] == under


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+kernel.members.convnet.width=3"], r"kernel\.members\.convnet\.width: unknown key"),
        (["+kernel.architecture=3"], r"kernel\.architecture: unknown key"),
        (["kernel.members.convnet.weight=x"], r"members\.convnet\.weight: expected a number, got 'x'"),
        (["kernel.members.convnet=3"], r"kernel\.members\.convnet: expected one of its options"),
        (["kernel.members.convnet.weight=-1"], r"members\.convnet\.weight: expected a number >= 0, got -1"),
        ([f"kernel.members.{n}.weight=0" for n in ("convnet", "convvec3", "convvec8")], "one member of weight > 0"),
        (
            [f"kernel.members.{n}.weight=1e308" for n in ("convnet", "convvec3")],
            "weights with a finite sum, got larger",
        ),
        (["kernel.kind=gp"], r"kernel\.members\.convnet\.kind: expected one of ntk, nngp, got 'gp'"),
        ([f"~kernel.members.{n}" for n in ("convnet", "convvec3", "convvec8")], "one member of weight > 0, got none"),
        (["~kernel.members.convnet", "+kernel@kernel.members.a-b=fc", "+kernel.members.a-b.weight=1"], "got 'a-b'"),
    ],
)
def test_a_family_is_checked(overrides, message):
    with pytest.raises(checks.UserError, match=message):
        arguments.distill(config.plain(composed("kernel=sampled", *overrides), arguments.DISTILL))


def test_members_can_be_taken_out_and_added_and_follow_the_family():
    overrides = ["kernel=sampled", "~kernel.members.convvec8", "+kernel@kernel.members.fc2=fc", "kernel.kind=nngp"]
    overrides += ["kernel.members.fc2.depth=2", "+kernel.members.fc2.weight=0.5"]
    values = config.plain(composed(*overrides), arguments.DISTILL)["kernel"]
    assert [values["members"][n]["architecture"]["depth"] for n in ("convnet", "convvec3", "fc2")] == [2, 3, 2]
    assert [m["kind"] for m in values["members"].values()] == ["nngp", "nngp", "ntk"]
    found = arguments.members(values, {"_target_": "kipx.engine.dense.build"})
    assert [(m.name, m.weight) for m in found] == [("convnet", 1), ("convvec3", 1), ("fc2", 0.5)]
    with pytest.raises(checks.UserError, match="kernel: expected one kernel, got a family of convnet, convvec3, fc2"):
        arguments.kernel(values)
