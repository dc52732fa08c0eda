"""Scoring predictions against ground truth: one confusion matrix, every figure from it."""
