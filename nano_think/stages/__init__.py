"""Floor 7: the stages: configuration and named input artifacts in, one artifact out."""
