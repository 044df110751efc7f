"""Reads an offline W&B run file: a LevelDB-style log (32 KiB blocks; crc32, length, type) of protobuf records.

The wandb package writes this file but no longer ships a reader in Python.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _records(data: bytes) -> Iterator[bytes]:
    if len(data) < HEADER:
        return  # only just opened
    assert data[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if kind == 0:
            at += left
            continue
        body = data[at + HEADER : at + HEADER + length]
        if len(body) < length:
            return  # still being written
        at += HEADER + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def _when_finished(path: Path, patience: float = 1800.0) -> list[wandb_internal_pb2.Record]:
    """All records, once the last one says that the run has ended: wandb's writer is a process of its own and may
    still be writing when ``wandb.finish()`` has returned."""
    deadline = time.monotonic() + patience
    while True:
        records = []
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            records.append(record)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, f"{path} has no end after {patience} s"
        time.sleep(0.2)


def _file(folder: Path) -> Path:
    """Of the one run in a folder, be it the run's own or that of its logger."""
    (path,) = (*folder.glob("run-*.wandb"), *folder.glob("wandb/offline-run-*/run-*.wandb"))
    return path


def read(folder: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Metric definitions, history rows and summary of the one finished run below a folder."""
    path = _file(folder)
    metrics: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for record in _when_finished(path):
        kind = record.WhichOneof("record_type")
        if kind == "metric":
            m = record.metric
            wanted = {field.name for field, value in m.summary.ListFields() if value}
            metrics[m.name or m.glob_name] = {"step": m.step_metric, "hidden": m.options.hidden, "summary": wanted}
        elif kind == "history":
            rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
        elif kind == "summary":
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return metrics, rows, summary


def rows_so_far(folder: Path) -> list[dict[str, Any]]:
    """History rows of the one run below a folder, which need not have ended."""
    found = []
    for data in _records(_file(folder).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            found.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    return found


def config(folder: Path) -> dict[str, Any]:
    """Config of the one finished run below a folder."""
    path = _file(folder)
    found: dict[str, Any] = {}
    for record in _when_finished(path):
        if record.WhichOneof("record_type") in ("config", "run"):
            updates = record.config.update if record.WhichOneof("record_type") == "config" else record.run.config.update
            found.update({item.key: json.loads(item.value_json) for item in updates if item.key})
    return found


def table(folder: Path, summary: dict[str, Any], key: str) -> dict[str, Any]:
    """The latest table of that key: its columns and rows."""
    (path,) = folder.glob(f"wandb/offline-run-*/files/{summary[f'{key}.path']}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def alerts(folder: Path) -> list[wandb_internal_pb2.AlertRecord]:
    """Alerts of the one finished run below a folder."""
    path = _file(folder)
    return [record.alert for record in _when_finished(path) if record.WhichOneof("record_type") == "alert"]
