"""Trained weights of the demo models: a distribution of its own, ``fxopt-demo-weights``, that no device needs.

The metadata of each file holds the command that made it, its seed, figures and versions.
"""
