//! The tables of a switch: slots, ports, counters, and every way a frame can end.
