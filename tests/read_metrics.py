#!/usr/bin/env python3
"""Reads metrics in the text format of Prometheus with the parser of its own Python client.

    read_metrics.py < METRICS

Needs prometheus_client (https://prometheus.github.io/client_python), which `scripts/setup --test` installs. It prints a
JSON list of samples, each with the kind of its metric. What the parser does not take, or a metric without help, or one that
is there twice, ends it with an error.
"""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

samples, names = [], set()
for metric in text_string_to_metric_families(sys.stdin.read()):
    if metric.type == "unknown" or not metric.documentation:
        sys.exit(f"the metric {metric.name} has no kind or no help")
    if metric.name in names:
        sys.exit(f"the metric {metric.name} is there twice")
    names.add(metric.name)
    for sample in metric.samples:
        # JSON has no word for infinity, and nothing here may be endless.
        samples.append({"name": sample.name, "kind": metric.type, "labels": sample.labels, "value": sample.value})
json.dump(samples, sys.stdout, allow_nan=False)
