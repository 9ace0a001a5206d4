//! Statements with their parameters, and how sixteen bytes stand in a `uuid` column.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// A statement: constant text with the types of its parameters, so that it can be run unprepared in one round trip
/// where a transaction pooler stands in between.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) text: &'static str,
    pub(super) types: &'static [Type],
}

/// An owned parameter.
pub(super) type Param = Box<dyn ToSql + Sync + Send>;

/// A statement to run.
pub(super) struct Call {
    pub(super) sql: &'static Sql,
    pub(super) params: Vec<Param>,
}

/// Declares a statement: its name, the types of its parameters, its text.
macro_rules! sql {
    ($name:ident, [$($type:ident),*], $text:expr) => {
        pub(in crate::postgres) static $name: $crate::postgres::sql::Sql = $crate::postgres::sql::Sql {
            text: $text,
            types: &[$(tokio_postgres::types::Type::$type),*],
        };
    };
}

/// Puts a statement and its parameters together.
macro_rules! call {
    ($sql:ident $(, $param:expr)* $(,)?) => {
        $crate::postgres::sql::Call { sql: &$sql, params: vec![$(Box::new($param) as $crate::postgres::sql::Param),*] }
    };
}

pub(super) use {call, sql};

/// Sixteen bytes in a `uuid` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Uuid(pub(super) [u8; 16]);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::UUID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Uuid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::UUID
    }
}
