"""Segmentation methods: pure functions over what the backbones return."""
