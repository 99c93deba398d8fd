"""The sync command: reads values from Amplitude, and writes those that changed to Braze."""
