"""An artifact as one file that runs on a device without Python.

May import ``runtime``, ``backend``, ``target`` and ``support``. Offers :func:`fxopt.bundle.bundling.bundle`.
"""
