"""Example pictures with exact labels, and the renderer that made them."""
