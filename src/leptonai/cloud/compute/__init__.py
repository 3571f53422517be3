"""Where workloads run. A driver launches, observes, stops and reads logs; `local` is this machine."""
