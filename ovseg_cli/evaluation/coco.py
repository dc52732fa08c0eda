"""Ground truth in COCO JSON files."""
