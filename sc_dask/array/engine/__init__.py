"""Passes over a lazy X, computed by Dask's threads, processes or a cluster, with the same digits everywhere.

`run` is what everybody else calls. `segments` says in which order results of blocks are put together, `passes` makes
the tasks of a pass, `executors` and `cluster` compute tasks, `batch` lets several functions share their passes, `join`
puts per-row results together.
"""
