"""Programs run without side effects, in their own precision or in float64, and the error between two results.

May import ``ir``. Offers runs, probe inputs and error metrics to the proofs, the frontend and the driver.
"""
