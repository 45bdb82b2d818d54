"""Properties of the machine: memory, cores, control groups; the cache folder, file locks and modes."""
