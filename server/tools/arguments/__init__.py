"""JSON Schemas of tool arguments: the parts that formats other than JSON can write, read and enforce."""
