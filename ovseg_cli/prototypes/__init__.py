"""From a class name to prototypes: support set, masks, pooled features."""
