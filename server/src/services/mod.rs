//! What an account offers beside storage: which services it has, and how it stands (`decisions.md` 17).
//!
//! A service has a name and a path. Storage is one, the account itself another; more can join the list without touching
//! storage. Answers are CBOR or JSON, by `Accept`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use leasehold_core::accountant::Session;
use serde::Serialize;

use crate::frontend::body::ResponseBody;

/// Something that an account can use.
pub trait Service: Send + Sync {
    /// Its name, for programs.
    fn name(&self) -> &'static str;
    /// Where it is served.
    fn path(&self) -> &'static str;
    /// Whether this account may use it now.
    fn is_open_to(&self, session: &Session) -> bool;
}

struct Storage;

impl Service for Storage {
    fn name(&self) -> &'static str {
        "storage"
    }

    fn path(&self) -> &'static str {
        "/storage/v1"
    }

    fn is_open_to(&self, session: &Session) -> bool {
        session.account.state.may_read()
    }
}

struct Account;

impl Service for Account {
    fn name(&self) -> &'static str {
        "account"
    }

    fn path(&self) -> &'static str {
        "/account/v1"
    }

    fn is_open_to(&self, _: &Session) -> bool {
        true
    }
}

/// The services of this server.
pub struct Services(Vec<Box<dyn Service>>);

impl Default for Services {
    fn default() -> Self {
        Self(vec![Box::new(Storage), Box::new(Account)])
    }
}

#[derive(Serialize)]
struct ServiceList {
    services: Vec<ServiceEntry>,
}

#[derive(Serialize)]
struct ServiceEntry {
    name: &'static str,
    path: &'static str,
}

#[derive(Serialize)]
struct AccountStatus<'a> {
    name: &'a str,
    state: &'static str,
    used_bytes: u64,
    reserved_bytes: u64,
    shares: u64,
    quota_bytes: Option<u64>,
    lease_days: u32,
    /// Usage is exact from this time on; 0: always was; none: it is a lower bound at present.
    complete_since: Option<i64>,
    message: &'a str,
}

impl Services {
    /// `GET /services/v1`: the services that the account may use, with their paths.
    pub fn list(&self, session: &Session, headers: &HeaderMap) -> Response<ResponseBody> {
        let open = self.0.iter().filter(|service| service.is_open_to(session));
        let services = open.map(|service| ServiceEntry { name: service.name(), path: service.path() }).collect();
        respond(headers, &ServiceList { services })
    }

    /// `GET /account/v1`: what the account may do, uses, and may use.
    pub fn account(
        &self,
        session: &Session,
        complete_since: Option<i64>,
        headers: &HeaderMap,
    ) -> Response<ResponseBody> {
        let (account, usage) = (&session.account, &session.usage);
        let status = AccountStatus {
            name: &account.name,
            state: account.state.as_str(),
            used_bytes: usage.used_bytes,
            reserved_bytes: usage.reserved_bytes,
            shares: usage.shares,
            quota_bytes: account.quota_bytes,
            lease_days: account.lease_days,
            complete_since,
            message: &account.message,
        };
        respond(headers, &status)
    }
}

fn respond(headers: &HeaderMap, value: &impl Serialize) -> Response<ResponseBody> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let (kind, body): (&str, Bytes) = if accept.contains("application/cbor") {
        let mut body = Vec::new();
        ciborium::into_writer(value, &mut body).expect("memory takes everything");
        ("application/cbor", body.into())
    } else {
        ("application/json", serde_json::to_vec(value).expect("plain values").into())
    };
    let mut response = Response::new(ResponseBody::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).expect("a literal"));
    response
}
