"""Background jobs: database table, runner, environment and journal for jobs of every kind.

A kind defines the stored record, the work on one job, and the objects that the API returns; `kind.JobKind` is the
interface.
"""
