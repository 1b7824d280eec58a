"""Rewritten regions of a program, each with the values that it reads and the one that it gives; run and compared.

``region`` finds them, ``trials`` and ``leaf_values`` say what they are run on, by their ``profile``; ``check`` runs both sides.
"""
