"""LiteRT, once TensorFlow Lite, as a backend of fxopt: a converter in an environment of its own, a runtime beside fxopt."""
