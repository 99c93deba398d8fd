"""Braze's Liquid dialect: rendering, and findings about templates."""
