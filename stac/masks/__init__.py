"""Cloud, shadow and snow: what each pixel of an acquisition shows."""
