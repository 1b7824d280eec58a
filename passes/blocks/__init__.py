"""Blocks: regions of a program with one value in and one out, found, and exchanged for cheaper ones."""
