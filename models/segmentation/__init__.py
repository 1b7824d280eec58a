"""Segmentation: images with masks as data, a U-Net.

::

    data    batches, cross entropy of each pixel, mean intersection over union
    nets    the network of `shape_masks`
"""
