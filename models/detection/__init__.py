"""Detection: data with boxes, a small detector, and what follows its graph.

::

    targets             how boxes are stored, and the check of what a data set gives
    data                images with boxes as a workload's data: batches, loss, mAP
    average_precision   COCO's own evaluation
    grid, detect        positions of a head; boxes from its outputs, non-maximum suppression: numpy alone
    loss                which position is to find which box, focal loss, generalized IoU
    nets                the network of `shapes`, and the whole detector with its tail
"""
