"""Braze's Liquid dialect and the rendering of messages in child processes; no Flask and no access to user data."""
