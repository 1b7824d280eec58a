"""The supernet of a captured graph: narrower and shallower sub-networks that share its weights."""
