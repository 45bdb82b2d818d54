"""Order of service: service classes and their rules, and fair queuing among the tenants of a class."""
