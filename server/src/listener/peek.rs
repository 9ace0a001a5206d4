//! The first bytes of a connection, which tell its protocol (`foolscap.md` 16).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a Foolscap connection begins with, in clear. TLS begins with another byte.
const CLEAR_TEXT: &[u8; 8] = b"GET /id/";

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A request in clear text, to go on in TLS.
    ClearText,
    /// TLS, or nothing that is known: TLS will say so.
    Tls,
}

/// A stream whose first bytes were looked at, and are read again.
#[derive(Debug)]
pub struct Peeked<S> {
    seen: [u8; CLEAR_TEXT.len()],
    /// The part of `seen` that is still to be read.
    left: std::ops::Range<usize>,
    stream: S,
}

impl<S: AsyncRead + Unpin> Peeked<S> {
    /// Reads as little as tells one protocol from the other.
    pub(super) async fn peek(mut stream: S) -> io::Result<(Beginning, Self)> {
        let mut seen = [0; CLEAR_TEXT.len()];
        let mut count = 0;
        while count < seen.len() && CLEAR_TEXT.starts_with(&seen[..count]) {
            match stream.read(&mut seen[count..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => count += more,
            }
        }
        let beginning = if seen == *CLEAR_TEXT { Beginning::ClearText } else { Beginning::Tls };
        Ok((beginning, Self { seen, left: 0..count, stream }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Peeked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = this.left.len().min(buf.remaining());
        buf.put_slice(&this.seen[this.left.start..this.left.start + count]);
        this.left.start += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Peeked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_read_again_however_it_arrives() {
        for (bytes, expected) in [
            (&b"GET /id/abc HTTP/1.1\r\n\r\n"[..], Beginning::ClearText),
            (b"GET /id", Beginning::Tls),
            (b"GET /storage/v1/version", Beginning::Tls),
            (b"\x16\x03\x01", Beginning::Tls),
        ] {
            for chunk in [1, 3, 64] {
                let (reader, mut writer) = tokio::io::duplex(chunk);
                let sent = bytes.to_vec();
                let sending =
                    tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut writer, &sent).await });
                match Peeked::peek(reader).await {
                    Ok((beginning, mut stream)) => {
                        assert_eq!(beginning, expected, "{bytes:?}");
                        let mut read = Vec::new();
                        stream.read_to_end(&mut read).await.expect("reads");
                        assert_eq!(read, bytes);
                    }
                    Err(error) => assert_eq!((error.kind(), bytes), (io::ErrorKind::UnexpectedEof, &b"GET /id"[..])),
                }
                drop(sending.await.expect("sent"));
            }
        }
    }
}
