"""Pages of HTML that stand alone: what they are made of, and the page of a run."""
