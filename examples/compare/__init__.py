"""All methods side by side on the pictures of any folder."""
