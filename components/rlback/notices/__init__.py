"""Telling the outside what happened: signed webhooks, configured by a file in the project."""
