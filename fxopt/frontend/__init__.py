"""From a module to a program: capture through ``torch.export``, diagnostics, the check against eager, ``.pt2`` files.

May import ``numerics``, ``ir`` and ``support``.
Offers :func:`fxopt.capture`, :func:`fxopt.capture_parts`, :func:`fxopt.capture_split`,
:func:`fxopt.load_program` and :func:`fxopt.save_program`.
"""
