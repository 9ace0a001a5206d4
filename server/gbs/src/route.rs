//! Which endpoint a method and path mean. Pure; knows every path of the protocol and none besides.

use http::Method;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::share::ShareKind;

use crate::auth::Secret;

/// An endpoint with what its path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /storage/v1/version`
    Version,
    /// `PUT /storage/v1/lease/SI`
    Lease(StorageIndex),
    /// `POST /storage/v1/immutable/SI`
    Allocate(StorageIndex),
    /// `PATCH /storage/v1/immutable/SI/SHARE`
    Write(ShareId),
    /// `PUT /storage/v1/immutable/SI/SHARE/abort`
    Abort(ShareId),
    /// `GET /storage/v1/KIND/SI/shares`
    List(ShareKind, StorageIndex),
    /// `GET /storage/v1/KIND/SI/SHARE`
    Read(ShareKind, ShareId),
    /// `POST /storage/v1/mutable/SI/read-test-write`
    ReadTestWrite(StorageIndex),
    /// `POST /storage/v1/KIND/SI/SHARE/corrupt`
    Corrupt(ShareKind, ShareId),
    /// `GET /services/v1`
    Services,
    /// `GET /account/v1`
    Account,
}

/// A path or method that the protocol does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// 404.
    NotFound,
    /// 405, with what is allowed.
    MethodNotAllowed(&'static str),
}

/// What a request does, as far as it matters to others who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Asks for the version: clients drop a server that does not answer it at once.
    Version,
    /// Changes nothing.
    Read,
    /// Changes something.
    Write,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Version, Self::Read, Self::Write];

    /// The class as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// An endpoint as it is counted: its method, and what it answers when all is well.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Its name.
    pub name: &'static str,
    /// Its method.
    pub method: &'static str,
    /// Its good statuses.
    pub statuses: &'static [u16],
}

const fn counted(name: &'static str, method: &'static str, statuses: &'static [u16]) -> Counted {
    Counted { name, method, statuses }
}

/// All endpoints, to be counted from the start.
pub const ENDPOINTS: [Counted; 11] = [
    counted("version", "GET", &[200]),
    counted("lease", "PUT", &[204]),
    counted("allocate", "POST", &[200]),
    counted("write", "PATCH", &[200, 201]),
    counted("abort", "PUT", &[200]),
    counted("list", "GET", &[200]),
    counted("read", "GET", &[200, 206]),
    counted("read_test_write", "POST", &[200]),
    counted("corrupt", "POST", &[200]),
    counted("services", "GET", &[200]),
    counted("account", "GET", &[200]),
];

impl Endpoint {
    /// Whether the endpoint reads or writes.
    pub const fn class(&self) -> Class {
        match self {
            Self::Version => Class::Version,
            Self::List(..) | Self::Read(..) | Self::Services | Self::Account => Class::Read,
            Self::Lease(_)
            | Self::Allocate(_)
            | Self::Write(_)
            | Self::Abort(_)
            | Self::ReadTestWrite(_)
            | Self::Corrupt(..) => Class::Write,
        }
    }

    /// The endpoint's name in metrics and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Lease(_) => "lease",
            Self::Allocate(_) => "allocate",
            Self::Write(_) => "write",
            Self::Abort(_) => "abort",
            Self::List(..) => "list",
            Self::Read(..) => "read",
            Self::ReadTestWrite(_) => "read_test_write",
            Self::Corrupt(..) => "corrupt",
            Self::Services => "services",
            Self::Account => "account",
        }
    }

    /// The secrets a request must carry: all of these and no other (`gbs.md` 4.2).
    pub const fn secrets(&self) -> &'static [Secret] {
        match self {
            Self::Allocate(_) => &[Secret::LeaseRenew, Secret::LeaseCancel, Secret::Upload],
            Self::Write(_) | Self::Abort(_) => &[Secret::Upload],
            Self::Lease(_) => &[Secret::LeaseRenew, Secret::LeaseCancel],
            Self::ReadTestWrite(_) => &[Secret::WriteEnabler, Secret::LeaseRenew, Secret::LeaseCancel],
            Self::Version | Self::List(..) | Self::Read(..) | Self::Corrupt(..) => &[],
            Self::Services | Self::Account => &[],
        }
    }
}

