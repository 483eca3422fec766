"""The table that kipx plan prints, of what plan.json says."""

from kipx.cost import gigabytes


def table(plan, folder):
    """Title, rows and closing line; with `plan.devices` a column for them."""
    columns = [plan, *([plan["with_devices"]] if "with_devices" in plan else [])]
    heads = [_devices(plan["devices"]), *(_devices(c["devices"]) for c in columns[1:])]
    images, pairs, disk = plan["images"], plan["pairs"], plan["disk_bytes"]
    backward = pairs["step"]["vjp"] + pairs["step"]["with_jacobian"]
    sizes = f"{images['support']} support, {images['target']} targets of {'x'.join(map(str, images['shape']))}"
    rows = [
        ("images", sizes),
        ("pairs a step", f"{pairs['step']['gram']:,} forward, {backward:,} backward"),
        ("pairs an evaluation", f"{pairs['evaluation']['gram']:,}, of {images['test']:,} test images"),
        ("largest block", _block(plan)),
        ("memory, preparing", _memory(plan["memory_bytes"]["prepare"])),
        ("memory, a device", _memory(plan["memory_bytes"]["steps"])),
        ("disk", f"{gigabytes(disk['total'])}, of it checkpoints {gigabytes(disk['checkpoints'])}"),
        ("", *heads),
        ("start, load, prepare", *(_spent(c, "start", "load", "prepare") for c in columns)),
        ("compile", *(_spent(c, "compile") for c in columns)),
        ("a step", *(_spent(c, "step") for c in columns)),
        (f"{plan['steps']:,} steps", *(duration(plan["steps"] * c["time_s"]["step"]) for c in columns)),
        ("an evaluation", *(_spent(c, "evaluation") for c in columns)),
        (f"{plan['counts']['evaluations']} evaluations", *map(_evaluations, columns)),
        ("in all", *(_spent(c, "total") for c in columns)),
    ]
    return "what this run will take", rows, f"plan: {folder}/plan.json"


def duration(seconds):
    """Text: seconds in the unit that suits them."""
    for size, unit, digits in ((86400, "days", 1), (3600, "hours", 1), (60, "min", 1), (1, "s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{digits}f} {unit}"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _spent(column, *names):
    return duration(sum(column["time_s"][name] for name in names))


def _evaluations(column):
    return duration(column["counts"]["evaluations"] * column["time_s"]["evaluation"])


def _devices(n):
    return f"{n} device" + "s" * (n > 1)


def _block(plan):
    calls = [call for part in plan["calls"].values() for call in part]
    most = max(calls, key=lambda call: call["block"][0] * call["block"][1])
    return f"{most['block'][0]} x {most['block'][1]} images"


def _memory(needs):
    most, total = max(needs, key=lambda need: need["bytes"]), sum(need["bytes"] for need in needs)
    return f"about {gigabytes(total)}, most of it {most['what']}"
