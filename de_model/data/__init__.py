"""Training data: pairs of a cloudy and a clear view of the same ground, and patches drawn from them."""
