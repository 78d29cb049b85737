"""Structure: labels of channels, and cutting them."""
