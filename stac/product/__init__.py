"""From restored pixels to COGs and a STAC item."""
