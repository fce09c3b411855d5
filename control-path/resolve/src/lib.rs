//! Next hosts from the Linux routing, neighbour and forwarding tables.
