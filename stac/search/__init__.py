"""Find items: STAC APIs, static catalogs, Sentinel Hub; which items make a scene."""
