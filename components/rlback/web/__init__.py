"""The console: a web server over the same operations as the command line."""
