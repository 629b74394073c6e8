"""Cameras behind `vision.frames.Camera`: one file for each kind, and `open_camera`."""
