"""Pictures for people: overlays, contact sheets and explanations. None of them is read back."""
