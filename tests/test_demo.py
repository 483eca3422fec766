"""The README's number."""

import json
import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.slow
def test_the_demo_reaches_95_percent_over_five_seeds(tmp_path):
    program = "from kipx.cli import main; main()"
    command = [sys.executable, "-c", program, "distill", "-m", "+demo=seeds", "hydra.sweep.dir=sweep"]
    subprocess.run(command, cwd=tmp_path, check=True)
    summaries = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/summary.json"))]
    assert len(summaries) == 5
    assert np.mean([summary["test_accuracy"] for summary in summaries]) >= 0.95
    for summary in summaries:
        natural = summary["natural_test_accuracy_mean"], summary["natural_test_accuracy_std"]
        assert summary["test_accuracy"] > natural[0] + 3 * natural[1]
