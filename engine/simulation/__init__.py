"""A fleet of servers on a virtual clock: real schedulers, modeled step times."""
