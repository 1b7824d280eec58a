"""Workloads that come with fxopt: a model, its example inputs and, where there are any, its data.

::

    digits            8x8 handwritten digits (scikit-learn's), a trained residual network; seconds to train
    glyphs            drawn characters of any size and number, a deeper network of the same family
    shapes            drawn scenes with boxes: detection, with a small single-shot detector
    torchvision_zoo   torchvision:NAME, all float models, random or downloaded weights
    timm_zoo          timm:NAME, likewise

    digits.toml, glyphs.toml, shapes.toml    recipes for `fxopt build`: prune, factorize, distill, quantize
    digits_int8.toml                         one that only quantizes
    demo_weights/                            trained weights, not in the core wheel; metadata with command and figures

    nets              the network of digits and glyphs          train      trains it: python -m fxopt.models.train
    images            labelled images: batches, loss, top-1     weights    reads and writes the .safetensors
    glyph_images      draws the characters                      synthetic  images for models without data
    scene_images      draws the scenes                          detection/ data with boxes, mAP, the detector and its tail
    randomize         random weights that hide no bug           zoo_inputs example inputs by family
    vision_import     imports torchvision, timm and transformers beside a CPU torch

To add a workload of your own, write a function that returns a :class:`fxopt.workload.Workload` and name it in the entry
points of your package (group ``fxopt.workloads``), or give ``fxopt --load my_model.py``.
"""
