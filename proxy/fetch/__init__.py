"""Request coalescing: one call to Amplitude for many callers, sent within the quota. No HTTP and no Flask."""
