//! The stores that a server can keep share bytes in.

pub mod directory;
pub mod watched;
