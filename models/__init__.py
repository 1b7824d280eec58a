"""Workloads that come with fxopt: a model, its example inputs and, where there are any, its data.

::

    digits            8x8 handwritten digits (scikit-learn's), a trained residual network; seconds to train
    glyphs            drawn characters of any size and number, a deeper network of the same family
    shapes            drawn scenes with boxes: detection, with a small single-shot detector
    shape_masks       the same scenes with a class for each pixel: segmentation, with a small U-Net
    pitch             synthesised voices: their pitch frame by frame, with convolutions and a GRU
    torchvision_zoo   torchvision:NAME, all float models, random or downloaded weights
    timm_zoo          timm:NAME, likewise

    NAME.toml                                recipes for `fxopt build`: prune, factorize, distill, quantize
    digits_int8.toml                         one that only quantizes
    demo_weights/                            trained weights, not in the core wheel; metadata with command and figures

    nets              the network of digits and glyphs          train      trains it: python -m fxopt.models.train
    images            labelled images: batches, loss, top-1     weights    reads and writes the .safetensors
    splits            splits held in memory
    glyph_images      draws the characters                      synthetic  images for models without data
    scene_images      draws the scenes, of scene_shapes         detection/ data with boxes, mAP, the detector and its tail
    segmentation/     data with masks, mIoU, the U-Net          audio/     voices, data with pitches, the tracker
    randomize         random weights that hide no bug           zoo_inputs example inputs by family
    vision_import     imports torchvision, timm and transformers beside a CPU torch

To add a workload of your own, write a function that returns a :class:`fxopt.workload.Workload` and name it in the entry
points of your package (group ``fxopt.workloads``), or give ``fxopt --load my_model.py``.
"""
