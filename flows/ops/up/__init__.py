"""`unveil up`: a whole system from one folder."""
