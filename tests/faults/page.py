"""The table of docs/reliability.md, of docs/results/reliability.json; other sections of the page are left alone."""

import collections
import re

from faults.cases import IDENTICAL, REFUSED

SECTION = "faults"


def section(result):
    """The fault suite's: what was tried, how often, and what came of it."""
    cases = [case for part in result["parts"].values() for case in part["cases"]]
    minutes = sum(part["minutes"] for part in result["parts"].values())
    tried = [case for case in cases if not case["seen"].startswith("not tried")]
    identical, refused = (sum(case["end"] == end for case in tried) for end in (IDENTICAL, REFUSED))
    return "\n".join(
        [
            f"Command: `make test-faults`, seed {result['seed']}: {len(tried)} cases in {minutes:.0f} "
            f"minutes on {result['machine']}; each of them is in [results/reliability.json](results/reliability.json).",
            "",
            f"**{identical} ended bit for bit as an undisturbed run, {refused} were refused in a line that names the "
            f"file and what to do, {len(tried) - identical - refused} ended otherwise.**",
            "",
            "| fault | command | tried | identical | refused | otherwise |",
            "|---|---|--:|--:|--:|--:|",
            *_rows(tried),
            "",
            *_not_tried(cases),
            *_notes(tried),
        ]
    )


def _rows(cases):
    groups = collections.defaultdict(list)
    for case in cases:
        groups[case["fault"], case["command"]].append(case["end"])
    for (fault, command), ends in groups.items():
        identical, refused = ends.count(IDENTICAL), ends.count(REFUSED)
        yield f"| {fault} | {command} | {len(ends)} | {identical} | {refused} | {len(ends) - identical - refused} |"


def _not_tried(cases):
    left = collections.Counter((c["fault"], c["seen"]) for c in cases if c["seen"].startswith("not tried"))
    return [f"Not tried on this machine: {n} cases of {fault} ({seen}).\n" for (fault, seen), n in left.items()]


def _notes(cases):
    """How many kills met a file in the middle of being written."""
    aimed = [c for c in cases if re.match("in the middle", c["how"])]
    met = sum("part left behind" in c["seen"] for c in aimed)
    if not aimed:
        return []
    return [f"{len(aimed)} of the kills were aimed at a file being written; {met} of them left a torn one behind."]
