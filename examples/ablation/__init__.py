"""The ablations of the prototype method on the mini models, in one table (see the README beside this file)."""
