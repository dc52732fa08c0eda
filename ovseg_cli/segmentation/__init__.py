"""What a run is asked for, what that comes to, and how images are segmented by it."""
