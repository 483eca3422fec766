"""What a plan says is what a run does: blocks, calls, evaluations, checkpoints; and what cannot fit is refused."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_config import composed

from kipx import arguments, calibration, checkpoints, checks, config, cost, evaluate, gauss_newton, machine, track
from kipx.architecture import convnet, fc
from kipx.commands import distill, plan, plan_table
from kipx.engine import Engine, Layout, blockwise, dense, sharded
from kipx.kernel import build

FAST = ["kernel=fc", "steps=3", "target.batch_size=20", "baseline.draws=2", "logger=none"]
ENGINES = {
    "dense": lambda kernel_fn, size: dense.build(kernel_fn),
    "blockwise": blockwise.build,
    "sharded": sharded.build,
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("n1", "n2"), [(1, None), (5, None), (9, None), (1, 1), (4, 3), (7, 5), (17, 2), (3, 9)])
def test_an_engine_computes_the_pairs_that_its_layout_says(name, n1, n2):
    """Counted by the kernel itself, forward and backward."""
    plain, seen = build(fc(depth=1)), []

    def kernel_fn(x1, x2=None):
        columns = (x1 if x2 is None else x2).shape[0]
        jax.debug.callback(lambda: seen.append((x1.shape[0], columns)))
        return plain(x1, x2)

    rng, shape = np.random.default_rng(0), (2, 2, 1)
    x1, x2 = (None if n is None else rng.normal(size=(n, *shape)) for n in (n1, n2))
    engine = ENGINES[name](kernel_fn, (4, 3))
    found = engine.layout(n1, n2, shape)
    for call in (lambda: engine.gram(x1, x2), lambda: engine.vjp(x1, x2, np.ones((n1, n2 or n1)))):
        seen.clear()
        jax.block_until_ready(call())
        jax.effects_barrier()
        assert seen == [(found.rows, found.columns)] * found.count
    seen.clear()
    jax.block_until_ready(engine.with_jacobian(x1, x1 if x2 is None else x2))
    jax.effects_barrier()
    if n2 is not None:
        assert seen == [(1, found.columns)] * (found.count * found.rows)
    assert found.devices == (4 if name == "sharded" else 1)


def test_the_layout_on_other_devices_deals_targets_and_tiles_out():
    of = sharded.layout(build(fc(depth=1)), (32, 32))
    assert of(160, 10, (2, 2, 1), 1) == Layout(32, 10, 5, 1)
    assert of(160, 10, (2, 2, 1), 8) == Layout(20, 10, 8, 8)
    assert of(161, 10, (2, 2, 1), 160) == Layout(2, 10, 160, 160)
    assert of(500, None, (2, 2, 1), 1) == Layout(32, 32, 136, 1)
    assert of(500, None, (2, 2, 1), 64) == Layout(22, 22, 320, 64)  # 23 blocks have 276 tiles
    assert cost.rounds(of(500, None, (2, 2, 1), 64)) == 5 * 22**2


def test_a_pool_of_more_workers_takes_as_many_rounds_as_its_blocks_need():
    engine = blockwise.build(build(fc(depth=1)), (32, 32))
    assert cost.rounds(engine.layout(160, 10, (2, 2, 1), devices=2)) == 3 * 320
    assert cost.rounds(engine.layout(160, 10, (2, 2, 1), devices=64)) == 320


@pytest.fixture
def values():
    return lambda *overrides, command="plan": config.plain(
        composed(*FAST, *overrides, command=command), arguments.PLAN if command == "plan" else arguments.DISTILL
    )


def planned(values, folder):
    return plan.run(folder, config=values, began=0.0, **arguments.plan(values))


@pytest.mark.parametrize(
    ("engine", "optimizer", "tested"),
    [("blockwise", "adam", [0, 1, 2, 3]), ("sharded", "adam", [0, 2, 3]), ("blockwise", "gauss_newton", [0, 2, 3])],
)
def test_a_plan_counts_what_a_run_does(engine, optimizer, tested, values, tmp_path, monkeypatch):
    """The run's own engine and evaluation count themselves."""
    overrides = f"engine={engine}", f"optimizer={optimizer}", f"checkpoint.tested_from={tested[1]}"
    chosen = values(*overrides, "plan.devices=3", "plan.calibration_s=0.01")
    result = planned(chosen, tmp_path / "plan")
    assert json.loads((tmp_path / "plan" / "plan.json").read_text()) == {**result, "config": chosen}
    assert [path.name for path in (tmp_path / "plan").iterdir()] == ["plan.json"]

    calls, evaluations = [], []
    build_evaluation = evaluate.build
    monkeypatch.setattr(
        evaluate, "build", lambda *a, **k: lambda *xy: evaluations.append(0) or build_evaluation(*a, **k)(*xy)
    )
    values_of_run = values(*overrides, command="distill")
    run = arguments.distill(values_of_run)
    (member,) = run["members"]

    def noted(name):
        def function(x1, x2=None, *cotangent):
            calls.append((name, x1.shape[0], None if x2 is None else x2.shape[0]))
            return getattr(member.engine, name)(x1, x2, *cotangent)

        return function

    run["members"] = [
        member._replace(engine=Engine(noted("gram"), noted("vjp"), member.engine.layout, noted("with_jacobian")))
    ]
    distill.run(tmp_path / "run", overrides=[], config=values_of_run, **run)

    assert result["counts"]["evaluations"] == len(evaluations)
    rows = track.read(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "test_accuracy" in row] == tested

    def told(part):
        counts = [((c["name"], c["rows"], c["columns"]), int(c["times"])) for c in result["calls"][part]]
        return [kind for kind, times in counts for _ in range(times)]

    expected = told("step") * 3 + told("evaluation") * len(evaluations)
    assert sorted(calls, key=str) == sorted(expected, key=str)
    folders = [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()]
    assert result["counts"]["checkpoints_kept"] == len(folders)
    sizes = [sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for path in folders]
    assert 0.5 * sum(sizes) < result["disk_bytes"]["checkpoints"] < 2 * sum(sizes)
    written = (tmp_path / "run" / "metrics.jsonl").stat().st_size
    assert 0.5 * written < result["disk_bytes"]["metrics"] < 2 * written
    assert (tmp_path / "run" / "support.npz").stat().st_size < result["disk_bytes"]["support"]


