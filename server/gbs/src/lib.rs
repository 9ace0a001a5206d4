//! The wire of the HTTPS storage protocol ("Great Black Swamp"), `gbs.md` throughout: what a request asks for and what an answer
//! looks like. Knows no listener, no accounts and no storage.

pub mod auth;
pub mod cbor;
pub mod range;
pub mod route;
pub mod wire;
