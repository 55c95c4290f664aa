"""Diffusion Enhancement (arXiv 2401.15105): the method, on torch and numpy alone."""
