//! The front ends: each translates one wire into calls on the store, and errors into that wire's.

pub mod body;
pub mod gbs;
