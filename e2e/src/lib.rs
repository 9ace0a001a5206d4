//! What the end-to-end tests, the benchmark and the developer tool share.
//!
//! The server is always the released program, started as a process; nothing here links against its packages, but for the
//! wire of the old protocol, of which there is one implementation. The client is the released Tahoe-LAFS, in a Python
//! environment of the tests' own.

// Processes and sockets live in real time; no rule of the protocol is decided here.
#![allow(clippy::disallowed_methods)]

pub mod alerts;
pub mod bench;
pub mod checker;
pub mod cluster;
pub mod dev;
pub mod foolscap;
pub mod gbs;
pub mod history;
pub mod image;
pub mod leasehold;
pub mod pods;
pub mod reference;
pub mod story;
pub mod tahoe;
pub mod venv;

pub use leasehold_e2e_services::process;
