"""What gives crops of pictures a score per class, and the networks that scorers share."""
