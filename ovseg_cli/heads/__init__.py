"""Trained heads: what is learnt on top of a frozen CLIP, how it is trained, and the file that it is kept in."""
