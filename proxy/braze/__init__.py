"""The client of Braze's REST API, and the limits of Braze."""
