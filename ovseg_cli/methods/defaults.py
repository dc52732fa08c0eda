"""Where methods find the shape of their published settings."""

from ovseg_cli.profiles.specs import DenseDefaults as DenseDefaults
