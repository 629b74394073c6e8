"""Int8 on other processors, emulated: see run.sh."""
