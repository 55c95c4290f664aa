"""Training: losses, the moving average, and the stages from reference to the whole."""
