"""Architecture search in a supernet: one training, sub-networks for several targets, each extracted and proved."""
