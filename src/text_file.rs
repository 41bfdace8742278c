//! Files that the configuration names and that are read again for each use, as they may change at any time: passwords,
//! tokens, certificates, keys.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;

/// The longest password or token, in bytes: an endless file such as /dev/zero must not block its reader.
const LONGEST_SECRET: u64 = 4096;

/// The password or token in `file`, which messages call `what`, without the line end; `None` without a file.
pub async fn secret(what: &str, file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = contents(what, file, LONGEST_SECRET).await?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The text in `file`, which messages call `what`, of at most `longest` bytes.
pub async fn contents(what: &str, file: &Path, longest: u64) -> Result<String, String> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(file).await?;
        file.take(longest + 1).read_to_string(&mut text).await?;
        if text.len() as u64 > longest {
            return Err(io::Error::other(format!("it has more than {longest} bytes")));
        }
        io::Result::Ok(text)
    };
    read.await.map_err(|error| {
        let file = file.display();
        format!(
            "the {what} {file} cannot be read: {error}; make it readable for the user that Pointsman runs as"
        )
    })
}
