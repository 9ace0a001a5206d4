//! What a front end sees of a call: objects that can be called, and their calls.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::connection::Connection;
use crate::failure::{Failure, Violation};
use crate::memory::Held;
use crate::schema::Interface;
use crate::value::Value;

/// An object that the other side can call.
pub trait Referenceable: Send + Sync + 'static {
    /// Its methods.
    fn interface(&self) -> &'static Interface;

    /// Which earlier calls must have ended before this one begins. Clients write without waiting for answers and rely on the
    /// order of what they send to one object.
    fn turn(&self, _call: &Call) -> Turn {
        Turn::Object
    }

    /// Runs a call. It is not cancelled when the connection ends; its answer is dropped then.
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Value, Failure>>;
}

/// Finds objects by their names.
pub trait Names: Send + Sync + 'static {
    /// The object of a name, which is a secret. `None` is answered as the protocol does it. An object that is given
    /// again keeps its number while the client holds it.
    fn find(
        &self,
        name: Bytes,
        connection: &Connection,
    ) -> BoxFuture<'static, Result<Option<Arc<dyn Referenceable>>, Failure>>;
}

/// Which earlier calls must have ended before a call begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// None.
    Free,
    /// All of the same object that say the same.
    Object,
    /// All of the same object that say the same key.
    Key(Bytes),
}

/// A call that fits its method.
#[derive(Debug)]
pub struct Call {
    pub(crate) method: &'static str,
    pub(crate) arguments: Vec<Value>,
    pub(crate) connection: Connection,
    pub(crate) held: Arc<Held>,
}

impl Call {
    /// The name of the method.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// A value for each argument of the method, in its order.
    pub fn arguments(&self) -> &[Value] {
        &self.arguments
    }

    /// Takes the arguments out.
    ///
    /// # Errors
    /// The method has another number of them.
    pub fn take<const N: usize>(&mut self) -> Result<[Value; N], Violation> {
        let arguments = std::mem::take(&mut self.arguments);
        arguments.try_into().map_err(|_| Violation::new("wrong number of arguments"))
    }

    /// Where the call came from.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes memory for a large answer from what all connections share, until the answer is sent. Waits for it, unless the
    /// call holds some already.
    ///
    /// # Errors
    /// There is not so much.
    pub async fn reserve(&self, bytes: u64) -> Result<(), Failure> {
        Ok(self.held.reserve(bytes).await?)
    }
}
