//! The one task that writes to a connection.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Connection, ConnectionError, Ends, Outgoing, lock};
use crate::failure::{Failure, Violation};
use crate::slicer::{Arguments, Slicer};
use crate::value::Value;
use crate::vocabulary::Vocabulary;

/// So many messages are written at once, if they are there.
const BATCH_MAX: usize = 32;

pub(super) struct Writer {
    connection: Connection,
    slicer: Slicer,
    ends: Ends,
}

impl Writer {
    pub fn new(connection: Connection, vocabulary: Vocabulary, ends: Ends) -> Self {
        Self { connection, slicer: Slicer::new(vocabulary), ends }
    }

    /// Writes what comes, until the end or until nothing can be written.
    pub async fn run(mut self, mut stream: impl AsyncWrite + Unpin) -> Result<(), ConnectionError> {
        let stalled_after = self.connection.0.limits.stalled_after;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                _ = self.ends.outgoing.recv_many(&mut batch, BATCH_MAX) => {}
                Some((clid, count)) = self.ends.releases.recv() => self.release(clid, count),
            }
            while let Ok((clid, count)) = self.ends.releases.try_recv() {
                self.release(clid, count);
            }
            let is_end = matches!(batch.last(), Some(Outgoing::End { .. }));
            for message in &batch {
                self.slice(message);
            }
            write(&mut stream, self.slicer.take(), stalled_after).await?;
            if is_end {
                stream.shutdown().await?;
                return Ok(());
            }
            // Only now what their calls occupied is free again.
            batch.clear();
        }
    }

    fn slice(&mut self, message: &Outgoing) {
        match message {
            Outgoing::Answer { request, result: Ok(value), name, .. } => self.answer(*request, value, name.as_ref()),
            Outgoing::Answer { request, result: Err(failure), .. } => self.slicer.error(*request, &failure.to_value()),
            Outgoing::Call { request, clid, method, positional, named } => {
                let mut references = lock(&self.connection.0.references);
                let arguments = Arguments { positional, named };
                let announce = &mut |object: &_| references.announce(object, None);
                self.slicer.call(*request, *clid, method, &arguments, announce);
            }
            Outgoing::Ping => self.slicer.ping(0),
            Outgoing::Pong(number) => self.slicer.pong(*number),
            Outgoing::End { last_words: Some(text) } => self.slicer.last_words(text),
            Outgoing::End { last_words: None } => {}
        }
    }

    fn answer(&mut self, request: u64, value: &Value, name: Option<&Bytes>) {
        let mut references = lock(&self.connection.0.references);
        if !references.has_room(value.local_count()) {
            let failure = Failure::from(Violation::new("too many references on this connection"));
            return self.slicer.error(request, &failure.to_value());
        }
        let furl = |name: &Bytes| self.connection.furl(name);
        let announce = &mut |object: &_| references.announce(object, name.and_then(furl));
        self.slicer.answer(request, value, announce);
    }

    fn release(&mut self, clid: u64, count: u64) {
        let named = [("clid", Value::from(clid)), ("count", Value::from(count))];
        let arguments = Arguments { positional: &[], named: &named };
        let announce = &mut |_: &_| unreachable!("numbers only");
        self.slicer.call(0, 0, "decref", &arguments, announce);
    }
}

/// Writes all pieces, as many at once as the stream takes: each write is a TLS record and a system call.
async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    pieces: Vec<Bytes>,
    stalled_after: Duration,
) -> Result<(), ConnectionError> {
    let silent = |_| ConnectionError::Silent;
    let mut row = Row(pieces.into());
    while row.has_remaining() {
        let written = tokio::time::timeout(stalled_after, stream.write_buf(&mut row)).await.map_err(silent)??;
        if written == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
    }
    Ok(tokio::time::timeout(stalled_after, stream.flush()).await.map_err(silent)??)
}

/// Pieces one behind the other, none of them empty.
struct Row(VecDeque<Bytes>);

impl Buf for Row {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        for (slice, piece) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(piece);
        }
        slices.len().min(self.0.len())
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.0.front_mut().expect("no more than remains");
            let here = count.min(first.len());
            first.advance(here);
            count -= here;
            if first.is_empty() {
                self.0.pop_front();
            }
        }
    }
}
