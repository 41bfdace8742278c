//! A minimal PostgreSQL server: it requests a password by one method, and answers one query.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use sha2::{Digest, Sha256};

/// The authentication method that the server requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// No authentication.
    Nothing,
    /// The password in clear.
    Clear,
    /// An MD5 hash.
    Md5,
    /// SCRAM-SHA-256; the server proves that it knows this password.
    Scram(&'static str),
}

/// Serves one connection: authenticates the client, and answers its query with these messages. Returns the client's bytes
/// after its first message.
pub fn serve(stream: &mut TcpStream, method: AuthMethod, answer: &[u8]) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(super::TIME_LIMIT))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4])?;
    serve_after_startup(stream, method, answer)
}

/// The same after the client's first message.
pub fn serve_after_startup(
    stream: &mut (impl Read + Write),
    method: AuthMethod,
    answer: &[u8],
) -> io::Result<Vec<u8>> {
    let mut sent = Vec::new();
    match method {
        AuthMethod::Nothing => {}
        AuthMethod::Clear => {
            stream.write_all(&request(3, b""))?;
            sent.extend(read(stream)?.1);
        }
        AuthMethod::Md5 => {
            stream.write_all(&request(5, b"salt"))?;
            sent.extend(read(stream)?.1);
        }
        AuthMethod::Scram(password) => sent.extend(scram(stream, password)?),
    }
    stream.write_all(&[request(0, b""), message(b'Z', b"I")].concat())?;
    sent.extend(read(stream)?.1);
    stream.write_all(answer)?;
    // Until Terminate.
    sent.push(read(stream)?.0);
    Ok(sent)
}

/// A row with one column.
pub fn row(value: &[u8]) -> Vec<u8> {
    let length = (value.len() as u32).to_be_bytes();
    message(b'D', &[b"\0\x01", &length[..], value].concat())
}

/// The answer of a primary.
pub fn primary() -> Vec<u8> {
    in_recovery(b"f")
}

/// The answer to the query whether the server is in recovery: `t` for a standby, `f` for a primary.
pub fn in_recovery(answer: &[u8]) -> Vec<u8> {
    [message(b'T', b"\0\0"), row(answer), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

/// A message.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn request(number: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&number.to_be_bytes()[..], data].concat())
}

fn read(stream: &mut (impl Read + Write)) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

/// The server's side of RFC 7677; it accepts any proof.
fn scram(stream: &mut (impl Read + Write), password: &str) -> io::Result<Vec<u8>> {
    const ROUNDS: u32 = 16;
    stream.write_all(&request(10, b"SCRAM-SHA-256\0\0"))?;
    let mut sent = read(stream)?.1;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let first = text(&sent);
    let nonce = first.split_once("r=").unwrap().1.to_owned();
    // `salt` in base64.
    let challenge = format!("r={nonce}server,s=c2FsdA==,i={ROUNDS}");
    stream.write_all(&request(11, challenge.as_bytes()))?;
    let last = read(stream)?.1;
    let without_proof = text(&last).split_once(",p=").unwrap().0.to_owned();
    let authenticated = format!("n=,r={nonce},{challenge},{without_proof}");
    let mut salted = hmac(password.as_bytes(), b"salt\0\0\0\x01");
    let mut round = salted;
    for _ in 1..ROUNDS {
        round = hmac(password.as_bytes(), &round);
        salted.iter_mut().zip(round).for_each(|(all, one)| *all ^= one);
    }
    let signature = hmac(&hmac(&salted, b"Server Key"), authenticated.as_bytes());
    stream.write_all(&request(12, format!("v={}", base64(&signature)).as_bytes()))?;
    sent.extend(last);
    Ok(sent)
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::digest([&pad(0x36)[..], text].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).into()
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain(&[0, 0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
