"""A sample of the cases of `make test-fuzz`, the same each time, and cases that once went wrong."""

import json

import fuzz
import pytest
from fuzz_cases import Case

SAMPLE = {"options": 12, "data": 4, "run folders": 4}
ONCE_WRONG = [
    Case("report", ("labels=null",)),
    Case("distill", ("seed=" + "9" * 5000,)),
    Case("distill", (f"seed={2**63}",)),
    Case("distill", (f"baseline.draws={10**18}",)),
    Case("distill", (f"kernel.depth={10**18}",)),
    Case("distill", ("ridge=" + "9" * 400,)),
    Case("distill", ("support=noise", f"support.per_class={10**18}")),
    Case("distill", ("~support.per_class",)),
    Case("distill", ("optimizer.b1=1",)),
    Case("evaluate", ("run=-1",)),
    Case("transfer", ("run=1.5",)),
    Case("transfer", ("++resume=-1",)),
    Case("transfer", (f"networks={10**18}",)),
    Case("import", ("-x",)),
    Case("distill", ("--config-dir",)),
    Case("distill", ("seed=0", "-m", "steps=2")),
    Case("label-solve", ("resume=" + "9" * 400,)),
    Case("evaluate", ("run=" + "9" * 400,)),
    Case("distill", ("hydra.run.dir=" + "9" * 400,)),
    Case("distill", data=(("y_test", "long text"),)),
    Case("distill", data=(("y_train", "one of 2**62"),)),
    Case("distill", data=(("class_names", "a number"),)),
    Case("distill", data=(("class_names", "deeper"),)),
    Case("distill", data=(("x_train", "times 1e+154"),)),
    Case("distill", data=(("x_train", "as complex"),)),
]
STILL_WORK = [
    Case("distill", data=(("x_train", "1x1"), ("x_test", "1x1"))),
    Case("distill", data=(("class_names", "odd text"),)),
    Case("plan", (f"steps={10**18}",)),
]
GIVE_OUT = [
    Case("distill", ("kernel.architecture.w_std=1e30",)),
    Case("label-solve", ("kernel.architecture.w_std=1e30",)),
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Where cases are tried."""
    return fuzz.Ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize("kind", SAMPLE)
def test_nothing_random_ends_in_a_traceback(kind, ground):
    counts, faults = fuzz.explore(ground, kind, SAMPLE[kind], key=0)
    assert not faults, "\n".join(map(str, faults.values()))
    assert counts.total() >= SAMPLE[kind]


@pytest.mark.parametrize("case", ONCE_WRONG, ids=str)
def test_what_once_ended_in_a_traceback_is_refused(case, ground):
    assert ground.run(case)[0] == fuzz.REFUSED


@pytest.mark.parametrize("case", STILL_WORK, ids=str)
def test_what_once_ended_in_a_traceback_works(case, ground):
    assert ground.run(case) == (fuzz.WORKED, "")


@pytest.mark.parametrize("case", GIVE_OUT, ids=str)
def test_no_nan_is_written_where_the_numbers_give_out(case, ground):
    outcome, said = ground.run(case)
    assert (outcome, said.count("\n")) == (fuzz.GAVE_OUT, 1)


def test_a_fault_would_be_seen(ground, tmp_path, monkeypatch):
    """The judge is not blind: it sees tracebacks, NaN, and what a refused run leaves."""
    monkeypatch.setattr(fuzz.in_process.cli.app, "run", lambda *_: 1 / 0)
    assert ground.run(Case("distill"))[0] == fuzz.FAULT
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 0, "test_mse": float("nan")}) + "\n")
    (tmp_path / "summary.json").write_text("{}")
    written = [tmp_path / "metrics.jsonl", tmp_path / "summary.json"]
    seen = list(fuzz._wrong(fuzz.in_process.Ended(2, "", "kipx: no\n"), written))
    assert seen == ["NaN in metrics.jsonl", "exit code 2, and yet there is summary.json"]
    assert list(fuzz._wrong(fuzz.in_process.Ended(3, "", "Traceback\n"), []))
