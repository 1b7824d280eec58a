"""Segmentation: images with masks as data, a U-Net.

::

    data    batches, loss, mean intersection over union
    nets    the network of `shape_masks`
"""
