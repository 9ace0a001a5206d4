//! One request and its answer on their way through the proxy.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::call::Call;
use super::rules::Fault;
use super::{Shared, TICK};
use crate::http1::{Framing, Head, Piece, read_content, read_pieces};
use crate::relay::{connect, reset_when_dropped};

/// How long the server may take before the proxy gives up; longer than any client's own patience.
const SERVER_TIMEOUT: Duration = Duration::from_secs(300);

type Reader<'a> = BufReader<&'a TcpStream>;

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next request may come.
    Go,
    /// It ends in order.
    End,
}

/// A request whose body has not been read.
pub struct Exchange<'a> {
    pub shared: &'a Shared,
    pub client: &'a TcpStream,
    pub head: Head,
    pub call: Call,
}

impl Exchange<'_> {
    /// Passes the request on and the answer back, with `fault`. An error means that the connection is to be reset.
    pub fn run(mut self, reader: &mut Reader<'_>, fault: Option<Fault>) -> io::Result<Then> {
        self.invite_body()?;
        match fault {
            Some(Fault::Answer { status, code }) => return self.refuse(reader, status, code),
            Some(Fault::ResetBefore) => {
                self.discard_body(reader)?;
                return Err(ErrorKind::ConnectionReset.into());
            }
            Some(Fault::Delay(time)) => self.wait(time)?,
            Some(Fault::StaleListing) => {
                if let Some(text) = self.shared.past_listing(&self.call) {
                    return self.answer(reader, 200, "OK", &text);
                }
            }
            Some(Fault::IgnoreConditions) => self.strip_conditions()?,
            _ => {}
        }
        let server = connect(self.shared.target())?;
        server.set_nodelay(true)?;
        server.set_read_timeout(Some(SERVER_TIMEOUT))?;
        server.set_write_timeout(Some(SERVER_TIMEOUT))?;
        // It serves one request and is reset after it, so that no connection waits anywhere for its time to end.
        reset_when_dropped(&server);
        let all_sent = self.send_request(reader, &server, fault.as_ref())?;
        let then = self.return_answer(&server, fault.as_ref())?;
        Ok(if all_sent { then } else { Then::End })
    }

    /// A client that waits for leave to send the body gets it from here.
    fn invite_body(&self) -> io::Result<()> {
        if self.head.get("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            let mut client = self.client;
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    fn strip_conditions(&mut self) -> io::Result<()> {
        let removed = ["if-match", "if-none-match"].map(|name| self.head.remove(name));
        if removed.contains(&true) {
            // The signature covers the conditions.
            self.shared.credentials.sign_again(&mut self.head).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Sends head and body; says whether the body was read to its end.
    fn send_request(&self, reader: &mut Reader<'_>, mut server: &TcpStream, fault: Option<&Fault>) -> io::Result<bool> {
        let mut room = if let Some(Fault::CutRequest { bytes }) = fault { *bytes } else { u64::MAX };
        let framing = self.head.request_framing()?;
        self.head.write_to(&mut server)?;
        let mut is_refused = false;
        read_pieces(reader, framing, |piece| {
            let bytes = piece.bytes();
            let taken = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            // A server that has made up its mind may hang up before the end; its answer is worth reading all the same.
            is_refused = is_refused || server.write_all(&bytes[..taken]).is_err();
            self.shared.note_bytes(taken, 0);
            room -= if let Piece::Data(_) = piece { taken as u64 } else { 0 };
            if room == 0 { Err(ErrorKind::ConnectionReset.into()) } else { Ok(true) }
        })?;
        Ok(!is_refused)
    }

    fn return_answer(&self, server: &TcpStream, fault: Option<&Fault>) -> io::Result<Then> {
        let mut reader = BufReader::new(server);
        let mut head = loop {
            let head = Head::read(&mut reader)?.ok_or(ErrorKind::UnexpectedEof)?;
            if head.status() >= 200 {
                break head;
            }
        };
        let framing = head.response_framing(self.head.method())?;
        let length = if let Framing::Length(length) = framing { length } else { u64::MAX };
        match fault {
            Some(Fault::ResetAfter) => {
                read_content(&mut reader, framing)?;
                return Err(ErrorKind::ConnectionReset.into());
            }
            Some(Fault::ShortenResponse { bytes }) if length != u64::MAX => {
                head.remove("content-length");
                head.push("content-length", length.min(*bytes).to_string());
            }
            Some(Fault::Stall(time)) if length == 0 => self.wait(*time)?,
            _ => {}
        }
        let mut client = self.client;
        head.write_to(&mut client)?;
        self.return_body(&mut reader, framing, length, fault)?;
        let is_last = |head: &Head| head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let ends = framing == Framing::UntilClose || is_last(&head) || is_last(&self.head);
        Ok(if ends { Then::End } else { Then::Go })
    }

    fn return_body(
        &self,
        reader: &mut BufReader<&TcpStream>,
        framing: Framing,
        length: u64,
        fault: Option<&Fault>,
    ) -> io::Result<()> {
        let mut client = self.client;
        let mut passed = 0;
        let mut has_stalled = false;
        read_pieces(reader, framing, |piece| {
            let Piece::Data(bytes) = piece else {
                client.write_all(piece.bytes())?;
                return Ok(true);
            };
            self.shared.note_bytes(0, bytes.len());
            let end = passed + bytes.len() as u64;
            match fault {
                Some(Fault::CutResponse { bytes: limit }) if end > *limit => {
                    client.write_all(&bytes[..within(limit - passed, bytes)])?;
                    // What was written must arrive: a reset takes back what is still on its way.
                    self.wait_for_delivery()?;
                    return Err(ErrorKind::ConnectionReset.into());
                }
                Some(Fault::ShortenResponse { bytes: limit }) if end > *limit => {
                    client.write_all(&bytes[..within(limit - passed, bytes)])?;
                    return Ok(false);
                }
                Some(Fault::FlipByte { at }) => {
                    client.write_all(&flipped(bytes, passed, (*at).min(length.saturating_sub(1))))?;
                }
                Some(Fault::Stall(time)) if !has_stalled && (end >= length / 2) => {
                    has_stalled = true;
                    let half = within((length / 2).saturating_sub(passed), bytes);
                    client.write_all(&bytes[..half])?;
                    self.wait(*time)?;
                    client.write_all(&bytes[half..])?;
                }
                _ => client.write_all(bytes)?,
            }
            passed = end;
            Ok(true)
        })
    }

    fn refuse(&self, reader: &mut Reader<'_>, status: u16, code: &str) -> io::Result<Then> {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
             <Message>a fault that a test asked for</Message><RequestId>0</RequestId></Error>"
        );
        self.answer(reader, status, code, &text)
    }

    /// Answers in the server's place.
    fn answer(&self, reader: &mut Reader<'_>, status: u16, reason: &str, text: &str) -> io::Result<Then> {
        self.discard_body(reader)?;
        let mut head = Head::new(format!("HTTP/1.1 {status} {reason}"));
        head.push("content-type", "application/xml");
        head.push("content-length", text.len().to_string());
        let mut client = self.client;
        head.write_to(&mut client)?;
        if self.head.method() != "HEAD" {
            client.write_all(text.as_bytes())?;
        }
        Ok(Then::Go)
    }

    fn discard_body(&self, reader: &mut Reader<'_>) -> io::Result<()> {
        read_pieces(reader, self.head.request_framing()?, |_| Ok(true))
    }

    /// Waits, unless the proxy is taken down meanwhile.
    fn wait(&self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            if self.shared.is_closed() {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            std::thread::sleep(rest.min(TICK));
        }
        Ok(())
    }

    /// Waits until the client has had time to read what was written: it does not tell. Ends the stream towards it
    /// first, and then waits for the client to hang up.
    fn wait_for_delivery(&self) -> io::Result<()> {
        self.client.shutdown(std::net::Shutdown::Write)?;
        self.client.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut client = self.client;
        // Whatever comes, the connection is over.
        let _ = client.read(&mut [0; 64]);
        Ok(())
    }
}

/// How much of a piece lies within the next `room` bytes.
fn within(room: u64, bytes: &[u8]) -> usize {
    usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()))
}

/// A piece that begins at `begin` of a body, with one bit of the byte `at` changed if it is in there.
fn flipped(bytes: &[u8], begin: u64, at: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let index = at.checked_sub(begin).and_then(|index| usize::try_from(index).ok());
    if let Some(byte) = index.and_then(|index| bytes.get_mut(index)) {
        *byte ^= 1;
    }
    bytes
}
