"""The machine: memory, control groups, the cache folder, file modes."""
