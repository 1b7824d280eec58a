"""An artifact as one file that runs on a device without Python.

bundling.py        puts it together
standalone.py      what a backend contributes to it
wheels.py          runtime libraries, from the packages that have them
interface_text.py  inputs and outputs as the program reads them
readme.py          what to type on the device
packing.py         the same bytes for the same files
flash.py           whether it fits into the target's flash
"""
