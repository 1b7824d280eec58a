"""The search for recipes: which passes, with which options, on which backend, by measurement on the target.

May import the driver and what is below it. Offers :func:`fxopt.automl.search.search`, the space that passes span
(:mod:`fxopt.automl.space`), and the report of a search.
"""
