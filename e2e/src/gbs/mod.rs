//! A client of the GBS wire (the HTTPS storage protocol), for tests and for the load generator.
//!
//! It says exactly what it is told to say, odd requests included, and reports exactly what came back. It is not a
//! Tahoe client: it knows nothing of files, only of requests, and it repeats nothing on its own.
//!
//! - [`Nurl`]: the address of an account on a server
//! - [`Request`]: one request, well-formed unless one asks for something else
//! - [`Connection`]: one kept TLS connection; bytes out, [`Response`] back, with little CPU
//! - [`Client`]: typed calls over one connection that is opened again when it was closed
//! - [`cbor`]: bodies, written by hand so that they can be wrong on purpose

pub mod cbor;
mod client;
mod connection;
mod nurl;
mod request;
mod tls;

pub use client::{Allocated, Client, NoAnswer, Status, Written};
pub use connection::{Connection, Response};
pub use nurl::Nurl;
pub use request::{Request, SecretKind, storage_index_text};
pub use tls::{Pin, client_config, client_config_with};
