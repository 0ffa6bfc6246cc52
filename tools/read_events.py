#!/usr/bin/env python3
"""A run's event files through TensorBoard's own reader, beside its metrics.jsonl: every number, every step, every sample.

    python3 tools/read_events.py runs/book

Needs tensorboard. After a resume the reader must have forgotten the numbers that the resumed steps replace, as metrics.jsonl has; texts
of such steps it keeps.
"""
import json
import math
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = sys.argv[1]
# Everything, not a random selection of a thousand points.
reader = EventAccumulator(f"{run}/tb", size_guidance={"scalars": 0, "tensors": 0}).Reload()
got = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}

want = {}
for line in open(f"{run}/metrics.jsonl"):
    values = json.loads(line)
    step, kind = values.pop("step"), values.pop("kind")
    for name, value in values.items():
        want.setdefault(f"{kind}/{name}", []).append((step, struct.unpack("f", struct.pack("f", float(value)))[0]))

assert set(got) == set(want), sorted(set(got) ^ set(want))[:5]
for tag, points in want.items():
    assert [s for s, _ in got[tag]] == [s for s, _ in points], (tag, got[tag][:3], points[:3], len(got[tag]), len(points))
    for (step, a), (_, b) in zip(got[tag], points):
        assert a == b or (math.isnan(a) and math.isnan(b)), (tag, step, a, b)
texts = sorted({e.step for e in reader.Tensors("samples")}) if "samples" in reader.Tags()["tensors"] else []
print(f"{run}/tb: TensorBoard reads {len(want)} series, {sum(map(len, want.values()))} numbers, all as in metrics.jsonl; samples at steps {texts}")
