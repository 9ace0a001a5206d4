//! The least of a PostgreSQL client: plain statements over the server's own socket, for setting up and looking in.
//!
//! The server trusts its socket, which lies in a folder that only its user and root may enter. What is tested uses a
//! client of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The version of the protocol: 3.0.
const PROTOCOL: u32 = 196_608;
/// How long the server may take for one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A message larger than this means that the two sides no longer understand each other.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One row of an answer: the columns as text, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// A connection to one database.
pub struct Session {
    stream: UnixStream,
}

impl Session {
    /// Connects to `database` as `user` through the socket at `path`.
    pub fn open(path: &Path, user: &str, database: &str) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
        stream.set_read_timeout(Some(STATEMENT_TIMEOUT))?;
        stream.set_write_timeout(Some(STATEMENT_TIMEOUT))?;
        let mut session = Self { stream };
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        for text in ["user", user, "database", database, "application_name", "test set-up"] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        session.stream.write_all(&with_length(&body)?)?;
        session.read_until_ready().with_context(|| format!("log in to {database}"))?;
        Ok(session)
    }

    /// Runs one statement, or several with semicolons between, and gives all rows that come back.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        let body = [sql.as_bytes(), &[0]].concat();
        self.stream.write_all(&[&b"Q"[..], &with_length(&body)?].concat())?;
        self.read_until_ready().with_context(|| format!("run {sql}"))
    }

    fn read_until_ready(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let (kind, body) = self.read_message()?;
            match kind {
                b'D' => rows.push(row(&body)?),
                b'E' => failure = Some(message_of(&body)),
                b'R' => ensure!(body.starts_with(&[0; 4]), "the server does not trust its own socket"),
                b'Z' => break,
                _ => {}
            }
        }
        match failure {
            None => Ok(rows),
            Some(message) => bail!("{message}"),
        }
    }

    fn read_message(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).context("read from the server")?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        ensure!((4..=MESSAGE_BYTES_MAX).contains(&length), "a message of {length} bytes");
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).context("read from the server")?;
        // A server that refuses a connection says so and hangs up, without a word that it is ready.
        if head[0] == b'E' && message_of(&body).starts_with("FATAL") {
            bail!("{}", message_of(&body));
        }
        Ok((head[0], body))
    }
}

/// `body` after its length, which counts itself.
fn with_length(body: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(body.len() + 4).context("a message that is too long")?;
    Ok([&length.to_be_bytes(), body].concat())
}

fn row(body: &[u8]) -> Result<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>().context("a row without a count")?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().context("a column without a length")?;
        let length = i32::from_be_bytes(*length);
        rest = after;
        let Ok(length) = usize::try_from(length) else {
            columns.push(None);
            continue;
        };
        let (value, after) = rest.split_at_checked(length).context("a column that is cut off")?;
        columns.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Ok(columns)
}

/// Severity, code and text of an error's fields.
fn message_of(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0).filter_map(|field| field.split_first());
    let wanted = fields.filter(|(kind, _)| matches!(**kind, b'V' | b'C' | b'M'));
    let texts: Vec<String> = wanted.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_text_and_null() -> Result<()> {
        let body = [&[0, 2][..], &[0, 0, 0, 2], b"ab", &[0xff; 4]].concat();
        assert_eq!(row(&body)?, [Some("ab".to_owned()), None]);
        assert!(row(&body[..7]).is_err());
        Ok(())
    }

    #[test]
    fn error_names_severity_code_and_text() {
        assert_eq!(message_of(b"SERROR\0VERROR\0C42P04\0Malready there\0\0"), "ERROR 42P04 already there");
    }
}
