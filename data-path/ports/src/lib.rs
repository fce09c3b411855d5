//! Frames in and out: AF_PACKET rings, capture files, memory.
