//! Sentinels: servers that know which of several servers is the master now.
//!
//! Every attempt to connect asks anew, so that a broken connection leads to whoever is the master by then. What a
//! sentinel says can be old: a server counts only if it says itself that it is a master.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError};

/// The port of a sentinel that is named without one.
pub(crate) const PORT_DEFAULT: u16 = 26_379;

/// Some sentinels and the name under which they know the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sentinels {
    pub(crate) addresses: Vec<(String, u16)>,
    pub(crate) master: String,
}

impl Sentinels {
    /// Where the master is, by the first sentinel that answers within `timeout` and knows it.
    pub(crate) async fn master(&self, timeout: Duration) -> Result<ConnectionAddr, RedisError> {
        let mut last = error("no sentinel is named");
        for address in &self.addresses {
            match tokio::time::timeout(timeout, ask(address, &self.master)).await {
                Ok(Ok(Some((host, port)))) => return Ok(ConnectionAddr::Tcp(host, port)),
                Ok(Ok(None)) => last = error("a sentinel does not know the master of that name"),
                Ok(Err(fault)) => last = fault,
                Err(_) => last = error("a sentinel did not answer in time"),
            }
        }
        Err(last)
    }
}

async fn ask((host, port): &(String, u16), master: &str) -> Result<Option<(String, u16)>, RedisError> {
    let info = (host.as_str(), *port).into_connection_info()?;
    // The caller's limit is for all of it.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection =
        redis::Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
    redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).query_async(&mut connection).await
}

/// Refuses a server that is no master, whatever a sentinel said: one that was deposed while it was away is called
/// the master for some seconds more.
pub(crate) async fn check_role(
    connection: &mut MultiplexedConnection,
    timeout: Duration,
) -> Result<(), RedisError> {
    let role = redis::cmd("ROLE");
    let answer = tokio::time::timeout(timeout, connection.send_packed_command(&role)).await;
    let redis::Value::Array(role) = answer.map_err(|_| error("the master did not answer in time"))?? else {
        return Err(error("the master does not say what it is"));
    };
    match role.first() {
        Some(redis::Value::BulkString(word)) if word == b"master" => Ok(()),
        _ => Err(error("the server that a sentinel names is no master")),
    }
}

fn error(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Client, what))
}
