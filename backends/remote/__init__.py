"""Devices over the network, by TVM's remote procedure calls, which bring files and calls to one machine of several.

address.py   where a device is: by itself, or behind a tracker
serve.py     what runs on the device
greeting.py  the first bytes of a connection
token.py     who may use a device
session.py   the process that answers one client
tracker.py   a device registered with a tracker
service.py   what it answers: load an artifact, run it, time it
message.py   a question or an answer as bytes
connect.py   a session with a device
link.py      the process that holds a session, and can be ended when a device hangs
child.py     a process that talks through a pipe, and ends with its parent
device.py    the device as fxopt sees it
"""
