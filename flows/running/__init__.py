"""What the flows share: preparing, mapping units on workers of every kind, and how a run ended."""
