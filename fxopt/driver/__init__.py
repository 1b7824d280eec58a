"""The main job: a recipe resolved, its passes run, the program lowered, checked, evaluated and reported.

May import every room below ``testing``; it reaches passes, backends and models through the registry alone.
Offers :func:`fxopt.build`, :class:`fxopt.Recipe`, and the report and manifest that a build writes.
"""
