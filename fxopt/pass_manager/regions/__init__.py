"""Rewritten regions of a program, each with its input values (leaves) and its result; run and compared.

``region`` finds them, ``trials`` and ``leaf_values`` choose their inputs, by their ``profile``; ``check`` runs both sides.
"""
