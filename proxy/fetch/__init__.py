"""Request coalescing: one call for many callers, sent within the quota."""
