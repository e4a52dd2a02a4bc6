"""Checked settings, and what follows from them: paths, devices, layout, overlap, recomputation."""
