"""The only code that touches a network's inside: each module walks one family of models and returns plain tensors."""
