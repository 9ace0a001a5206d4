//! Foolscap, the protocol of Tahoe-LAFS's old storage clients: remote calls over one connection, between two endpoints
//! that know each other by their certificates.
//!
//! A front end makes a [`Tub`], lets it answer the request in clear text ([`Tub::upgrade`]), does TLS itself, and
//! hands the encrypted stream over ([`Tub::serve`]). What can be called are objects ([`Referenceable`]) whose methods
//! are static tables ([`Interface`]), so that a call that does not fit is refused at its first wrong byte. The first object is found by its
//! name ([`Names`]), others travel in answers.
//!
//! Bytes come from anybody: sizes, depths, counts and times are bounded ([`Limits`]) before anything is stored.
//!
//! Not spoken: gifts, copyables other than failures, calls of the server on the client's objects except to release them.

mod call;
pub mod client;
mod connection;
mod failure;
mod furl;
mod limits;
mod memory;
pub mod negotiation;
mod reference;
mod schema;
pub mod slicer;
pub mod token;
mod tub;
pub mod unslicer;
mod value;
mod vocabulary;

pub use call::{Call, Names, Referenceable, Turn};
pub use connection::{CallError, Connection, ConnectionError, Hold, Peer};
pub use failure::{Failure, Violation};
pub use furl::{AddressError, Furl, Incarnation, TubId};
pub use limits::{Limits, SizeLimits};
pub use reference::RemoteReference;
pub use schema::{Argument, Constraint, Interface, Method};
pub use tub::{NegotiationError, PeerCertificate, Tub, TubOptions};
pub use value::{Copyable, Integer, LocalReference, Value};
pub use vocabulary::Vocabulary;
