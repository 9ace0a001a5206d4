//! What a server of PostgreSQL says of itself, and how far its schema is: for those who look after databases.

use leasehold_core::leasedb::{LeaseDbError, Result};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::PgOptions;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgFacts {
    /// PostgreSQL's version, such as `17.6`.
    pub server_version: String,
    /// PostgreSQL's `max_connections`.
    pub connections_max: u32,
    /// Whether it takes no writes: a standby, or a primary that was replaced.
    pub read_only: bool,
    /// The version of the schema; `None` if there is none, or none that this role may see.
    pub schema_version: Option<u32>,
}

/// Asks over one connection, outside any pool.
///
/// # Errors
/// It cannot be reached, or does not answer.
pub async fn facts(options: &PgOptions) -> Result<PgFacts> {
    let asked = tokio::time::timeout(options.connect_timeout + options.statement_timeout, ask(options)).await;
    asked.unwrap_or_else(|_| Err(LeaseDbError::Unavailable("the server does not answer in time".into())))
}

async fn ask(options: &PgOptions) -> Result<PgFacts> {
    let unavailable = |error: tokio_postgres::Error| LeaseDbError::Unavailable(Box::new(error));
    let client = options.connect_once().await?;
    let settings = "SELECT current_setting('server_version'), current_setting('max_connections'), \
                    current_setting('transaction_read_only')";
    let settings = client.simple_query(settings).await.map_err(unavailable)?;
    let text = |column: usize| first(&settings, column).unwrap_or_default().to_owned();
    let version = format!("SELECT max(version) FROM \"{}\".leasehold_migrations", options.schema);
    let schema_version = match client.simple_query(&version).await {
        Ok(rows) => first(&rows, 0).and_then(|version| version.parse().ok()),
        Err(error) if error.code().is_some_and(is_out_of_sight) => None,
        Err(error) => return Err(unavailable(error)),
    };
    Ok(PgFacts {
        server_version: text(0).split_whitespace().next().unwrap_or_default().to_owned(),
        connections_max: text(1).parse().unwrap_or_default(),
        read_only: text(2) == "on",
        schema_version,
    })
}

fn is_out_of_sight(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE].contains(code)
}

fn first(answer: &[SimpleQueryMessage], column: usize) -> Option<&str> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(column),
        _ => None,
    })
}
