"""What `headrace serve`, `bench` and `quantize` do: options, the life of the process, its terminal."""
