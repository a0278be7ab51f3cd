"""The queue: what is published, how each broker is made to keep the promises, and the embedded one."""
