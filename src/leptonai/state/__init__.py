"""Small durable state of programs: key-value store, queue, objects. On this machine, or in the workspace where one is logged in to."""
