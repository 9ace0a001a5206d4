//! The stores that a server can keep share bytes in.

pub mod any;
pub mod cached_blocks;
pub mod directory;
pub mod s3;
pub mod watched;
