"""The command line: parse, call one core function, render. Nothing heavy is imported at module level."""
