"""The shipped bundles on other processors: see run.sh."""
