#!/bin/sh
# Two servers behind vllm-router (pip install vllm-router): prompts go where the servers' events say that they are cached.
# MODEL is what the servers call their model. Each: headrace serve MODEL --kv-events tcp://127.0.0.1:5557 (5558 for the second)
exec vllm-router --host 127.0.0.1 --port 8080 \
  --worker-urls http://127.0.0.1:8000 http://127.0.0.1:8001 \
  --policy kv_aware --kv-event-model MODEL --kv-event-block-size 16 \
  --kv-event-source http://127.0.0.1:8000=tcp://127.0.0.1:5557 \
  --kv-event-source http://127.0.0.1:8001=tcp://127.0.0.1:5558 \
  --health-check-endpoint /ready --health-check-interval-secs 2 --health-failure-threshold 1 \
  --health-success-threshold 1 \
  --retry-max-retries 3 --retry-initial-backoff-ms 50 \
  "$@"
