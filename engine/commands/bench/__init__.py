"""`headrace bench` latency, throughput, roofline and spec."""
