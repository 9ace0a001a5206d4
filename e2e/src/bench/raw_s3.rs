//! What the object store itself does, without any server of ours: signed requests for objects, one after
//! another on kept connections.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e_services::Minio;
use leasehold_e2e_services::http1::{Head, read_content};

/// The size of an object that is a piece of a large share.
const OBJECT_BYTES: usize = 1 << 20;
/// The size of an object that is a small share.
const SMALL_BYTES: usize = 1 << 10;
/// Objects that are read.
const READ_OBJECTS: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(60);

/// What to do with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// Write new ones.
    Put,
    /// Write new ones of 1 KiB.
    PutSmall,
    /// Read what [`prepare`] has written.
    Get,
}

/// Writes the objects that [`Direct::Get`] reads.
///
/// # Errors
/// If the store refuses one.
pub fn prepare(store: &'static Minio, bucket: &str) -> Result<()> {
    let mut connection = Connection::open(store)?;
    let data = vec![0x5a; OBJECT_BYTES];
    (0..READ_OBJECTS).try_for_each(|number| connection.request("PUT", &read_name(bucket, number), &data).map(drop))
}

/// The rate of one kind of request with so many at once, in requests a second. New objects have `run` in their names,
/// so it must be another number each time.
///
/// # Errors
/// If the store refuses one.
pub fn rate(
    store: &'static Minio,
    bucket: &str,
    direct: Direct,
    run: u64,
    workers: usize,
    warm_up: Duration,
    window: Duration,
) -> Result<f64> {
    let start = Instant::now() + warm_up;
    let end = start + window;
    let threads: Vec<_> = (0..workers)
        .map(|worker| {
            let bucket = bucket.to_owned();
            thread::spawn(move || -> Result<u64> {
                let mut connection = Connection::open(store)?;
                let data = vec![0x5a; if direct == Direct::PutSmall { SMALL_BYTES } else { OBJECT_BYTES }];
                let mut counted = 0;
                for number in 0.. {
                    match direct {
                        Direct::Put | Direct::PutSmall => {
                            let name = format!("/{bucket}/direct/{run:016x}/{worker}/{number}");
                            connection.request("PUT", &name, &data)?;
                        }
                        Direct::Get => {
                            let name = read_name(&bucket, (worker * 7 + number) % READ_OBJECTS);
                            let body = connection.request("GET", &name, b"")?;
                            ensure!(body.len() == OBJECT_BYTES, "an object of {} bytes", body.len());
                        }
                    }
                    let now = Instant::now();
                    counted += u64::from(now >= start && now < end);
                    if now >= end {
                        break;
                    }
                }
                Ok(counted)
            })
        })
        .collect();
    let mut counted = 0;
    for thread in threads {
        counted += thread.join().expect("a thread of requests does not panic")?;
    }
    Ok(counted as f64 / window.as_secs_f64())
}

fn read_name(bucket: &str, number: usize) -> String {
    format!("/{bucket}/direct/read/{number}")
}

/// A connection to the store that carries one request after another.
struct Connection {
    store: &'static Minio,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(store: &'static Minio) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&store.address(), TIMEOUT).context("connect to the object store")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { store, reader: BufReader::with_capacity(128 << 10, stream) })
    }

    fn request(&mut self, method: &str, name: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut head = Head::new(format!("{method} {name} HTTP/1.1"));
        head.push("host", self.store.address().to_string());
        head.push("content-length", body.len().to_string());
        self.store.credentials().sign(&mut head, body)?;
        let mut stream = self.reader.get_ref();
        head.write_to(&mut stream)?;
        stream.write_all(body)?;
        let answer = Head::read(&mut self.reader)?.context("the object store hung up")?;
        let content = read_content(&mut self.reader, answer.response_framing(method)?)?;
        ensure!(answer.status() == 200, "{method} of an object: {}", answer.first);
        Ok(content)
    }
}
