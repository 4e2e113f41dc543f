"""Stroke studies on disk <-> sharded TFRecords of native slice pairs."""
