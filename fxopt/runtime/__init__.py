"""The part that a device installs: artifacts loaded, run, timed and compared. No module here imports torch.

May import ``backend``, ``target`` and ``support``, which do without torch too.
Offers :func:`fxopt.load`, :class:`fxopt.Artifact`, devices by address, and interleaved timing.
"""
