"""The library of blocks: what may stand in place of one, each started from its weights in closed form."""
