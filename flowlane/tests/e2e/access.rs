//! Who may ask the switch for what, and what else is kept from others. Denied calls are those of docs/openapi.json: each
//! operation, for everybody who may not. What a user without privileges can do to what is in the kernel is an attack
//! (`tests/attacks.rs`).

mod confinement;
mod local;
mod operations;
mod remote;
