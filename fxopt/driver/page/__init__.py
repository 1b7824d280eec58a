"""Pages made of reports: one self-contained HTML file, readable in light and dark, on a phone, printed, and without scripts.

A page is a title, a verdict and sections; a section is made of tables, gauges, plots and text, which the templates draw and
escape. What is measured or decided is in the reports; nothing here computes anything but words and places.
"""
