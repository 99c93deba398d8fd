"""The sync command: reads values from Amplitude, and writes changed values to Braze."""
