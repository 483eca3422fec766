"""What kipx analyze takes, question by question: python benchmarks/analysis.py <run folder> docs/results/analysis.json

Each question is a process of its own, as typed, and all of them together one more. Processor time stands beside the
clock's, since that depends on what else the machine does.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

from kipx import artifacts
from kipx.commands.analyze import ALL, QUESTIONS

MAIN = "from kipx.cli import main; main()"


def main(run, path):
    measured = {question: measure(run, question) for question in (*QUESTIONS, ALL)}
    found = {"environment": artifacts.environment(), "load_average": os.getloadavg()[0], "questions": measured}
    artifacts.write_json(path, found)
    for question, one in measured.items():
        print(f"{question:12} {one['wall_s']:6.1f} s  {one['processor_s']:6.1f} s of processors")


def measure(run, question):
    with tempfile.TemporaryDirectory() as out:
        typed = ["analyze", f"run={run}", f"question={question}", f"out={out}", f"hydra.run.dir={out}"]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([sys.executable, "-c", MAIN, *typed], stdout=subprocess.DEVNULL)
        wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"code": done.returncode, "wall_s": wall_s, "processor_s": used}


if __name__ == "__main__":
    main(*sys.argv[1:])
