"""The fault suite, `make test-faults`: what happens to a command that is killed, starved, misled or not alone.

    PYTHONPATH=tests:benchmarks python -m faults docs/results/reliability.json docs/reliability.md [fault ...]

Each case disturbs a tiny but real run, then goes on, and compares with a run that nobody disturbed. Only three ends are
known: `identical`, to the bit; `refused`, with a line that names the file and what to do; `wrong`, anything else.
"""
