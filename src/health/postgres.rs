//! The PostgreSQL check: the server lets us in, and has the role wanted, by its own word (`pg_is_in_recovery()`,
//! <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-INFO-TABLE>).

use std::error::Error as _;
use std::net::SocketAddr;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use super::{CheckError, password, tcp, without};
use crate::config::{PostgresCheck, Role};

pub(super) async fn check(address: SocketAddr, wanted: &PostgresCheck) -> Result<(), CheckError> {
    let password = password(wanted.password_file.as_deref()).await?;
    let mut login = Config::new();
    login.user(&wanted.user).dbname(&wanted.database).application_name("pointsman");
    if let Some(password) = &password {
        login.password(password);
    }
    let failed = |what: String| {
        CheckError::from(format!("postgres on {address}: {}", without(password.as_deref(), &what)))
    };
    let stream = tcp::connect(address).await?;
    let (client, connection) =
        login.connect_raw(stream, NoTls).await.map_err(|error| failed(explain(&error)))?;
    // The connection ends when the client is dropped, with a proper farewell: the server's log stays quiet.
    let (answer, end) = tokio::join!(in_recovery(client), connection);
    let role = match answer {
        Ok(Some(true)) => Role::Replica,
        Ok(Some(false)) => Role::Primary,
        Ok(None) => return Err(failed("pg_is_in_recovery() is answered with neither t nor f".to_owned())),
        // What ended the connection says more than that it ended.
        Err(error) => return Err(failed(explain(&end.err().unwrap_or(error)))),
    };
    match wanted.role {
        Role::Any => Ok(()),
        wanted if wanted == role => Ok(()),
        Role::Primary => Err(failed("it is a standby, not the primary".to_owned())),
        Role::Replica => Err(failed("it is the primary, not a standby".to_owned())),
    }
}

/// `None`: the answer is not a truth value.
async fn in_recovery(client: Client) -> Result<Option<bool>, Error> {
    let messages = client.simple_query("SELECT pg_is_in_recovery()").await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => match row.get(0)? {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        },
        _ => None,
    }))
}

/// An error in words, the server's own where there are any, with what to do about it.
fn explain(error: &Error) -> String {
    if let Some(theirs) = error.as_db_error() {
        let hint = match *theirs.code() {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                "; look at the check's user and password_file, and at the server's pg_hba.conf"
            }
            SqlState::TOO_MANY_CONNECTIONS => {
                "; clients find no room either, or let the check's user have a reserved connection"
            }
            _ => "",
        };
        return format!("{}: {}{hint}", theirs.severity(), theirs.message());
    }
    match error.source() {
        Some(cause) if cause.to_string() == "password missing" => {
            "it asks for a password, and the check has no password_file".to_owned()
        }
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
