"""Makes status follow spec: one controller per kind, driven by one loop. Level-triggered; may be killed between any two lines."""
