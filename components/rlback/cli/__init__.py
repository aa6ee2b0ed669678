"""The command line: one thin function a verb, each calling an operation of the same meaning."""