/// Finds the endpoint.
///
/// # Errors
/// [`RouteError`] with the answer that an unknown path or a wrong method gets, before anything else is looked at.
pub fn route(method: &Method, path: &str) -> Result<Endpoint, RouteError> {
    let mut parts = [""; 6];
    let mut count = 0;
    for part in path.strip_prefix('/').ok_or(RouteError::NotFound)?.split('/') {
        *parts.get_mut(count).ok_or(RouteError::NotFound)? = part;
        count += 1;
    }
    let get = |endpoint| only(method, &[Method::GET, Method::HEAD], "GET, HEAD", endpoint);
    let post = |endpoint| only(method, &[Method::POST], "POST", endpoint);
    let put = |endpoint| only(method, &[Method::PUT], "PUT", endpoint);
    match &parts[..count] {
        ["storage", "v1", "version"] => get(Endpoint::Version),
        ["storage", "v1", "lease", index] => put(Endpoint::Lease(storage_index(index)?)),
        ["storage", "v1", "immutable", index] => post(Endpoint::Allocate(storage_index(index)?)),
        ["storage", "v1", "mutable", index, "read-test-write"] => post(Endpoint::ReadTestWrite(storage_index(index)?)),
        ["storage", "v1", kind, index, "shares"] => get(Endpoint::List(share_kind(kind)?, storage_index(index)?)),
        ["storage", "v1", kind, index, share] => {
            let (kind, share) = (share_kind(kind)?, share_id(index, share)?);
            match kind {
                ShareKind::Immutable if *method == Method::PATCH => Ok(Endpoint::Write(share)),
                ShareKind::Immutable => {
                    only(method, &[Method::GET, Method::HEAD], "GET, HEAD, PATCH", Endpoint::Read(kind, share))
                }
                ShareKind::Mutable => get(Endpoint::Read(kind, share)),
            }
        }
        ["storage", "v1", "immutable", index, share, "abort"] => put(Endpoint::Abort(share_id(index, share)?)),
        ["storage", "v1", kind, index, share, "corrupt"] => {
            post(Endpoint::Corrupt(share_kind(kind)?, share_id(index, share)?))
        }
        ["services", "v1"] => get(Endpoint::Services),
        ["account", "v1"] => get(Endpoint::Account),
        _ => Err(RouteError::NotFound),
    }
}

fn only(method: &Method, allowed: &[Method], allow: &'static str, endpoint: Endpoint) -> Result<Endpoint, RouteError> {
    if allowed.contains(method) { Ok(endpoint) } else { Err(RouteError::MethodNotAllowed(allow)) }
}

fn share_kind(text: &str) -> Result<ShareKind, RouteError> {
    match text {
        "immutable" => Ok(ShareKind::Immutable),
        "mutable" => Ok(ShareKind::Mutable),
        _ => Err(RouteError::NotFound),
    }
}

fn storage_index(text: &str) -> Result<StorageIndex, RouteError> {
    text.parse().map_err(|_| RouteError::NotFound)
}

fn share_id(index: &str, number: &str) -> Result<ShareId, RouteError> {
    let index = storage_index(index)?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| digits).ok_or(RouteError::NotFound)?;
    let number = ShareNumber::try_from(number).map_err(|_| RouteError::NotFound)?;
    Ok(ShareId::new(index, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INDEX: &str = "wiz5vfusee77o2teltymekc76e";

    #[test]
    fn paths_and_methods() {
        let not_found = Err(RouteError::NotFound);
        for path in ["", "/", "/storage/v1/nothing", "/storage/v1/version/", "/id/", "/storage/v1/lease/WIZ", "x"] {
            assert_eq!(route(&Method::GET, path), not_found, "{path}");
        }
        assert!(matches!(route(&Method::DELETE, "/storage/v1/version"), Err(RouteError::MethodNotAllowed(_))));
        assert_eq!(route(&Method::HEAD, "/storage/v1/version"), Ok(Endpoint::Version));
        let share = |number| ShareId::new(INDEX.parse().expect("valid"), ShareNumber::new(number));
        let path = |tail: &str| format!("/storage/v1/immutable/{INDEX}/{tail}");
        assert_eq!(route(&Method::PATCH, &path("007")), Ok(Endpoint::Write(share(7))));
        for tail in ["256", "-1", "+1", "", "1a", "99999999999999999999999", "1/abort/x"] {
            assert_eq!(route(&Method::GET, &path(tail)), not_found, "{tail}");
        }
        assert_eq!(route(&Method::PUT, &path("1/abort")), Ok(Endpoint::Abort(share(1))));
        let mutable = format!("/storage/v1/mutable/{INDEX}/1");
        assert!(matches!(route(&Method::PATCH, &mutable), Err(RouteError::MethodNotAllowed(_))));
    }

    #[test]
    fn every_endpoint_is_counted_under_its_name() {
        let of_share = format!("/storage/v1/immutable/{INDEX}/1");
        let paths = [
            "/storage/v1/version".to_owned(),
            format!("/storage/v1/lease/{INDEX}"),
            format!("/storage/v1/immutable/{INDEX}"),
            of_share.clone(),
            format!("{of_share}/abort"),
            format!("/storage/v1/immutable/{INDEX}/shares"),
            of_share.clone(),
            format!("/storage/v1/mutable/{INDEX}/read-test-write"),
            format!("{of_share}/corrupt"),
            "/services/v1".to_owned(),
            "/account/v1".to_owned(),
        ];
        for (counted, path) in ENDPOINTS.iter().zip(paths) {
            let method: Method = counted.method.parse().expect("a method");
            assert_eq!(route(&method, &path).map(|endpoint| endpoint.name()), Ok(counted.name), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "\\PC{0,120}") {
            let _ = route(&Method::GET, &path);
        }
    }
}
