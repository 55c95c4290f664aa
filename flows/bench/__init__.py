"""Measuring what Unveil costs: the demo from outside, the model from inside."""
