"""What an offline run of wandb left, read back."""

import json

import contract


def records(path):
    """The records of an offline run's file: LevelDB's log format, blocks of 32 KiB, behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # the rest of a block
            at += 2**15 - at % 2**15
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def offline(folder, name="*"):
    """The records of each offline run that wandb left, in order of time."""
    return [list(records(path)) for path in sorted(folder.glob(f"wandb_files/wandb/offline-run-*/run-{name}.wandb"))]


def history(found):
    """The rows that W&B was sent, whole."""
    sent = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    return [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in sent]


def metrics(found):
    """The same as in metrics.jsonl."""
    return [{key: row[key] for key in contract.METRICS if key in row} for row in history(found)]


def opened(found):
    """What W&B was told of the run: project, group, job type, id, ..."""
    return next(record.run for record in found if record.WhichOneof("record_type") == "run")


def logged(found):
    """The artifacts of a type, by name: {path in it}."""
    made = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    made += [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    return {one.name: {entry.path for entry in one.manifest.contents} for one in made if one.type == "run"}
