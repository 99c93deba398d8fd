"""Braze's Liquid: its dialect, its Connected Content tag, and what breaks in it. No Flask, no requests."""
