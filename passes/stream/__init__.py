"""Streams: values that are added to each other along a dim of channels, in another basis from end to end."""
