//! Ports against the real kernel: veth pairs in network namespaces that each test makes and leaves to the kernel to
//! clean up. They need root.

mod capture;
mod control;
mod exclusive;
mod frames;
mod host;
mod netns;
mod tcp;
