//! Passwords that no other test knows.

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;

/// A random word of 32 hexadecimal digits.
pub fn random() -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("no randomness")?;
    Ok(HEXLOWER.encode(&bytes))
}
