//! The client's side: for tests, benchmarks and programs that look at servers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::call::{Call, Names, Referenceable};
use crate::connection::Connection;
use crate::failure::{Failure, Violation};
use crate::furl::TubId;
use crate::negotiation::{self, LastConnection};
use crate::schema::Interface;
use crate::tub::{NegotiationError, Tub, read_block};
use crate::value::Value;

/// Asks for an endpoint in clear text. Then the caller does TLS on the same stream.
///
/// # Errors
/// The server does not have it, or the network fails.
pub async fn request_upgrade(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    tub_id: &TubId,
    host: &str,
) -> Result<(), NegotiationError> {
    stream.write_all(negotiation::request(tub_id, host).as_bytes()).await?;
    stream.flush().await?;
    let block = read_block(stream, &mut BytesMut::new()).await?;
    negotiation::judge_upgrade(&block).map_err(NegotiationError::RefusedByPeer)
}

/// Begins a connection to a server whose tub id TLS has proven; see [`Tub::connect`].
///
/// # Errors
/// It does not come about.
pub async fn connect<S>(tub: &Arc<Tub>, stream: S, server: TubId) -> Result<Connection, NegotiationError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tub.connect(stream, server, LastConnection::None).await
}

/// An object without methods, which means only the connection that it came by.
#[derive(Debug, Default)]
pub struct Canary;

static CANARY: Interface = Interface { name: "", methods: &[] };

impl Canary {
    /// As an argument.
    pub fn value() -> Value {
        Value::from(Arc::new(Self) as Arc<dyn Referenceable>)
    }
}

impl Referenceable for Canary {
    fn interface(&self) -> &'static Interface {
        &CANARY
    }

    fn call(self: Arc<Self>, _: Call) -> BoxFuture<'static, Result<Value, Failure>> {
        std::future::ready(Err(Violation::new("no methods").into())).boxed()
    }
}

/// A client has no named objects.
pub(crate) struct NoNames;

impl Names for NoNames {
    fn find(&self, _: Bytes, _: &Connection) -> BoxFuture<'static, Result<Option<Arc<dyn Referenceable>>, Failure>> {
        std::future::ready(Ok(None)).boxed()
    }
}
