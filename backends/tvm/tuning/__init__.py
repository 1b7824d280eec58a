"""Tiles found by measurement: tried in processes that stay, kept in a file that all models and sessions share.

database.py   one line a trial; what is known of a task
proposals.py  which tile to try next
worker.py     the process that compiles and times a kernel
workers.py    several of them, kept alive, and never two timing at once
search.py     which task to try next, until time or trials are out
"""
