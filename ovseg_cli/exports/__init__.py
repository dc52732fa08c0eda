"""Label maps in the files that other tools read: one module for each format, `registry` for all of them.

No module here loads torch. `ovseg_cli.exports.run.export_run` is the way in.
"""
