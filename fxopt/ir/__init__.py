"""The program: an fx graph of ATen ops with its weights, the op table, text form, and analyses of one graph.

May import ``support`` and ``errors``. Offers :class:`fxopt.Program` and what reads, prints, parses and measures it.
"""
