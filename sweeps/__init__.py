"""The sweeps, shipped as the package kipx.sweeps."""
