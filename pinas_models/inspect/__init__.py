"""Looking at a network: what it costs and how it is built."""
