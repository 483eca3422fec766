"""The configuration, shipped as the package kipx.conf."""