def test_the_total_is_the_sum_of_its_parts_and_devices_share_the_kernel_alone(values, tmp_path):
    result = planned(values("plan.devices=1000", "plan.calibration_s=0.01", "steps=2000"), tmp_path)
    for column in (result, result["with_devices"]):
        time_s, counts = column["time_s"], column["counts"]
        parts = sum(time_s[name] for name in ("start", "load", "prepare", "compile", "close"))
        parts += 2000 * time_s["step"] + counts["evaluations"] * time_s["evaluation"]
        parts += counts["saves"] * time_s["save"]
        assert parts < time_s["total"] < parts + 2000 * 0.1
    now, then = result["time_s"], result["with_devices"]["time_s"]
    assert 0 < then["step_kernel"] < now["step_kernel"]
    assert then["step"] - then["step_kernel"] == pytest.approx(now["step"] - now["step_kernel"])
    due = [k for k in range(2001) if checkpoints.due(k, 2000)]
    assert len(due) == result["counts"]["checkpoints_kept"] == 21
    title, rows, _ = plan_table.table(result, tmp_path)
    assert title == "what this run will take"
    assert ("", "1 device", "1000 devices") in rows


def test_sampled_kernels_share_the_steps_and_are_all_evaluated(values, tmp_path):
    chosen = values("kernel=sampled", "kernel.depth=1", "plan.calibration_s=0.01")
    names = sorted(chosen["kernel"]["members"])
    result = planned(chosen, tmp_path)
    calls = result["calls"]
    assert sorted({call["kernel"] for call in calls["evaluation"]}) == names
    assert sum(call["times"] for call in calls["evaluation"]) == 2 * len(names)
    weights = np.array([chosen["kernel"]["members"][name]["weight"] for name in names])
    for name, share in zip(names, weights / weights.sum(), strict=True):
        of_member = [call for call in calls["step"] if call["kernel"] == name]
        assert [call["name"] for call in of_member] == ["gram", "gram", "vjp", "vjp"]
        assert all(call["times"] == pytest.approx(share) for call in of_member)
    expected = sum(call["times"] * call["time_s"] for call in calls["step"])
    assert result["time_s"]["step_kernel"] == pytest.approx(expected)


def test_a_run_of_no_steps_is_its_evaluations(values, tmp_path):
    result = planned(values("steps=0", "plan.calibration_s=0.01"), tmp_path)
    assert result["counts"] == {"evaluations": 3, "saves": 1, "checkpoints_kept": 1}


