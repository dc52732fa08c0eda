"""From scores to a label map: windows, fusion, background, resizing."""
