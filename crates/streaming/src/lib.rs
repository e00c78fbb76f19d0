//! Multiplexed byte streams for exec, attach and port-forward: WebSocket v5/v4 and SPDY/3.1.
