"""What other dates say about hidden pixels."""
