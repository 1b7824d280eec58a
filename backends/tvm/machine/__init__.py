"""The target's processor: vector width, dot-product instructions, tile registers. Imports no other folder of tvm's."""
