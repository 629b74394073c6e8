"""The bin: camera in, lid moves, events out. Never imports torch, ray or pyarrow."""
