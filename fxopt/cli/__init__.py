"""The command line: one module for each family of commands, and what they print.

May import every other room; nothing imports it. Offers :func:`fxopt.cli.main.main`, the console script ``fxopt``.
"""
