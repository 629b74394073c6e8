"""What a bin does beside serving: each service has a period and `step(now_ms)`; time is given."""
