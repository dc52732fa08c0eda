"""Names of classes as texts: the words that stand for them, their embeddings, and which classes fit a picture."""
