"""Cloud, shadow and validity masks."""
