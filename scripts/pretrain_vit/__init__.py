"""A small vision transformer, pretrained on images that this folder draws: letters, shapes and textures, no digit."""
