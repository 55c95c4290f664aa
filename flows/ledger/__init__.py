"""The ledger of work: which unit is in which state, who holds it and until when, and how it ended."""
