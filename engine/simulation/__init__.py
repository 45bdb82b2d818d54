"""A fleet of servers on a virtual clock: real schedulers, modelled step times."""
