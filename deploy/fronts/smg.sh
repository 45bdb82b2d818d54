#!/bin/sh
# Two servers behind SMG (pip install smg): prompts go where their beginning went before.
# Each: headrace serve MODEL --metrics-alias vllm
exec smg launch --host 127.0.0.1 --port 8080 \
  --worker-urls http://127.0.0.1:8000 http://127.0.0.1:8001 \
  --policy cache_aware \
  --health-check-endpoint /ready --health-check-interval-secs 2 --health-failure-threshold 1 \
  --health-success-threshold 1 \
  --retry-max-retries 3 --retry-initial-backoff-ms 50 \
  "$@"
