"""Reads OpenMetrics text by prometheus_client's strict parser. Argument: a file. Prints the samples as a JSON object."""

import json
import sys
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

samples = {}
for family in text_string_to_metric_families(Path(sys.argv[1]).read_text()):
    assert family.documentation, f"{family.name} says nothing"
    for sample in family.samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
print(json.dumps(samples))
