"""Second edition of the method: Diffusion Enhancement in scene-standardised reflectance."""
