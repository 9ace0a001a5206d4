//! The proxy before a real MinIO.

use std::io::Write;
use std::time::Instant;

use anyhow::Context;

use super::*;
use crate::http1::{Response, read_content};

struct Bucket {
    minio: &'static Minio,
    proxy: S3Proxy,
    name: &'static str,
}

impl Bucket {
    fn new(name: &'static str) -> Result<Self> {
        let minio = Minio::shared()?;
        minio.make_bucket(name)?;
        Ok(Self { minio, proxy: S3Proxy::start(minio)?, name })
    }

    fn call(&self, method: &str, key: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        self.minio.request_at(self.proxy.address(), method, &format!("/{}/{key}", self.name), headers, body)
    }

    fn put(&self, key: &str, body: &[u8]) -> Result<Response> {
        self.call("PUT", key, &[], body)
    }

    fn get(&self, key: &str) -> Result<Response> {
        self.call("GET", key, &[], b"")
    }

    fn list(&self) -> Result<String> {
        let target = format!("/{}?list-type=2&prefix=", self.name);
        Ok(self.minio.request_at(self.proxy.address(), "GET", &target, &[], b"")?.text())
    }

    /// What the server has, past the proxy.
    fn stored(&self, key: &str) -> Result<u16> {
        Ok(self.minio.request("HEAD", &format!("/{}/{key}", self.name), &[], b"")?.status())
    }

    fn rule(&self, operation: Operation, fault: Fault) {
        self.proxy.add_rule(Rule::new(operation, When::Nth(1), fault));
    }
}

#[test]
fn calls_pass_unchanged_and_are_counted() -> Result<()> {
    let bucket = Bucket::new("proxy-plain")?;
    let body = vec![7; 3 << 20];
    assert_eq!(bucket.put("a/b", &body)?.status(), 200);
    assert_eq!(bucket.get("a/b")?.body, body);
    assert_eq!(bucket.call("HEAD", "a/b", &[], b"")?.status(), 200);
    assert!(bucket.list()?.contains("<Key>a/b</Key>"));
    assert_eq!(bucket.call("DELETE", "a/b", &[], b"")?.status(), 204);
    let counts = bucket.proxy.counts();
    for operation in [Operation::Put, Operation::Get, Operation::Head, Operation::List, Operation::Delete] {
        assert_eq!(counts.of(operation), 1, "{operation:?}");
    }
    assert_eq!((counts.request_bytes, counts.faults), (3 << 20, 0));
    Ok(())
}

#[test]
fn kept_connection_carries_one_call_after_another() -> Result<()> {
    let bucket = Bucket::new("proxy-kept")?;
    let mut stream = TcpStream::connect(bucket.proxy.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let calls: [(&str, &[u8]); 5] = [("PUT", b"content"), ("HEAD", b""), ("GET", b""), ("DELETE", b""), ("GET", b"")];
    bucket.rule(Operation::Delete, Fault::INTERNAL_ERROR);
    for (method, body) in calls {
        let mut head = Head::new(format!("{method} /{}/a HTTP/1.1", bucket.name));
        head.push("host", bucket.proxy.address().to_string());
        head.push("content-length", body.len().to_string());
        head.push("expect", "100-continue");
        bucket.minio.credentials().sign(&mut head, body)?;
        head.write_to(&mut stream)?;
        stream.write_all(body)?;
    }
    let mut reader = BufReader::new(&stream);
    let mut answers = Vec::new();
    while answers.len() < calls.len() {
        let head = Head::read(&mut reader)?.context("the proxy hung up")?;
        if head.status() >= 200 {
            let framing = head.response_framing(calls[answers.len()].0)?;
            answers.push((head.status(), read_content(&mut reader, framing)?));
        }
    }
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 500, 200]);
    assert_eq!(answers[4].1, b"content");
    assert_eq!(bucket.proxy.counts().connections, 1);
    Ok(())
}

