"""Audio: synthesised tones with their pitch, data over them, a network with a recurrent layer.

::

    tones   gliding tones of many timbres in noise, from a seed
    data    recordings with the pitch of each frame: batches, loss, raw pitch accuracy
    nets    the network of `pitch`
"""
