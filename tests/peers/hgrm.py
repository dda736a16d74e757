"""Compares an hgrm file with raw times. Arguments: the hgrm file, then one or two files of microseconds, one a line.

With one file, the text must have the percentiles of these very times: exactly those of an HdrHistogram of another implementation
(the hdrh module, 1 us to 1 h, 3 digits), and to three digits those of the sorted times themselves. With two, no time of the text can be
less than its counterpart in the first file nor more than that in the second, so the same holds for every percentile. Prints how far apart
the two were at most, from the median on, in per cent."""

import math
import sys
from pathlib import Path

from hdrh.histogram import HdrHistogram


def read(name):
    times = sorted(int(line) for line in Path(name).read_text().split())
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for time in times:
        histogram.record_value(time)
    return times, histogram


rows, totals = [], {}
for line in Path(sys.argv[1]).read_text().splitlines():
    if line.startswith("#["):
        for part in line.strip("#[] ").split(","):
            name, value = part.split("=")
            totals[name.strip()] = float(value)
    elif line.strip() and not line.lstrip().startswith("Value"):
        rows.append([float(column) for column in line.split() if column != "inf"])

files = [read(name) for name in sys.argv[2:]]
(low, low_histogram), (high, high_histogram) = files[0], files[-1]
assert rows and totals["Total count"] == len(low) == len(high), (totals, len(low), len(high))
apart = 0
for value, percentile, count, *_ in rows:
    # By the row's count: implementations round a percentile to a count in different ways.
    share, nth = 100 * count / len(low), int(count) - 1
    least, most = low_histogram.get_value_at_percentile(share), high_histogram.get_value_at_percentile(share)
    assert count >= percentile * len(low) - 1, (percentile, count)
    assert least <= value <= most, (percentile, value, least, most)
    assert low[nth] * 0.999 - 1 <= value <= high[nth] * 1.001 + 1, (percentile, value, low[nth], high[nth])
    if percentile >= 0.5:
        apart = max(apart, 100 * (most - least) / least)
assert sorted(row[1] for row in rows) == [row[1] for row in rows]
assert rows[-1][2] == len(low) and math.isclose(rows[-1][1], 1)
assert low_histogram.get_value_at_percentile(100) <= totals["Max"] <= high_histogram.get_value_at_percentile(100)
print(f"{apart:.3f}")
