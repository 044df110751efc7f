"""Reads an offline W&B run file: a LevelDB-style log (32 KiB blocks; crc32, length, type) of protobuf records.

The wandb package writes this file but no longer ships a reader in Python.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _records(data: bytes) -> Iterator[bytes]:
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
        at += HEADER + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def read(folder: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Metric definitions, history rows and summary of the one run below a folder."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    metrics: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
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