def test_solved_labels_take_all_targets_before_the_first_step(values, tmp_path):
    result = planned(values("labels.init=solved", "plan.calibration_s=0.01"), tmp_path)
    (call,) = result["calls"]["once"]
    assert (call["name"], call["rows"], call["columns"], call["times"]) == ("gram", 1000, 10, 2)  # of 1,297
    assert result["pairs"]["once"]["gram"] >= 2 * 1000 * 10
    assert result["time_s"]["prepare"] > 2 * call["time_s"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.devices=0", r"plan\.devices: expected an integer >= 1, got 0"),
        ("plan.calibration_s=0", r"plan\.calibration_s: expected a number > 0, got 0"),
        ("resume=here", "resume: kipx plan is for new runs"),
        ("dataset=npz", r"dataset\.path: expected an npz file"),
        ("target.batch_size=5000", r"target\.batch_size: expected at most 1297"),
        ("support.per_class=500", r"support\.per_class: expected at most 126"),
    ],
)
def test_a_plan_refuses_what_the_run_would(override, message, values, tmp_path):
    with pytest.raises(checks.UserError, match=message):
        planned(values(override), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


class Clock:
    """Time that passes when an engine is asked to, by `pair_s` a pair on the busiest device and `first_s` at first."""

    def __init__(self, layout, pair_s, first_s=0.0):
        self.now, self.layout, self.seen, self.cost = 0.0, layout, [], (pair_s, first_s)

    def perf_counter(self):
        return self.now

    def gram(self, x1, x2=None):
        sizes = len(x1), None if x2 is None else len(x2), x1.shape[1:]
        pair_s, first_s = self.cost
        self.now += pair_s * cost.rounds(self.layout(*sizes)) + first_s * (sizes not in self.seen)
        self.seen.append(sizes)
        return np.zeros(())


@pytest.mark.parametrize(("n1", "n2"), [(160, 10), (3, 2), (5000, 500), (500, None), (1, None)])
@pytest.mark.parametrize("pair_s", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("devices", [1, 4])
def test_parts_of_a_call_foretell_the_whole(n1, n2, pair_s, devices, monkeypatch):
    """Where time goes with the pairs exactly, the estimate is exact, and little more is spent than allowed."""
    of = sharded.layout(build(fc(depth=1)), (32, 32))
    layout = lambda *sizes: of(*sizes, devices)  # noqa: E731
    clock = Clock(layout, pair_s, first_s=7.0)
    monkeypatch.setattr(calibration, "time", clock)
    call = cost.Call("gram", np.zeros((n1, 2, 2, 1)), None if n2 is None else np.zeros((n2, 2, 2, 1)))
    timed = calibration.time_call(Engine(clock.gram, None, layout), call, allowed_s=2.0)
    assert timed.time_s == pytest.approx(pair_s * cost.rounds(layout(*call.sizes)))
    assert timed.first_s == pytest.approx(7.0)
    smallest = pair_s * cost.rounds(layout(min(n1, 4), None if n2 is None else min(n2, 4), (2, 2, 1)))
    compiled = 7.0 * len(set(clock.seen))
    assert clock.now - compiled <= 2 * smallest + 6.0
    if 3 * timed.time_s <= 2.0:
        assert (n1, n2, (2, 2, 1)) in clock.seen, "what is quick is tried whole"


@pytest.fixture
def plain(monkeypatch):
    """Without numba."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_a_dense_run_that_cannot_fit_is_refused_with_the_setting_that_would(values, tmp_path, plain):
    """float64 in plain JAX, where a pair takes 251,008 bytes: 500 x 10 pairs forward are certain to take 0.3 GB."""
    overrides = ["kernel=convnet", "kernel.dtype=float64", "engine=dense", "target.batch_size=160"]
    chosen = values(*overrides, command="distill")
    run = arguments.distill(chosen)
    message = (
        r"memory: the run would need about 1\.26 GB, this machine has 200 MB; "
        r"a block of 500 x 10 pairs would take 1\.26 GB of it: take engine=blockwise$"
    )
    with pytest.raises(checks.UserError, match=message):
        distill.run(tmp_path / "run", overrides=[], config=chosen, available=machine.Memory(2 * 10**8, None), **run)
    with pytest.raises(checks.UserError, match="the device has 200 MB"):
        distill.pose(
            available=machine.Memory(10**12, 2 * 10**8),
            **{k: v for k, v in run.items() if k not in ("show", "mirrored")},
        )
    assert not (tmp_path / "run").exists()


def test_the_jacobian_of_a_step_counts(values):
    small = "kernel=fc", "optimizer=gauss_newton", "target.batch_size=160"
    run = arguments.distill(values(*small, command="distill"))
    posed = {k: v for k, v in run.items() if k not in ("show", "mirrored")}
    needs = {
        need.what: need for need in distill.memory_needs(posed["members"], posed["optimizer"], posed["load"](), 10, 160)
    }
    assert needs["the Jacobian"].memory_bytes == 16 * 10 * 170 * 64
    with pytest.raises(checks.UserError, match=r"the Jacobian would take 1\.74 MB of it: lower target\.batch_size"):
        distill.pose(available=machine.Memory(10**12, 10**6), **posed)


def test_what_a_rehearsed_gauss_newton_solves_is_not_zero():
    x, y = jnp.ones((10, 8, 8, 1), jnp.float32), jnp.eye(10) - 0.1
    *_, linearization = gauss_newton.kip(cost.counting(None)[0], ridge=1e-6)(x, y, x[:7], y[:7])
    change = gauss_newton.step(linearization, 1e-3, learned=True)
    left = linearization.push(change) + linearization.residuals
    assert jnp.linalg.norm(left) < 0.5 * jnp.linalg.norm(linearization.residuals), "as little as of a real one"


def test_gradients_of_single_pairs_count_where_a_step_asks_for_them():
    kernel_fn = build(convnet())
    counts = {"n_support": 10, "n_target": 20, "n_train": 500, "n_test": 500, "classes": 10, "shape": (8, 8, 1)}
    pair = kernel_fn.jacobian_bytes((8, 8, 1))
    for jacobian, expected in ((False, 0), (True, 20 * 10 * pair)):
        block, *_ = cost.of_steps([(kernel_fn, dense.build(kernel_fn).layout)], **counts, jacobian=jacobian)
        assert block.memory_bytes == expected
    assert block.what == "a block of 20 x 10 pairs"


def test_what_the_refusal_advises_fits(values, plain):
    chosen = values("kernel=convnet", "kernel.dtype=float64", "engine=blockwise", command="distill")
    run = {k: v for k, v in arguments.distill(chosen).items() if k not in ("show", "mirrored")}
    assert distill.pose(available=machine.Memory(2 * 10**8, None), **run).start.step == 0
    chosen["engine"]["block_size"] = [500, 500]
    run["members"] = arguments.distill(chosen)["members"]
    with pytest.raises(checks.UserError, match=r"take engine\.block_size=null"):
        distill.pose(available=machine.Memory(2 * 10**8, None), **run)


def test_data_that_cannot_be_held_are_refused_before_they_are_prepared(values):
    run = {k: v for k, v in arguments.distill(values(command="distill")).items() if k not in ("show", "mirrored")}
    run["fit"] = None
    message = r"about 0\.575 MB, this machine has 0\.5 MB; the same, preprocessed would take 0\.46 MB of it: take fewer"
    with pytest.raises(checks.UserError, match=message):
        distill.pose(available=machine.Memory(500_000, None), **run)


@pytest.mark.parametrize("preprocess", ["zca", "zca_pixels"])
def test_whitening_that_cannot_be_fitted_is_refused_before_it_is(preprocess, values):
    """32x32 pixels: a matrix with a row each has 8.39 MB, and the fit holds five."""
    chosen = values(f"preprocess={preprocess}", command="distill")
    run = {k: v for k, v in arguments.distill(chosen).items() if k not in ("show", "mirrored")}
    data = run["load"]()
    few, large = slice(0, None, 10), np.ones((1, 4, 4, 1), np.uint8)
    images = {name: np.kron(getattr(data, name)[few], large) for name in ("x_train", "x_test")}
    classes = {name: getattr(data, name)[few] for name in ("y_train", "y_test")}
    run["load"] = lambda: data._replace(**images, **classes)
    message = r"this machine has 30 MB; the fit of the whitening would take 41\.9 MB of it: take preprocess=standardize"
    with pytest.raises(checks.UserError, match=message):
        distill.pose(available=machine.Memory(3 * 10**7, None), **run)


def test_nothing_is_refused_where_the_memory_is_unknown():
    needs = [cost.Need("a block", 10**18, 10**18, "")]
    cost.check_fits(needs, None, "this machine")
    with pytest.raises(checks.UserError, match=r"about 1e\+09 GB"):
        cost.check_fits(needs, 10**12, "this machine")
    cost.check_fits([cost.Need("a block", 41, 30, "")], 30, "this machine")


@pytest.mark.parametrize(
    ("lines", "files", "limits"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "1000\n", "memory.max": "max\n"}, {1000, None}),
        ("9:cpu,memory:/job\n3:cpu:/x\n", {"memory/job/memory.limit_in_bytes": "77"}, {77, None}),
        ("0::/gone\n", {}, {None}),
    ],
)
def test_limits_of_control_groups_are_read(lines, files, limits, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(lines)
    assert set(machine._confined(tmp_path, tmp_path / "own")) == limits
    assert not list(machine._confined(tmp_path, tmp_path / "none"))


def test_this_machine_has_memory():
    found = machine.memory()
    assert found.host > 10**8
    assert found.device is None or found.device > 10**8
