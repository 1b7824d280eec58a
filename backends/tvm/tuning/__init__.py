"""Tiles found by measurement: timed in persistent processes, kept in a file that all models and runs share.

trial.py         one tile, tried; the record of a task
database.py      one line a trial, for one processor and version
proposals.py     which tile to try next
job.py           messages between the search and its workers
worker.py        the process that compiles and times a kernel, by
local_runner.py  in itself, or
rpc_runner.py    on a device
worker_pool.py   several workers, kept alive, and never two timing at once on one machine
search.py        which task to try next, until time or trials are out
report.py        where the tiles of a build come from
"""