#[test]
fn refused_calls_do_not_reach_the_server() -> Result<()> {
    let bucket = Bucket::new("proxy-refuse")?;
    bucket.rule(Operation::Put, Fault::SLOW_DOWN);
    let refused = bucket.put("a", b"x")?;
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("<Code>SlowDown</Code>"));
    bucket.rule(Operation::Put, Fault::ResetBefore);
    assert!(bucket.put("a", b"x").is_err());
    assert_eq!(bucket.stored("a")?, 404);
    assert_eq!(bucket.put("a", b"x")?.status(), 200);
    Ok(())
}

#[test]
fn put_whose_answer_is_lost_took_effect() -> Result<()> {
    let bucket = Bucket::new("proxy-after")?;
    bucket.rule(Operation::Put, Fault::ResetAfter);
    assert!(bucket.put("a", b"x").is_err());
    assert_eq!(bucket.stored("a")?, 200);
    Ok(())
}

#[test]
fn cut_request_stores_nothing() -> Result<()> {
    let bucket = Bucket::new("proxy-cut")?;
    bucket.rule(Operation::Put, Fault::CutRequest { bytes: 100_000 });
    assert!(bucket.put("a", &vec![1; 200_000]).is_err());
    assert_eq!(bucket.stored("a")?, 404);
    Ok(())
}

#[test]
fn bodies_arrive_cut_short_and_changed() -> Result<()> {
    let bucket = Bucket::new("proxy-bodies")?;
    let body: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    bucket.put("a", &body)?;
    bucket.rule(Operation::Get, Fault::CutResponse { bytes: 150_000 });
    assert!(bucket.get("a").is_err());
    bucket.rule(Operation::Get, Fault::ShortenResponse { bytes: 150_000 });
    assert_eq!(bucket.get("a")?.body, body[..150_000]);
    bucket.rule(Operation::Get, Fault::FlipByte { at: 123_456 });
    let changed = bucket.get("a")?.body;
    let differences: Vec<usize> = (0..body.len()).filter(|&at| body[at] != changed[at]).collect();
    assert_eq!(differences, [123_456]);
    assert_eq!(bucket.get("a")?.body, body);
    Ok(())
}

#[test]
fn delayed_and_stalled_answers_come_late_but_whole() -> Result<()> {
    let bucket = Bucket::new("proxy-late")?;
    let body = vec![3; 100_000];
    bucket.put("a", &body)?;
    let time = Duration::from_millis(200);
    for fault in [Fault::Delay(time), Fault::Stall(time)] {
        bucket.rule(Operation::Get, fault);
        let begin = Instant::now();
        assert_eq!(bucket.get("a")?.body, body);
        assert!(begin.elapsed() >= time);
    }
    Ok(())
}

#[test]
fn ignored_conditions_let_a_second_put_win() -> Result<()> {
    let bucket = Bucket::new("proxy-conditions")?;
    let put = |body| bucket.call("PUT", "a", &[("if-none-match", "*")], body);
    assert_eq!((put(b"1")?.status(), put(b"2")?.status()), (200, 412));
    bucket.rule(Operation::Put, Fault::IgnoreConditions);
    assert_eq!(put(b"3")?.status(), 200);
    assert_eq!(bucket.get("a")?.body, b"3");
    Ok(())
}

#[test]
fn stale_listing_shows_the_past() -> Result<()> {
    let bucket = Bucket::new("proxy-stale")?;
    bucket.put("old", b"x")?;
    bucket.proxy.snapshot_listing(bucket.minio, bucket.name)?;
    bucket.put("new", b"x")?;
    bucket.call("DELETE", "old", &[], b"")?;
    bucket.rule(Operation::List, Fault::StaleListing);
    let stale = bucket.list()?;
    assert!(stale.contains("<Key>old</Key>") && !stale.contains("<Key>new</Key>"), "{stale}");
    let fresh = bucket.list()?;
    assert!(fresh.contains("<Key>new</Key>") && !fresh.contains("<Key>old</Key>"), "{fresh}");
    Ok(())
}
