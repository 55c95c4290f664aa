"""Figures of a product, and the gate that judges them."""
