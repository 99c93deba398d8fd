"""Request coalescing: one call to Amplitude for many callers, sent within the quota. Without HTTP and Flask."""
