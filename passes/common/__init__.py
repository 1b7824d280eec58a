"""What passes of several themes share: calibration batches, stored weights, layer rows, singular values, bisection."""
