"""Compares an hgrm file with the raw times. Arguments: a file of microseconds, one a line; the hgrm file.

The raw times go into an HdrHistogram of their own (the hdrh module, 1 us to 1 h, 3 digits); its percentiles, count and greatest value must be those of the text."""

import sys
from pathlib import Path

from hdrh.histogram import HdrHistogram

own = HdrHistogram(1, 3_600_000_000, 3)
times = [int(line) for line in Path(sys.argv[1]).read_text().split()]
for time in times:
    own.record_value(time)

rows, totals = [], {}
for line in Path(sys.argv[2]).read_text().splitlines():
    if line.startswith("#["):
        for part in line.strip("#[] ").split(","):
            name, value = part.split("=")
            totals[name.strip()] = float(value)
    elif line.strip() and not line.lstrip().startswith("Value"):
        rows.append([float(column) for column in line.split() if column != "inf"])

assert rows and totals["Total count"] == len(times), (totals, len(times))
# Values may be scaled to milliseconds; one factor for all.
scale = max(times) / totals["Max"]
factor = min((1, 1000, 1_000_000), key=lambda f: abs(f - scale) / f)
for value, percentile, count, *_ in rows:
    # By the row's count: implementations round a percentile to a count in different ways.
    expected = own.get_value_at_percentile(100 * count / len(times))
    assert count >= percentile * len(times) - 1, (percentile, count)
    assert abs(value * factor - expected) <= expected / 1000 + 1, (percentile, value, expected)
assert sorted(row[1] for row in rows) == [row[1] for row in rows]
assert rows[-1][2] == len(times)
print("equal")
