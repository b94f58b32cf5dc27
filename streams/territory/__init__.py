"""Territories: the folder that describes one authority, and the ways to make, check and look at it.

`files` reads and writes the folder, `build` makes one from open data, `synth` invents one, `draw` shows one.
"""
