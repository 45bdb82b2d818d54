"""Background jobs: one table access, one runner, one environment and one journal for jobs of every kind.

A kind brings a record that is stored, the work on one job, and the objects that clients see of it; `runner.JobKind` is
the interface.
"""
